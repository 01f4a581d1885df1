"""Exported adapters: plain diffusers loads both formats and draws what the run's own policy
draws."""

import io
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments import settings
from experiments.__main__ import main
from experiments.evaluation.models import load_model
from experiments.export import adapters
from experiments.verbs.common import run_config
from rl_unlearn.adapters.adapter import read_adapter, save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.config import Config, Lora, Sampler
from rl_unlearn.errors import ConfigError, DataError
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
    save_adapter(
        folder,
        {name: torch.randn(t.shape, generator=draws) / 4 for name, t in state.items()},
        config,
    )
    return folder


def output(config: Config, file: Path | None) -> torch.Tensor:
    """The UNet's output in plain diffusers."""
    pipeline = load_model(config.model)
    if file is not None:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    draws = torch.Generator().manual_seed(2)
    latents, words = (
        torch.randn(1, *tiny.SHAPE, generator=draws),
        torch.randn(1, 5, 16, generator=draws),
    )
    with torch.no_grad():
        result: torch.Tensor = pipeline.unet(latents, 300, encoder_hidden_states=words).sample
    return result


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_exports_give_the_policys_output(
    format: str, adapter: Path, config: Config, tmp_path: Path
) -> None:
    written = adapters.export(adapter, format, tmp_path, config)
    file = Path(written["file"])
    policy = DiffusionPolicy(load_model(config.model), config)
    policy.load_adapter(read_adapter(adapter))
    draws = torch.Generator().manual_seed(2)
    latents, words = (
        torch.randn(1, *tiny.SHAPE, generator=draws),
        torch.randn(1, 5, 16, generator=draws),
    )
    with torch.no_grad():
        expected = policy.network(latents, 300, encoder_hidden_states=words).sample
    torch.testing.assert_close(output(config, file), expected, rtol=1e-4, atol=1e-5)
    assert (output(config, None) - expected).abs().max() > 1e-2
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "README.md"}


@pytest.mark.parametrize("format", adapters.FORMATS)
def test_exports_draw_the_policys_images(
    format: str, adapter: Path, config: Config, tmp_path: Path
) -> None:
    file = Path(adapters.export(adapter, format, tmp_path / "out", config)["file"])
    policy = DiffusionPolicy(load_model(config.model), config)
    prompts, seeds = ["a dog", "a cat", "a fish"], [0, 1, 2]
    plain = policy.generate(prompts, seeds)
    policy.load_adapter(read_adapter(adapter))
    expected = policy.generate(prompts, seeds)
    if format == "merged":
        model = config.model.model_copy(update={"path": str(file)})
        found = DiffusionPolicy(
            load_model(model), config
        )  # its own adapter is new and does nothing yet
    else:
        pipeline = load_model(config.model)
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
        pipeline.fuse_lora(components=["unet"])
        pipeline.unload_lora_weights()
        found = DiffusionPolicy(pipeline, config)
    # Pixels in [0, 1]; a rounding step of 8-bit images is 4e-3.
    torch.testing.assert_close(found.generate(prompts, seeds), expected, rtol=0, atol=1e-3)
    assert (plain - expected).abs().max() > 1e-2


def test_the_merged_canvas_draws_the_same_images(tmp_path: Path) -> None:
    config = Config(lora=Lora(rank=4), sampler=Sampler(steps=4))
    policy = DiffusionPolicy(load_model(config.model), config)
    draws = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(t.shape, generator=draws) / 20
        for name, t in policy.adapter_state().items()
    }
    save_adapter(tmp_path / "adapter", state, config)
    prompts, seeds = ["A cat image in noto style.", "A dog image in flat style."], [0, 1]
    plain = policy.generate(prompts, seeds)
    policy.load_adapter(state)
    expected = policy.generate(prompts, seeds)
    written = adapters.export(tmp_path / "adapter", "merged", tmp_path / "merged", config)
    model = config.model.model_copy(update={"path": written["file"]})
    found = DiffusionPolicy(load_model(model), config).generate(prompts, seeds)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (plain - expected).abs().max() > 1e-2


