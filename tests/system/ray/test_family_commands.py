"""The commands of a user with a model of each family: train, resume, evaluate, generate, export."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_families
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from experiments import settings
from experiments.__main__ import main
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.models import model_folder

pytestmark = pytest.mark.slow


def written(name: str, root: Path, rounds: int) -> Path:
    config = tiny.config(
        model={"path": str(tiny_families.FOLDERS[name]()), "size": tiny_families.SIZE}, name="run",
        output=str(root), tensorboard=False, sampler={"guidance": 2.0},
        loop={"rounds": rounds, "checkpoint_every": 1},
        evaluation={"judge": str(tiny.clip_folder(2)), "resamples": 100},
        # Else the step size falls towards the end, which is another one for longer runs.
        learner={"lr_constant": 1.0},
    )  # fmt: skip
    file = root.parent / f"{root.name}.yaml"
    file.write_text(settings.dump(config))
    return file


FEW = ("sd3",)
MANY = [name for name in tiny_families.KINDS[1:] if name not in FEW]


@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(name, marks=pytest.mark.long) for name in MANY)]
)
def test_the_way_of_a_user(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    straight, longer = tmp_path / "straight" / "run", tmp_path / "longer" / "run"
    assert main(["train", "--config", str(written(name, straight.parent, 3)), "--no-evaluate"]) == 0
    assert main(["train", "--config", str(written(name, longer.parent, 2)), "--no-evaluate"]) == 0
    assert main(["resume", str(longer), "loop.rounds=3"]) == 0
    ledgers = [[json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
               for run in (straight, longer)]  # fmt: skip
    weights = [[row["weights"] for row in rows if "update" in row] for rows in ledgers]
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]
    evaluation = json.loads((longer / "evaluation.json").read_text())
    assert evaluation["models"][0]["name"] == "untouched"
    capfd.readouterr()
    assert main(["evaluate", str(longer)]) == 0
    assert "0 of them from the cache" not in capfd.readouterr().err, "resume has drawn them already"
    picture = tmp_path / "picture.png"
    assert (
        main(["generate", "--adapter", str(longer), "--prompt", "a cat", "--out", str(picture)])
        == 0
    )
    assert picture.stat().st_size > 0
    out = tmp_path / "diffusers"
    assert main(["export", str(longer), "--format", "diffusers", "--out", str(out)]) == 0
    component = model_folder.read_layout(tiny_families.FOLDERS[name]()).trained
    assert all(key.startswith(f"{component}.") for key in load_file(out / FILE_NAME))
    merged = tmp_path / "merged"
    assert main(["export", str(longer), "--format", "merged", "--out", str(merged)]) == 0
    pipeline = DiffusionPipeline.from_pretrained(merged)
    assert (
        type(pipeline).__name__
        == type(DiffusionPipeline.from_pretrained(tiny_families.FOLDERS[name]())).__name__
    )
    weights_now = next(getattr(pipeline, component).parameters())
    assert torch.isfinite(weights_now).all()
