"""What a run says of itself is read as what it should be, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.runs.rows import EventRow, UpdateRow, read_rows
from experiments.runs.run_state import read_state
from rl_unlearn.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        {"training": 5}, {"training": {"updates": "many"}}, {"training": {"wall_seconds": -1}},
        {"state": 5},
        {"training": {"images_used": 10**400}}, {"begun": 1}, {"begun": "true"}, {"configs": [5]},
        {"configs": {}},
        {"argv": "x"}, {"argv": [1]}, {"reason": []}, {"trial": 5}, {"trial": {}},
        {"trial": {"label": 5}},
        {"trial": {"label": "x", "settings": []}}, {"packages": []}, [], 5, None, "x",
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_another_type_is_named(content: Any, tmp_path: Path) -> None:
    (tmp_path / "run_state.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"run_state\.json (is damaged|holds no JSON object)"):
        read_state(tmp_path)


def test_what_is_not_said_is_nothing_and_further_keys_stay(tmp_path: Path) -> None:
    assert read_state(tmp_path).state is None
    content = {"state": "finished", "trial": {"label": "x", "more": 1}, "dashboard": "http://x"}
    (tmp_path / "run_state.json").write_text(json.dumps(content))
    found = read_state(tmp_path)
    assert found.finished
    assert found.begun is None
    assert found.model_dump(exclude_unset=True) == content


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (EventRow, "5"), (EventRow, "{}"), (EventRow, '{"event": 5}'),
        (EventRow, '{"event": "x", "round": null}'), (EventRow, ""),
        (EventRow, '{"event": "x", "round": 1.5}'), (EventRow, '{"event": "x", "round": true}'),
        (EventRow, '{"event": "x"'),
        (EventRow, '{"event": "x", "reward": NaN}'), (EventRow, "[" * 100_000),
        (EventRow, '{"event": "\\ud800"}'),
        (UpdateRow, '{"update": 1, "version_in": 0, "version_out": "1"}'),
        (UpdateRow, '{"update": 1, "version_in": 0, "version_out": 1, "drawn_by": {"1": "x"}}'),
        (UpdateRow, '{"update": 1, "version_in": 0, "version_out": 1, "weights": 5}'),
    ],
)  # fmt: skip
def test_a_line_of_another_kind_is_named_unless_it_is_the_last_and_cut(
    kind: type[EventRow], line: str, tmp_path: Path
) -> None:
    whole = '{"event": "x", "update": 1, "version_in": 0, "version_out": 1}'
    path = tmp_path / "rows.jsonl"
    for content, number in (
        (f"{line}\n{whole}\n", 1),
        (f"{whole}\n{line}\n", 2),
        (f"{whole}\n{line}\n{whole}", 2),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=rf"rows\.jsonl, line {number},"):
            read_rows(path, kind)
    path.write_text(f"{whole}\n{line}")
    assert read_rows(path, kind) == [json.loads(whole)]
    path.write_text(f"{whole}\n{whole}")
    assert len(read_rows(path, kind)) == 2, "the last line may lack its end"
