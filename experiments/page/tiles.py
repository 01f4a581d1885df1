"""The before/after tiles of a run as data URIs, cut from the two sheets that the run wrote."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from experiments.samples import Sheet
from rl_unlearn.errors import DataError

SMALL = 128
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Tile:
    """One prompt at one seed, twice."""

    prompt: str
    seed: int
    column: str
    before: str
    after: str


@dataclass(frozen=True)
class Row:
    """Tiles of one concept."""

    label: str
    target: bool
    tiles: list[Tile]


def read(folder: Path) -> list[Row]:
    """Rows of a run's `samples/` folder, none if it has no such folder; DataError if it is damaged."""
    if not (folder / Sheet.WORDS).is_file():
        return []
    try:
        sheet = Sheet.model_validate_json((folder / Sheet.WORDS).read_text(encoding="utf-8"))
        sides = [_open(folder / name) for name in (Sheet.BEFORE, Sheet.AFTER)]
        needed = (max(len(row.tiles) for row in sheet.rows) * sheet.size[0], len(sheet.rows) * sheet.size[1])
        if any(side.size != needed for side in sides):
            raise ValueError(f"the pictures are not {needed[0]} x {needed[1]} pixels")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{folder} holds no readable samples: run `evaluate` or the training again") from error
    return [
        Row(
            row.label,
            row.target,
            [
                Tile(tile.prompt, tile.seed, column, *(_uri(side, sheet.size, i, j) for side in sides))
                for j, (tile, column) in enumerate(zip(row.tiles, sheet.columns, strict=False))
            ],
        )
        for i, row in enumerate(sheet.rows)
    ]


def _open(path: Path) -> Image.Image:
    with Image.open(path, formats=["PNG"]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{path} is larger than {MAX_PIXELS} pixels")
        return image.convert("RGB")


def _uri(side: Image.Image, size: tuple[int, int], row: int, column: int) -> str:
    width, height = size
    tile = side.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
    buffer = BytesIO()
    tile.save(buffer, "WEBP", lossless=width <= SMALL, quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
