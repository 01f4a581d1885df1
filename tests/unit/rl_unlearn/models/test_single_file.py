"""A checkpoint in one file: made into a folder once, which is read like any other, or refused in
words.
"""

import json
import shutil
from pathlib import Path

import original_layout
import pytest
import tiny
import tiny_families
import torch
from safetensors.torch import load_file, save_file

from experiments import settings
from experiments.__main__ import main
from experiments.doctor import preflight
from experiments.export import adapters
from experiments.export.card import write_card
from experiments.verbs.common import run_config
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Model
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import foundation, location, model_folder, single_file
from rl_unlearn.policy import DiffusionPolicy

FOLDERS = {"stable_diffusion": tiny.epsilon_folder, "sdxl": lambda: tiny_families.sdxl(second=24)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rl-unlearn" / "converted"


def model(name: str, to: Path, half: bool = False) -> Model:
    """A single file, and beside it the folder that describes it, in which no weights are."""
    original_layout.write(FOLDERS[name](), to / "model.safetensors", half)
    described = Path(shutil.copytree(FOLDERS[name](), to / "described"))
    for file in described.rglob("*.safetensors"):
        file.unlink()
    return Model(path=str(to / "model.safetensors"), config=str(described), size=tiny_families.SIZE)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_single_file_is_the_model_that_it_was(
    name: str, half: bool, tmp_path: Path, cache: Path
) -> None:
    chosen, folder = model(name, tmp_path, half), FOLDERS[name]()
    found = load_pipeline(chosen)
    expected = load_pipeline(Model(path=str(folder), size=tiny_families.SIZE))
    for part in model_folder.read_layout(folder).networks:
        state = getattr(found, part).state_dict()
        for key, value in getattr(expected, part).state_dict().items():
            meant = value.half().float() if half and value.is_floating_point() else value
            torch.testing.assert_close(state[key], meant, rtol=0, atol=0, msg=f"{part} {key}")
    (made,) = cache.iterdir()
    assert location.fetched_folder(chosen) == made
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    load_pipeline(chosen)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}, "it is made once"
    kinds = {
        value.dtype
        for value in load_file(made / "unet" / "diffusion_pytorch_model.safetensors").values()
    }
    assert kinds == {torch.float16 if half else torch.float32}
    told = b"".join(path.read_bytes() for path in made.rglob("*.json"))
    assert str(tmp_path).encode() not in told


def test_another_description_is_another_model(tmp_path: Path, cache: Path) -> None:
    chosen = model("stable_diffusion", tmp_path)
    first = foundation.model_digest(chosen)
    file = tmp_path / "described" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": 900}))
    assert foundation.model_digest(chosen) != first
    assert len(list(cache.iterdir())) == 2


def test_the_look_converts_nothing(tmp_path: Path, cache: Path) -> None:
    chosen = model("stable_diffusion", tmp_path)
    preflight.model(tiny.config(model=chosen.model_dump()))
    assert not cache.exists()


def test_what_is_missing_is_said(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = model("stable_diffusion", tmp_path)
    line = [
        "generate",
        "--prompt",
        "a cat",
        "--out",
        str(tmp_path / "x.png"),
        f"model.path={chosen.path}",
    ]
    assert main(line) == 2
    assert "is a single file: name a pipeline's folder or hub id" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main([*line, f"model.config={tiny_families.flux()}"]) == 5
    assert "is a FluxPipeline: a single file can be one of" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main([*line, f"model.config={tiny_families.sdxl()}"]) == 5
    assert "is no checkpoint of the kind that model.config" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main([*line, "model.config=owner/name"]) == 5
    assert "'owner/name' cannot be fetched" in " ".join(capsys.readouterr().err.split())
    assert not cache.exists() or not list(cache.iterdir()), "nothing half-made stays"
    assert main([*line, f"model.config={chosen.config}"]) == 0
    with pytest.raises(ConfigError, match=r"model\.config is for a model in a single file"):
        load_pipeline(Model(path=str(tiny.pipeline_folder()), config=chosen.config))
    (tmp_path / "model.ckpt").write_text("")
    with pytest.raises(DataError, match="is a pickle"):
        load_pipeline(Model(path=str(tmp_path / "model.ckpt"), config=chosen.config))
    (tmp_path / "model.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_pipeline(chosen)


@pytest.mark.parametrize(
    "part", ["first_stage_model.", "cond_stage_model.", "model.diffusion_model."]
)
def test_a_file_that_lacks_a_network_is_refused(part: str, tmp_path: Path, cache: Path) -> None:
    """Though the folder that describes it has one: half of one model and half of another would draw
    something.
    """
    chosen = model("stable_diffusion", tmp_path).model_copy(
        update={"config": str(tiny.epsilon_folder())}
    )
    file = Path(chosen.path)
    save_file(
        {k: v for k, v in load_file(file).items() if not k.startswith(part)}, file, {"format": "pt"}
    )
    with pytest.raises(DataError, match="is no checkpoint of the kind"):
        load_pipeline(chosen)
    assert list(cache.iterdir()) == []


def test_an_adapter_says_what_describes_its_model(tmp_path: Path) -> None:
    chosen = tiny.config(model=model("sdxl", tmp_path).model_dump())
    state = DiffusionPolicy(load_pipeline(chosen.model), chosen).adapter_state()
    save_adapter(tmp_path / "adapter", state, chosen, foundation.of_model(chosen.model))
    found = run_config(tmp_path / "adapter", [], only_drawn=True)
    assert (found.model.path, found.model.config) == (chosen.model.path, chosen.model.config)
    assert found.model.size == tiny_families.SIZE
    text = write_card(tmp_path / "adapter", tmp_path, found).read_text()
    assert f"StableDiffusionXLPipeline.from_single_file({chosen.model.path!r}, config=" in text


def test_it_is_merged_like_any_other(tmp_path: Path) -> None:
    chosen = tiny.config(
        model=model("stable_diffusion", tmp_path, half=True).model_dump(), lora={"rank": 2}
    )
    state = DiffusionPolicy(load_pipeline(chosen.model), chosen).adapter_state()
    save_adapter(
        tmp_path / "adapter", {k: torch.full_like(t, 0.3) for k, t in state.items()}, chosen
    )
    adapters.export(tmp_path / "adapter", "merged", tmp_path / "out", chosen)
    kinds = {
        value.dtype
        for value in load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors").values()
    }
    assert kinds == {torch.float16}
    told = b"".join(
        path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.suffix in (".json", ".md")
    )
    assert str(tmp_path).encode() not in told


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model("stable_diffusion", tmp_path)
    monkeypatch.chdir(tmp_path)
    found = settings.load(
        overrides=["model.path=model.safetensors", "model.config=described"], environ={}
    )
    assert (found.model.path, found.model.config) == (
        str(tmp_path / "model.safetensors"), str(tmp_path / "described")
    )  # fmt: skip
    assert single_file.named(found.model)
