"""The packages below `examples/`, installed as somebody would, in one run that uses all of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from rl_unlearn import canvas

EXAMPLES = sorted(file.parent for file in (ROOT / "examples").glob("*/pyproject.toml"))
SETTINGS = [
    "loop.rounds=2", "rollout.images=8", "rollout.batch=8", "learner.batch=8",
    "critic.warmup_images=16", "critic.warmup_steps=2", "selection.images=8", "selection.floor=0",
    "evaluation.target_images=8", "evaluation.other_images=1", "tensorboard=false",
    "estimator.name=leave_one_out", "evaluation.judge=second_opinion",
    "reward.images={palette: -0.1, warmth: 1.0}",
]  # fmt: skip


def test_every_example_is_in_the_list() -> None:
    listed = (ROOT / "examples/README.md").read_text()
    assert len(EXAMPLES) == 5
    for folder in EXAMPLES:
        assert f"[{folder.name}]({folder.name}/" in listed


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them installed."""
    folder = tmp_path_factory.mktemp("added")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", str(folder), *map(str, EXAMPLES)],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def command(*words: str, added: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(added)},
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_with_all_of_them_is_judged_and_gone_on_with(added: Path, tmp_path: Path) -> None:
    run = tmp_path / "out" / "frog-seed0"
    settings = [*SETTINGS, f"output={tmp_path / 'out'}", "loop.checkpoint_every=1"]
    done = command("train", "concept=frog", "--inline", "--json", *settings, added=added)
    assert done.returncode == 0, done.stderr
    judge = json.loads(done.stdout)["protocol"]["judge"]
    assert judge == "second_opinion (second-opinion 0.1.0)"
    recorded = json.loads((run / "run_state.json").read_text())["stands_on"]
    assert {"reward.images palette", "reward.images warmth"} <= recorded.keys()
    gone = command("resume", str(run), "loop.rounds=3", "--inline", added="")
    assert gone.returncode == 2
    assert "leave_one_out" in gone.stderr


@pytest.mark.slow
def test_a_family_of_a_package_is_trained(added: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(canvas.pipeline_path(), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "ToyPipeline"}))
    words = [
        "train", "concept=frog", f"model.path={folder}", "--inline", "--no-evaluate",
        *(s for s in SETTINGS if s.partition("=")[0] not in ("estimator.name", "evaluation.judge")),
        "reward.images={}", "loop.rounds=1", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    unknown = command(*words, added="")
    assert unknown.returncode == 5
    assert "holds a ToyPipeline: only StableDiffusionPipeline, " in unknown.stderr
    done = command(*words, added=added)
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "out/frog-seed0/run_state.json").read_text())
    assert "model ToyPipeline" in state["stands_on"], "its version is on record"
