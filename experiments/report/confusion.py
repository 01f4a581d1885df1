"""What the judge sees when each concept is asked for, as maps: a row for a concept asked for, a
column for one seen.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from experiments.report.charts import number

Rows = dict[str, dict[str, float]]
"""Concept asked for, concept seen: percent of its images."""

WIDTH, LEFT, TOP, RIGHT = 360, 86, 4, 4
LOWEST, HIGHEST = 12.5, 20.0
LETTERS, LETTER = 13, 6.3
FAINTEST = 0.12
MOST = 60
"""Concepts of a map: more rows are not readable. What goes to a concept without a column is seen as
OTHERS."""
OTHERS = "(others)"
TOLD = 8


@dataclass(frozen=True)
class Cell:
    """A share above zero: its place, strength FAINTEST to 1, whether it is what was asked for, and
    its words.
    """

    x: float
    y: float
    strength: float
    asked: bool
    words: str


@dataclass(frozen=True)
class Matrix:
    """Shares as cells of `width` x `height` in a view box of WIDTH x `tall`; `words` says the same
    in sentences.
    """

    title: str
    cells: list[Cell]
    width: float
    height: float
    floor: float
    """Where the rows end and the columns' names begin."""
    tall: float
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    marked: list[float]
    """Tops of the forgotten concepts' rows."""
    words: str


@dataclass(frozen=True)
class Pair:
    """The maps of one domain."""

    domain: str
    before: Matrix
    after: Matrix
    shown: int
    of: int


def pair(domain: str, before: Rows, after: Rows, forgotten: Collection[str]) -> Pair:
    """Returns both models' maps with the same rows and columns, in the order of `after`; the
    `forgotten` ones are marked.

    Of more than MOST concepts the forgotten ones and those whose accuracy changed most are shown.
    """
    asked = [name for name in after if name in before]
    changed = {name: abs(after[name].get(name, 0) - before[name].get(name, 0)) for name in asked}
    kept = set(sorted(asked, key=lambda name: (name not in forgotten, -changed[name]))[:MOST])
    rows = [name for name in asked if name in kept]
    seen = dict.fromkeys(name for side in (before, after) for row in rows for name in side[row])
    columns = [*rows, *(name for name in seen if name not in kept)][:MOST]
    if set(seen) - set(columns):
        columns.append(OTHERS)
    left, right = (
        _draw(title, side, rows, columns, forgotten)
        for title, side in (("Before", before), ("After", after))
    )
    return Pair(domain, left, right, len(rows), len(asked))


def _draw(
    title: str,
    shares: Rows,
    rows: Sequence[str],
    columns: Sequence[str],
    forgotten: Collection[str],
) -> Matrix:
    width = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    height = min(HIGHEST, max(LOWEST, width))
    place = {name: i for i, name in enumerate(columns)}
    cells = []
    for j, row in enumerate(rows):
        by_column: dict[str, float] = {}
        for name, share in shares[row].items():
            column = name if name in place else OTHERS
            by_column[column] = by_column.get(column, 0.0) + share
        cells += [
            Cell(
                round(LEFT + place[name] * width, 2),
                round(TOP + j * height, 2),
                round(FAINTEST + (1 - FAINTEST) * min(1.0, share / 100), 2),
                name == row,
                f"asked for {row}, seen {name}: {number(round(share, 1))} %",
            )
            for name, share in by_column.items()
            if share > 0
        ]
    step, floor = math.ceil(LOWEST / width), round(TOP + len(rows) * height, 2)
    return Matrix(
        title,
        cells,
        round(width, 2),
        round(height, 2),
        floor,
        round(floor + 12 + LETTER * max((len(_short(name)) for name in columns), default=0), 2),
        [(round(TOP + (j + 0.5) * height, 2), _short(name)) for j, name in enumerate(rows)],
        [
            (round(LEFT + (i + 0.5) * width, 2), _short(name))
            for i, name in enumerate(columns)
            if i % step == 0
        ],
        [round(TOP + j * height, 2) for j, row in enumerate(rows) if row in forgotten],
        f"{title}, asked by seen, percent: {_told(shares, rows)}",
    )


def _told(shares: Rows, rows: Sequence[str]) -> str:
    """Returns in words which concepts are always seen as asked, and what the others are seen as,
    the worst first.
    """
    strayed = sorted(
        (name for name in rows if shares[name].get(name, 0) < 100),
        key=lambda n: shares[n].get(n, 0),
    )
    words = [
        f"{len(rows) - len(strayed)} of {len(rows)} concepts are seen on every image that asks for "
        "them"
    ]
    for name in strayed[:TOLD]:
        seen = sorted(shares[name].items(), key=lambda item: -item[1])[:3]
        words.append(
            f"{name} is seen as " + ", ".join(f"{n} {number(round(share, 1))}" for n, share in seen)
        )
    if len(strayed) > TOLD:
        words.append(f"and {len(strayed) - TOLD} more are seen as something else at times")
    return "; ".join(words) + "."


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
