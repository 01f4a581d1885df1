"""Exported adapters: plain diffusers loads both formats and draws what the run's own policy draws."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from experiments import adapters, settings
from experiments.__main__ import main
from experiments.models import load_model
from experiments.verbs.common import run_config
from rl_unlearn.adapter import FILE_NAME, read_adapter, save_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny.config(concept="dog", seed=3, lora={"rank": 3, "layers": "attention"})


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """An adapter folder whose weights are far from zero."""
    folder = tmp_path_factory.mktemp("trained")
    state = DiffusionPolicy(load_model(config.model), config).adapter_state()
    draws = torch.Generator().manual_seed(1)
    save_adapter(folder, {name: torch.randn(t.shape, generator=draws) / 4 for name, t in state.items()}, config)
    return folder


def output(config: Config, file: Path | None) -> torch.Tensor:
    """The UNet's output in plain diffusers."""
    pipeline = load_model(config.model)
    if file is not None:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    draws = torch.Generator().manual_seed(2)
    latents, words = torch.randn(1, *tiny.SHAPE, generator=draws), torch.randn(1, 5, 16, generator=draws)
    with torch.no_grad():
        result: torch.Tensor = pipeline.unet(latents, 300, encoder_hidden_states=words).sample
    return result


@pytest.mark.parametrize("format", adapters.FORMATS)
def test_exports_give_the_policys_output(format: str, adapter: Path, config: Config, tmp_path: Path) -> None:
    written = adapters.export(adapter, format, tmp_path, config)
    file = Path(written["file"])
    policy = DiffusionPolicy(load_model(config.model), config)
    policy.load_adapter(read_adapter(adapter))
    draws = torch.Generator().manual_seed(2)
    latents, words = torch.randn(1, *tiny.SHAPE, generator=draws), torch.randn(1, 5, 16, generator=draws)
    with torch.no_grad():
        expected = policy.unet(latents, 300, encoder_hidden_states=words).sample
    torch.testing.assert_close(output(config, file), expected, rtol=1e-4, atol=1e-5)
    assert (output(config, None) - expected).abs().max() > 1e-2
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_kohya_names(adapter: Path, config: Config, tmp_path: Path) -> None:
    names = set(load_file(adapters.export(adapter, "kohya", tmp_path, config)["file"]))
    assert {name.rpartition(".")[2] for name in names} == {"weight", "alpha"}
    assert all(name.startswith("lora_unet_") for name in names)


def test_export_never_replaces_its_source(adapter: Path, config: Config) -> None:
    before = (adapter / FILE_NAME).read_bytes()
    with pytest.raises(DataError, match="the adapter itself"):
        adapters.export(adapter, "diffusers", adapter, config)
    assert (adapter / FILE_NAME).read_bytes() == before


def test_an_adapter_tells_what_it_was_trained_with(adapter: Path, config: Config) -> None:
    found = run_config(adapter, [])
    assert (found.model.path, found.concept, found.seed) == (config.model.path, "dog", 3)
    assert found.lora == config.lora
    assert run_config(adapter, ["seed=9"]).seed == 9


def test_a_run_tells_what_it_was_trained_with(tmp_path: Path, config: Config) -> None:
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    (tmp_path / "run_state.json").write_text("{}")
    assert run_config(tmp_path, []) == config


def test_generate_with_and_without(
    adapter: Path, config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def draw(name: str, *argv: str) -> bytes:
        out = tmp_path / name
        assert (
            main(
                [
                    "generate",
                    "--prompt",
                    "a dog",
                    "--seeds",
                    "0,1",
                    "--out",
                    str(out),
                    "--json",
                    "sampler.steps=3",
                    *argv,
                ]
            )
            == 0
        )
        said = json.loads(capfd.readouterr().out)
        assert (said["file"], said["seeds"]) == (str(out), [0, 1])
        return out.read_bytes()

    plain = draw("plain.png", f"model.path={config.model.path}")
    adapted = draw("adapted.png", "--adapter", str(adapter))
    assert plain.startswith(b"\x89PNG")
    assert adapted != plain
    assert draw("off.png", "--adapter", str(adapter), "--scale", "0") == plain
    assert draw("again.png", "--adapter", str(adapter)) == adapted
