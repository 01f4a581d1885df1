"""The table of rivals: its commands are those of the command line, what is finished is not made
again, and runs that share a concept are one cluster.
"""

import json
from pathlib import Path

import pytest

from experiments import __main__ as command_line
from experiments import settings
from experiments.studies import rivals
from experiments.studies.rivals import Cell
from rl_unlearn.errors import DataError


@pytest.mark.parametrize("method", rivals.METHODS)
def test_each_cell_is_a_command_of_the_command_line(method: str, tmp_path: Path) -> None:
    words = Cell(method, "style:fluent", 2).words(tmp_path)
    args = command_line.parse(words)
    config = settings.load(args.config, args.overrides)
    assert (config.concept, config.seed, args.name) == (
        "style:fluent", 2, f"{method}-style-fluent-seed2"
    )  # fmt: skip
    if "-" in method:
        assert Path(args.start).name == f"{method.split('-')[0]}-style-fluent-seed2"


def judged(folder: Path, **figures: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    models = [{"name": name, **figures} for name in ("untouched", folder.name)]
    content = {"models": models, "before": figures, "after": figures, "images_used": 7}
    (folder / "evaluation.json").write_text(json.dumps(content))


def attacked(folder: Path, rate: float) -> None:
    seen = {"before": 100.0, "after": rate}
    rows = [
        {"attack": "inversion", "budget": "32 images, 200 steps", **seen},
        {"attack": "relearn", "budget": "16 images, 40 steps", **seen},
        {
            "attack": "relearn",
            "budget": "16 unrelated images, 40 steps",
            "before": 100,
            "after": 99,
        },
    ]
    (folder / "attacks.json").write_text(json.dumps({"rows": rows}))


FIGURES = {"coherence": 100.0, "ira": 99.0, "ira_near": 98.0, "cra": 100.0, "anchor_kid": -0.1}


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch) -> None:
    given: list[list[str]] = []

    def run(words: list[str]) -> float:
        given.append(list(words))
        folder = tmp_path / "uce-cat-seed0"
        folder.mkdir(exist_ok=True)
        if words[0] == "evaluate":
            judged(folder, ua=100.0, **FIGURES)
        if words[0] == "attack":
            attacked(folder, 8.0)
        return 12.5

    monkeypatch.setattr(rivals, "_run", run)
    cell = Cell("uce", "cat", 0)
    rivals.make(cell, tmp_path, attacked=True)
    assert [words[0] for words in given] == ["erase", "evaluate", "attack"]
    rivals.make(cell, tmp_path, attacked=True)
    assert len(given) == 3
    found = rivals.figures(cell, tmp_path)
    assert (found["ua"], found["cpu_seconds"], found["images"]) == (100.0, 12.5, 7)
    assert (found["inversion"], found["relearn 40"]) == (8.0, 8.0), "the control is no attack"


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"experiments erase .*concept=nobody.* failed: .*nobody"):
        rivals.make(Cell("uce", "nobody", 0), tmp_path, attacked=False)
    assert not (tmp_path / "uce-nobody-seed0").exists()


def test_runs_of_a_concept_are_one_cluster(tmp_path: Path) -> None:
    values = {("cat", 0): 100.0, ("cat", 1): 90.0, ("frog", 0): 80.0}
    made = {
        Cell("uce", concept, seed): {"ua": value, "cpu_seconds": 1.0, "anchor_kid": value / 100}
        for (concept, seed), value in values.items()
    }
    (row,) = rivals.rows(made)
    assert (row["runs"], row["ua"]["mean"], row["ua"]["concepts"]) == (3, 87.5, 2)
    assert (row["ua"]["worst"], row["ua"]["worst_cell"]) == (80.0, "frog, seed 0")
    assert row["anchor_kid"]["worst_cell"] == "cat, seed 0", "the largest distance is the worst"
    assert row["ua"]["half"] == pytest.approx(95.3, abs=0.1), "of two means, not of three runs"
    text = rivals.table([row])
    assert "| uce | 3 | 87.5 (80.0) | – |" in text
