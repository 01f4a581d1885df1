"""The before/after picture of a run: fixed prompts, fixed seeds, nothing picked."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

from experiments.evaluation import pictures
from experiments.files import write_bytes, write_text
from rl_unlearn.config import Config
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import Prompt, PromptBook, spread

ROWS = 5
VARIED = 2
COLUMNS = 8
FIRST_SEED = 1_000
LARGEST_SIDE = 256
FOLDER = "samples"
VARIETY = f"{FOLDER}/variety"
"""Where the images lie that show how varied the concept's are."""
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


Chosen = tuple[list[list[Prompt]], list[str], list[str]]
"""Prompts by row, the rows' names, and the columns'."""


def choose(book: PromptBook) -> Chosen:
    """Returns the picture's prompts as a table with labels; the concept's row comes first, the
    others are spread evenly.
    """
    if len(book.names["style"]) > 1 and len({prompt.style for prompt in book.prompts}) > 1:
        return _from_grid(book)
    targets = [book.prompts[i] for i in spread(book.targets, COLUMNS)]
    kept = [book.prompts[i] for i in spread(book.retained, (ROWS - 1) * COLUMNS)]
    table = [targets] + [kept[i : i + COLUMNS] for i in range(0, len(kept), COLUMNS)]
    return (
        table,
        ["to forget"] + ["to keep"] * (len(table) - 1),
        [""] * max(len(row) for row in table),
    )


def choose_variety(book: PromptBook) -> Chosen:
    """Returns few of the concept's prompts, each again and again: what stands in its place may
    always be the same.
    """
    prompts = [book.prompts[i] for i in spread(book.targets, VARIED)]
    table = [[prompt] * COLUMNS for prompt in prompts]
    return table, [prompt.text for prompt in prompts], [""] * COLUMNS


def _from_grid(book: PromptBook) -> Chosen:
    down, across = (book.concept_domain, book.other_domain)
    others = [i for i in range(len(book.names[down])) if i not in book.target_classes]
    concepts = list(book.target_classes[: ROWS - 1])
    rows = [*concepts, *spread(others, ROWS - len(concepts))]
    columns = spread(list(range(len(book.names[across]))), COLUMNS)
    place = {(getattr(prompt, down), getattr(prompt, across)): prompt for prompt in book.prompts}
    table = [[place[i, j] for j in columns] for i in rows]
    mark = " (to forget)" if book.trait is None else " (to lose it)"
    labels = [book.names[down][i] + (mark if i in concepts else "") for i in rows]
    return table, labels, [book.names[across][j] for j in columns]


def draw(policy: DiffusionPolicy, chosen: Chosen, config: Config) -> "Samples":
    """Draws a table by the untouched model and by the policy, from the same noise, as an evaluation
    draws.
    """
    table, rows, columns = chosen
    texts = [prompt.text for row in table for prompt in row]
    seeds = list(range(FIRST_SEED, FIRST_SEED + len(texts)))
    halves = []
    for adapted in (False, True):
        with policy.adapter_enabled(adapted):
            halves.append(
                policy.generate(texts, seeds, config.evaluation.batch, Schedule.of(config))
            )
    return Samples(table, rows, columns, *halves)


class Spot(BaseModel):
    """What one tile was asked to show, and its seed."""

    prompt: str
    seed: int = Field(ge=0, lt=2**63)


class Line(BaseModel):
    """A row of tiles."""

    label: str
    target: bool
    tiles: list[Spot] = Field(min_length=1, max_length=100)


class Sheet(BaseModel):
    """The words beside `before.png` and `after.png`, which hold the tiles row by row, each `size`
    pixels.
    """

    WORDS: ClassVar[str] = "samples.json"
    BEFORE: ClassVar[str] = "before.png"
    AFTER: ClassVar[str] = "after.png"
    size: tuple[Side, Side]
    columns: list[str]
    rows: list[Line] = Field(min_length=1, max_length=100)


@dataclass(frozen=True)
class Samples:
    """Drawn pictures of a table of prompts; images follow the table row by row."""

    table: list[list[Prompt]]
    rows: list[str]
    columns: list[str]
    before: Float[Tensor, "images 3 height width"]
    after: Float[Tensor, "images 3 height width"]

    def picture(self) -> Image.Image:
        """Returns both halves as one labelled picture."""
        halves = []
        for title, side in (("before", self.before), ("after", self.after)):
            images = iter([pictures.to_image(pixels) for pixels in side])
            cells = [[next(images) for _ in row] for row in self.table]
            halves.append(pictures.grid(cells, self.rows, self.columns, title))
        return pictures.stack(*halves)

    def save(self, folder: Path) -> None:
        """Writes the tiles as two PNG sheets and a JSON file; the report cuts them out again."""
        folder.mkdir(parents=True, exist_ok=True)
        lines, seeds = [], itertools.count(FIRST_SEED)
        for label, row in zip(self.rows, self.table, strict=True):
            spots = [Spot(prompt=prompt.text, seed=next(seeds)) for prompt in row]
            lines.append(Line(label=label, target=row[0].target, tiles=spots))
        sides = [
            [pictures.to_tile(pixels, LARGEST_SIDE) for pixels in side]
            for side in (self.before, self.after)
        ]
        sheet = Sheet(size=sides[0][0].size, columns=self.columns, rows=lines)
        for name, images in zip((Sheet.BEFORE, Sheet.AFTER), sides, strict=True):
            write_bytes(
                folder / name,
                pictures.to_png(pictures.sheet(images, [len(row) for row in self.table])),
            )
        write_text(folder / Sheet.WORDS, sheet.model_dump_json(indent=1))
