"""The files of a run folder that are shown to others: its own, and pictures that are pictures."""

import os
from io import BytesIO
from pathlib import Path

from PIL import Image

from rl_unlearn.errors import DataError

MAX_BYTES = 2**25
MAX_PIXELS = 50_000_000


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file in a run folder, whether it is there or not.

    Raises DataError if it is a link that leads out of the folder, which itself may be one, or no
    plain file: what a page shows is what the run wrote.
    """
    path = folder / name
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        raise DataError(
            f"{path} leads out of the run folder: put the file itself there, or remove the link"
        )
    if os.path.lexists(path) and not path.is_file():
        raise DataError(f"{path} is no file: put back what the run wrote, or remove it")
    return path


def picture(path: Path) -> tuple[bytes, Image.Image] | None:
    """Returns a PNG file's bytes and its picture, or None where there is no file.

    Raises DataError if it is none, or a huge one.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
            return content, image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is no readable PNG picture ({error}): make it again, or remove it"
        ) from error
