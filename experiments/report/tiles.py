"""The before/after tiles of a run, cut from the sheets that the run wrote, two for each gallery."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from experiments.evaluation.samples import FOLDER, Sheet
from experiments.runs.own_files import inside, picture
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object
from rl_unlearn.files.versioned import validated

SMALL = 128
REMEDY = "run `evaluate` or the training again"


@dataclass(frozen=True)
class Tile:
    """One prompt at one seed, twice."""

    prompt: str
    seed: int
    column: str
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Row:
    """Tiles of one concept."""

    label: str
    target: bool
    tiles: list[Tile]


def read(run: Path, folder: str = FOLDER) -> list[Row]:
    """Returns the rows of a folder of samples in a run, none if it has no such folder; DataError if
    it is damaged.
    """
    sheet = read_sheet(run, folder)
    if sheet is None:
        return []
    sides = [_side(inside(run, f"{folder}/{name}")) for name in (Sheet.BEFORE, Sheet.AFTER)]
    needed = (
        max(len(row.tiles) for row in sheet.rows) * sheet.size[0],
        len(sheet.rows) * sheet.size[1],
    )
    if any(side.size != needed for side in sides):
        raise DataError(
            f"the pictures in {run / folder} are not {needed[0]} x {needed[1]} pixels: {REMEDY}"
        )
    return [
        Row(
            row.label,
            row.target,
            [
                Tile(
                    tile.prompt,
                    tile.seed,
                    column,
                    *(_cut(side, sheet.size, i, j) for side in sides),
                )
                for j, (tile, column) in enumerate(zip(row.tiles, sheet.columns, strict=False))
            ],
        )
        for i, row in enumerate(sheet.rows)
    ]


def read_sheet(run: Path, folder: str = FOLDER) -> Sheet | None:
    """Returns the words beside the pictures, None if the run has none; DataError if they are
    damaged.
    """
    path = inside(run, f"{folder}/{Sheet.WORDS}")
    if not path.exists():
        return None
    return validated(path, read_object(path, REMEDY), Sheet, REMEDY)


def _side(path: Path) -> Image.Image:
    shown = picture(path)
    if shown is None:
        raise DataError(f"{path} is not there: {REMEDY}")
    return shown[1]


def uri(tile: Image.Image) -> str:
    """Returns a tile for a page that needs no file beside it."""
    buffer = BytesIO()
    tile.save(buffer, "WEBP", lossless=tile.width <= SMALL, quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _cut(side: Image.Image, size: tuple[int, int], row: int, column: int) -> Image.Image:
    width, height = size
    return side.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
