"""One run takes another's place: whatever is killed, one of the two is there as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from kill_steps import contents, old_run, start

from experiments import settings
from experiments.runs import replacing, run_folder
from experiments.runs.run_state import read_state
from rl_unlearn.errors import ConfigError

PROGRAM = ROOT / "tests" / "kill_steps.py"


@pytest.mark.faults
@pytest.mark.slow
def test_a_kill_at_any_step_leaves_the_old_run_or_one_that_has_begun(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), "kills", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["kills"] > 80
    assert seen["kills of the next start"] > 500
    assert min(seen["old"], seen["new"]) > 100


@pytest.mark.slow
def test_starts_of_one_name_at_once_lose_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), "race", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_a_run_that_ends_before_it_has_begun_gives_the_old_one_back(tmp_path: Path) -> None:
    old = old_run(tmp_path)
    start(tmp_path, begins=False)
    assert contents(tmp_path / "r") == old
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize(
    "name", [".replaced", ".r.replaced", ".replaced.tmp", "run_state.json.tmp"]
)
def test_folders_made_by_hand_in_a_run_cost_nothing(tmp_path: Path, name: str) -> None:
    old_run(tmp_path)
    (tmp_path / "r" / name).mkdir(exist_ok=True)
    (tmp_path / "r" / name / "mine").write_text("mine")
    old = contents(tmp_path / "r")
    start(tmp_path, begins=False)
    assert contents(tmp_path / "r") == old


def test_what_waits_beside_a_run_that_has_begun_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    old_run(tmp_path)
    old_run(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "r").rename(replacing.aside(tmp_path / "r"))
    before = contents(tmp_path / "r")
    replacing.restore(tmp_path / "r")
    assert contents(tmp_path / "r") == before
    assert not replacing.aside(tmp_path / "r").exists()


def test_what_is_no_run_is_neither_taken_for_one_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / ".r.replaced").mkdir()
    (tmp_path / ".r.replaced" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match=r"\.r\.replaced stands in the way"):
        start(tmp_path, begins=True)
    assert (tmp_path / ".r.replaced" / "mine").read_text() == "mine"
    (tmp_path / ".r.replaced" / "run_state.json").write_text("{}")
    (tmp_path / "r" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="may both be runs"):
        start(tmp_path, begins=True)
    assert (tmp_path / "r" / "mine").read_text() == "mine"
    assert (tmp_path / ".r.replaced" / "mine").read_text() == "mine"


def test_the_old_run_goes_only_when_the_new_one_is_on_record_as_begun(tmp_path: Path) -> None:
    old = old_run(tmp_path)
    config = settings.load(overrides=[f"output={tmp_path}", "name=r"], environ={})
    with run_folder.reserve(config, overwrite=True).running(config, ["test"]) as folder:
        assert contents(replacing.aside(folder.path)) == old
        assert read_state(folder.path).begun is False
        with pytest.raises(ConfigError, match="another run is writing"):
            replacing.restore(folder.path)
        with pytest.raises(ConfigError, match="another run is writing"):
            start(tmp_path, begins=True)
        folder.begin()
        assert read_state(folder.path).begun is True
        assert not replacing.aside(folder.path).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
