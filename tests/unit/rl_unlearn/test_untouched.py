"""The untouched model is looked at before anything is learned: what it does not draw cannot be
forgotten.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from cluster import program
from experiments import settings
from experiments.__main__ import main
from learner.learner import Learner
from rl_unlearn.errors import ConfigError
from rl_unlearn.untouched import ENOUGH, check_untouched
from rl_unlearn.validation import Validation

GOOD = {
    "forgotten": 0.1, "retained": 0.9, "coherence": 0.9, "other": 0.9, "presence": 0.5,
    "trace": 0.8, "rewarded": 0.9,
}  # fmt: skip


def seen(**changes: float) -> Validation:
    return Validation(**GOOD | changes)


def test_a_good_model_is_not_remarked_on() -> None:
    assert check_untouched(seen(), 0.5, 64) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forgotten": 0.6}, "the concept on images that ask for it .* in 40% of cases only"),
        ({"retained": 0.4}, "prompts to keep .by selection.clip. in 40%"),
        ({"rewarded": 0.2}, "prompts to keep .by reward.clip. in 20%"),
        ({"other": 0.0}, "the rest of the prompt .* in 0%"),
    ],
)
def test_what_is_seen_too_seldom_is_a_line_that_names_the_settings(
    changes: dict[str, float], said: str
) -> None:
    (line,) = check_untouched(seen(**changes), 0.5, 64)
    assert re.search(said, line)
    assert all(key in line for key in ("prompts.template", "reward.clip", "selection.clip"))
    assert check_untouched(seen(**changes), 0.0, 64) == []


@pytest.mark.parametrize("changes", [{"forgotten": 1.0}, {"retained": 0.0}, {"rewarded": 0.0}])
def test_what_is_never_seen_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(
        ConfigError, match=r"nothing to learn; check prompts\.template.*reward\.clip"
    ):
        check_untouched(seen(**changes), 0.01, ENOUGH)
    assert check_untouched(seen(**changes), 0.0, 64) == []


@pytest.mark.parametrize("changes", [{"forgotten": 1.0}, {"retained": 0.0}, {"rewarded": 0.0}])
def test_of_a_few_images_none_may_be_chance(changes: dict[str, float]) -> None:
    (line,) = check_untouched(seen(**changes), 0.5, ENOUGH - 1)
    assert "in 0% of cases only" in line


def test_nothing_is_learned_from_a_model_that_draws_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was learned")

    monkeypatch.setattr("learner.selection.summary", lambda *_: seen(forgotten=1.0, retained=0.0))
    monkeypatch.setattr(Learner, "update", never)
    events: list[tuple[str, dict[str, Any]]] = []
    with pytest.raises(ConfigError, match="does not show the concept"):
        program.train(tiny.config(selection={"floor": 0.5, "images": 16}), tiny.into(events))
    assert "warm-up" not in [name for name, _ in events], "the run has not begun"


def test_the_run_that_it_would_replace_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(settings.dump(tiny.config(output=str(tmp_path), loop={"rounds": 1})))
    line = ["train", "--config", str(file), "--inline", "--no-evaluate", "--name", "mine"]
    assert main(line) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    monkeypatch.setattr("learner.selection.summary", lambda *_: seen(retained=0.0))
    assert main([*line, "--overwrite", "selection.floor=0.5", "selection.images=16"]) == 2
    assert "nothing to learn" in capsys.readouterr().err
    assert {
        path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()
    } == before


def test_a_low_share_is_a_warning_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.selection.summary", lambda *_: seen(retained=0.3))
    events: list[tuple[str, dict[str, Any]]] = []
    program.train(
        tiny.config(selection={"floor": 0.5}, loop={"rounds": 1}),
        tiny.into(events),
    )
    (line,) = [row["message"] for name, row in events if name == "warning"]
    assert "in 30% of cases only" in line
