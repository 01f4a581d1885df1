"""The command for one GPU, on tiny networks: all parts end to end, without Ray or a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from experiments.benchmarks import controllers, half_on_cpu, real_size
from rl_unlearn.config import Config


@pytest.mark.long
@pytest.mark.slow
def test_one_command_measures_all_parts_without_ray(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "ray"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('no Ray here')\n")
    command = [sys.executable, "-m", "experiments.benchmarks.real_size", "--tiny"]
    command += ["--out", str(tmp_path / "out")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(absent.parent), str(ROOT)])}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU here" in done.stdout
    written = json.loads((tmp_path / "out" / "real_size.json").read_text())
    parts = written["parts"]
    floors = {name: parts["floor"][name]["K0"] for name in real_size.TYPES}
    assert list(parts) == list(real_size.USUAL)
    assert not written["skipped"]
    for dtype in real_size.TYPES:
        assert parts["ratio"][dtype]["largest log-ratio, as configured"] == 0.0
        assert parts["ratio"][dtype]["states"] == 8 * 2
        assert parts[dtype]["ended"] == "finished"
        first, second = parts[dtype]["updates"]
        assert (first["update"], second["update"]) == (1, 2)
        for row, way in ((first, 0.5), (second, 1.5)):
            raw = row["step_kl"] + row["kl_floor"] / way**2
            assert row["step_kl_raw"] == pytest.approx(raw)
    assert floors["fp32"] < floors["fp16"] < floors["bf16"]
    assert parts["fp32"]["updates"][0]["kl_floor"] == 0 < parts["bf16"]["updates"][0]["kl_floor"]
    assert parts["flops"]["ratio"] == pytest.approx(1, rel=0.01)
    assert parts["rollout"]["rollout / bare, speed"] > 0
    assert parts["rollout"]["rollout"]["of_products"] > 0
    assert parts["roles"].pop("part_seconds") > 0
    assert len(parts["roles"]) == 6
    for role in parts["roles"].values():
        assert role["bytes"] is None, "there is no GPU whose memory could be measured"
        assert role["planned_bytes"] > 0 < role["tflops"]


def test_what_has_no_time_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And an earlier file is kept."""
    asked = ["--out", str(tmp_path), "--tiny", "--minutes", "0"]
    assert real_size.main([*asked, "--parts", "model,ratio"]) == 0
    written = json.loads((tmp_path / "real_size.json").read_text())
    assert written["skipped"] == ["model", "ratio"]
    assert written["command"].endswith("--parts model,ratio")
    assert real_size.main(asked) == 0
    assert "ratio: skipped" in capsys.readouterr().out
    assert len([*tmp_path.glob("real_size*.json")]) == 2
    assert real_size.main([*asked, "sampler.stepz=3"]) == 2
    assert "did you mean 'sampler.steps'?" in capsys.readouterr().err


def test_rounding_is_taken_off_by_the_square_of_the_way() -> None:
    """Half an update lies behind two trajectories, 1.5 behind two of the policy before."""
    row = dict.fromkeys(controllers._PLAIN, 0.1) | {"step_kl": 0.2, "policy_version": 3}
    found = controllers._of_update(Config(), row | {"policy_lag_counts": [2, 2]})
    assert found["step_kl_raw"] == pytest.approx(0.2 + 0.1 * (1 / 0.25 + 1 / 2.25) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_fp32_are_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, images = torch.nn.Conv2d(16, 8, 3).to(dtype), torch.randn(2, 16, 6, 6).to(dtype)
    exact = torch.nn.functional.conv2d(images.double(), layer.weight.double(), layer.bias.double())
    with half_on_cpu.products_in_fp32():
        found = layer(images)
        assert layer.float()(images.float()).dtype == torch.float32
    assert found.dtype == dtype
    # Half a unit in the last place, and next to nothing for the sum in fp32.
    allowed = 0.501 * torch.finfo(dtype).eps * exact.abs() + 1e-6
    assert ((found.double() - exact).abs() <= allowed).all()
