"""The asked-by-seen maps: cells where they belong, whatever the number and the names of the
concepts.
"""

import pytest

from experiments.report import confusion
from experiments.report.confusion import MOST, OTHERS, WIDTH, pair


def test_a_map_by_hand() -> None:
    before = {"cat": {"cat": 100.0}, "dog": {"dog": 90.0, "cat": 10.0}}
    after = {"cat": {"dog": 75.0, "fish": 25.0}, "dog": {"dog": 100.0}}
    found = pair("object", before, after, ["cat"])
    assert (found.shown, found.of) == (2, 2)
    assert [name for _, name in found.after.rows] == ["cat", "dog"]
    assert [name for _, name in found.after.columns] == ["cat", "dog", "fish"], "fish is only seen"
    words = {cell.words: cell for cell in found.after.cells}
    assert set(words) == {
        "asked for cat, seen dog: 75 %", "asked for cat, seen fish: 25 %",
        "asked for dog, seen dog: 100 %"
    }  # fmt: skip
    strayed, right = words["asked for cat, seen dog: 75 %"], words["asked for dog, seen dog: 100 %"]
    assert strayed.x == right.x, "one column"
    assert right.y - strayed.y == found.after.height
    assert (strayed.asked, right.asked) == (False, True)
    assert (strayed.strength, right.strength) == (0.78, 1.0)
    assert found.after.marked == [confusion.TOP]
    assert found.after.words == (
        "After, asked by seen, percent: 1 of 2 concepts are seen on every image that asks for "
        "them; "
        "cat is seen as dog 75, fish 25."
    )
    assert pair("object", before, after, ()).after.marked == []
    assert len(pair("object", before, after, ["cat", "dog"]).after.marked) == 2


def test_real_worlds_fit() -> None:
    names = [f"style number {i}" for i in range(50)]
    shares = {name: {name: 60.0, names[i - 1]: 40.0} for i, name in enumerate(names)}
    found = pair("style", shares, shares, [names[7]]).after
    assert len(found.rows) == 50
    assert 10 < len(found.columns) < 25, "names of neighbours would lie on each other"
    assert all(cell.x + found.width <= WIDTH for cell in found.cells)
    assert all(cell.y + found.height <= found.floor + 1 for cell in found.cells)
    assert found.tall < 3 * WIDTH
    assert all(len(name) <= confusion.LETTERS for _, name in found.rows)
    assert len(found.words) < 1000
    assert "and 42 more" in found.words


def test_of_thousands_the_most_changed_are_shown() -> None:
    names = [f"prompt {i}" for i in range(3000)]
    before = {name: {name: 100.0} for name in names}
    after = before | {
        names[9]: {names[2999]: 70.0, names[8]: 30.0},
        names[2000]: {names[2000]: 50.0, names[9]: 50.0},
    }
    after[names[5]] = {names[5]: 100.0}
    found = pair("object", before, after, [names[5]])
    assert (found.shown, found.of) == (MOST, 3000)
    assert {names[5], names[9], names[2000]} <= {row for _, row in found.after.rows}
    assert found.after.columns[-1][1] == OTHERS
    assert f"asked for {names[9]}, seen {OTHERS}: 70 %" in {
        cell.words for cell in found.after.cells
    }


@pytest.mark.parametrize(
    "sides", [({}, {}), ({"cat": {}}, {"cat": {}}), ({"cat": {"cat": 1.0}}, {"dog": {}})]
)
def test_what_was_not_measured_is_no_error(sides: tuple[confusion.Rows, confusion.Rows]) -> None:
    found = pair("object", *sides, ["cat"])
    assert found.after.cells == []
    assert found.shown == len(found.after.rows)
