"""The packages below `examples/`, installed as somebody would, in one run that uses all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

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
    assert len(EXAMPLES) == 4
    for folder in EXAMPLES:
        assert f"[{folder.name}]({folder.name}/" in listed


@pytest.mark.slow
def test_a_run_with_all_of_them_is_judged_and_gone_on_with(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", str(tmp_path / "added"), *map(str, EXAMPLES)],
        check=True, capture_output=True,
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "added")}

    def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "experiments", *words], cwd=ROOT, capture_output=True, text=True,
            env=environment | more,
        )  # fmt: skip

    run = tmp_path / "out" / "frog-seed0"
    settings = [*SETTINGS, f"output={tmp_path / 'out'}", "loop.checkpoint_every=1"]
    done = command("train", "concept=frog", "--inline", "--json", *settings)
    assert done.returncode == 0, done.stderr
    judge = json.loads(done.stdout)["protocol"]["judge"]
    assert judge == "second_opinion (second-opinion 0.1.0)"
    recorded = json.loads((run / "run_state.json").read_text())["stands_on"]
    assert {"reward.images palette", "reward.images warmth"} <= recorded.keys()
    gone = command("resume", str(run), "loop.rounds=3", "--inline", PYTHONPATH="")
    assert gone.returncode == 2
    assert "leave_one_out" in gone.stderr
