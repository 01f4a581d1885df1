"""What a plain installation leaves out is missed by one line that names the extra, and only where
it is asked for.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
from conftest import ROOT
from packaging.requirements import Requirement

from experiments import settings
from experiments.__main__ import main
from experiments.canvas.__main__ import stages
from experiments.extras import EXTRAS, Extra, installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the extras can be imported."""
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)


def packages(texts: list[str]) -> set[str]:
    return {Requirement(text).name for text in texts}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_the_project_knows_the_extra(extra: Extra) -> None:
    optional = PROJECT["optional-dependencies"]
    assert extra.package in packages(optional[extra.extra])
    assert extra.package not in packages(PROJECT["dependencies"])
    (everything,) = map(Requirement, optional["all"])
    assert everything.name == "rl-unlearn"
    assert extra.extra in everything.extras


def test_a_folder_that_wandb_left_behind_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leftbehind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("leftbehind")
    assert installed("json")


@pytest.mark.usefixtures("plain")
def test_a_search_without_optuna_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("space: {learner.lr: {uniform: [0.001, 0.01]}}\nsamples: 2\nsearch: optuna\n")
    out = tmp_path / "out"
    assert main(["sweep", "--space", str(space), f"output={out}"]) == 2
    assert capsys.readouterr().err == (
        f"error: {space}: search: optuna: not installed; pip install 'rl-unlearn[sweep]', or leave "
        "it out\n"
    )
    assert not out.exists()


@pytest.mark.usefixtures("plain")
def test_the_drawings_are_not_made_without_their_package(tmp_path: Path) -> None:
    made = stages(tmp_path, tmp_path, tmp_path, 1)
    with pytest.raises(SystemExit, match=re.escape("pip install 'rl-unlearn[canvas]'")):
        made["sprites"]()


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_plain_installation_trains_evaluates_and_reports(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    judge = {"judge": str(tiny.clip_folder(2)), "resamples": 100}
    config = tiny.config(output=str(tmp_path / "out"), name="run", evaluation=judge)
    file.write_text(settings.dump(config))
    assert main(["train", "--config", str(file), "--inline"]) == 0
    run = tmp_path / "out" / "run"
    assert main(["evaluate", str(run), "--out", str(tmp_path / "again.json")]) == 0
    assert all((run / name).is_file() for name in ("report.html", "evaluation.json", "curves.png"))