def test_merged_weights_never_replace_anything(
    adapter: Path, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds something"):
        adapters.export(adapter, "merged", tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_merged_weights_are_whole_or_absent(
    adapter: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.export.merging.TOLERANCE", -1.0)
    with pytest.raises(DataError, match="nothing was written"):
        adapters.export(adapter, "merged", tmp_path / "out", config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", adapters.FORMATS)
def test_an_adapter_of_another_model_is_not_exported(
    format: str, adapter: Path, config: Config, tmp_path: Path
) -> None:
    """Plain diffusers would leave out the layers it does not know and call the rest the same."""
    state = {
        name.replace("mid_block", "down_blocks.7"): tensor
        for name, tensor in read_adapter(adapter).items()
    }
    save_adapter(tmp_path / "foreign", state, config)
    with pytest.raises(DataError, match="does not fit this model"):
        adapters.export(tmp_path / "foreign", format, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_kohya_names(adapter: Path, config: Config, tmp_path: Path) -> None:
    names = set(load_file(adapters.export(adapter, "kohya", tmp_path, config)["file"]))
    assert {name.rpartition(".")[2] for name in names} == {"weight", "alpha"}
    assert all(name.startswith("lora_unet_") for name in names)


def test_export_never_replaces_its_source(adapter: Path, config: Config) -> None:
    before = (adapter / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        adapters.export(adapter, "diffusers", adapter, config)
    assert (adapter / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_export_replaces_nothing(
    format: str, adapter: Path, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md exists already; choose another --out"):
        adapters.export(adapter, format, tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_an_erasure_on_top_is_merged_with_what_it_stands_on(
    adapter: Path, config: Config, tmp_path: Path
) -> None:
    above = config.model_copy(
        update={"model": config.model.model_copy(update={"adapters": (str(adapter),)})}
    )
    state = {name: tensor / 2 for name, tensor in read_adapter(adapter).items()}
    save_adapter(tmp_path / "above", state, above)
    written = adapters.export(tmp_path / "above", "merged", tmp_path / "merged", above)
    policy = DiffusionPolicy(load_model(above.model), above)
    policy.load_adapter(state)
    merged = config.model.model_copy(update={"path": written["file"]})
    found = DiffusionPolicy(load_model(merged), config).generate(["a dog"], [0])
    torch.testing.assert_close(found, policy.generate(["a dog"], [0]), rtol=0, atol=1e-3)
    exported = adapters.export(tmp_path / "above", "diffusers", tmp_path / "out", above)
    assert f"pipe.load_lora_weights({str(adapter)!r})" in Path(exported["card"]).read_text()


def test_an_adapter_tells_what_it_was_trained_with(adapter: Path, config: Config) -> None:
    found = run_config(adapter, [])
    assert (found.model.path, found.concept, found.seed) == (config.model.path, "dog", 3)
    assert found.lora == config.lora
    assert found.sampler == config.sampler
    assert run_config(adapter, ["seed=9"]).seed == 9


def test_an_adapter_knows_its_sampler(adapter: Path, config: Config, tmp_path: Path) -> None:
    other = config.model_copy(update={"sampler": Sampler(steps=7, eta=0.5, guidance=2.5)})
    save_adapter(tmp_path, read_adapter(adapter), other)
    assert run_config(tmp_path, []).sampler == other.sampler


def test_a_run_tells_what_it_was_trained_with(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    (tmp_path / "run_state.json").write_text("{}")
    monkeypatch.setenv("RL_UNLEARN__CONCEPT", "fish")
    expected = config.model_copy(update={"output": str(tmp_path.parent)})
    assert run_config(tmp_path, []) == expected, "variables are for new runs"


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


def test_generate_makes_the_folder_of_its_picture(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "picture.png"
    line = [
        "generate",
        "--prompt",
        "a dog",
        "sampler.steps=2",
        f"model.path={config.model.path}",
        "--out",
    ]
    assert main([*line, str(out)]) == 0
    assert out.is_file()
    assert main([*line, str(out / "below" / "x.png")]) == 3, "a file is no folder"


def difference(one: bytes, other: bytes) -> int:
    """Largest difference of two pictures, in 255ths."""
    pixels = [np.asarray(Image.open(io.BytesIO(png))).astype(int) for png in (one, other)]
    return int(abs(pixels[0] - pixels[1]).max())


def test_generate_adds_adapters_up(
    adapter: Path, config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def draw(out: str, *argv: str) -> dict[str, bytes]:
        line = [
            "generate",
            "--prompt",
            "a dog",
            "--prompt",
            "a cat",
            "--seeds",
            "0,5",
            "--json",
            "sampler.steps=3",
        ]
        assert main([*line, "--out", str(tmp_path / out), *argv]) == 0
        files = json.loads(capfd.readouterr().out)["files"]
        return {Path(file).name: Path(file).read_bytes() for file in files}

    one = draw("one", "--adapter", str(adapter))
    assert sorted(one) == [
        "prompt1-seed0.png",
        "prompt1-seed5.png",
        "prompt2-seed0.png",
        "prompt2-seed5.png",
    ]
    assert len(set(one.values())) == 4
    twice = ["--adapter", str(adapter), "--adapter", str(adapter)]
    plain = draw("plain", f"model.path={config.model.path}")
    cancelled = draw("cancelled", *twice, "--scale", "1", "--scale=-1")
    assert max(difference(cancelled[name], plain[name]) for name in plain) <= 1, (
        "what is left is rounding"
    )
    assert min(difference(one[name], plain[name]) for name in plain) > 1
    assert draw("both", *twice) not in (plain, one)


def test_an_adapter_that_another_stands_on_is_added_once_however_it_is_named(
    config: Config, adapter: Path, tmp_path: Path
) -> None:
    from experiments.verbs.generate import _together

    upper = tmp_path / "upper"
    on_top = config.model_copy(
        update={"model": config.model.model_copy(update={"adapters": (str(adapter),)})}
    )
    save_adapter(upper, read_adapter(adapter), on_top)
    nothing = Namespace(overrides=[], config=[])
    for name in (adapter, adapter / FILE_NAME):
        assert _together([name, upper], [1.0, 1.0], nothing)[1].model.adapters == ()
    assert _together([upper], [1.0], nothing)[1].model.adapters == (str(adapter),)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--adapter", "a", "--scale", "1", "--scale", "2"], "one for each"),
        (["--scale", "1"], "one for each"),
        (["--adapter", "a", "--scale", "nan"], "'nan' is not from -100 to 100"),
        (["--adapter", "a", "--scale", "much"], "'much' is not from -100 to 100"),
        (["--adapter", "a", "--scale", "1000"], "'1000' is not from -100 to 100"),
        (["--out", "x.jpg"], ".png"),
    ],
)
def test_wrong_scales_are_explained(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--prompt", "x", *argv]) == 2
    assert hint in capsys.readouterr().err


def test_adapters_of_two_models_are_not_mixed(
    adapter: Path, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = config.model_copy(
        update={"model": config.model.model_copy(update={"path": str(tiny.epsilon_folder())})}
    )
    save_adapter(tmp_path, read_adapter(adapter), other)
    assert (
        main(["generate", "--prompt", "x", "--adapter", str(adapter), "--adapter", str(tmp_path)])
        == 2
    )
    assert "different models" in capsys.readouterr().err
