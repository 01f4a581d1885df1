"""Models by their hub id: what is fetched, what the cache gives without a network, and which commit
is on record.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from huggingface_hub import ModelCard, constants

from experiments import settings
from experiments.__main__ import main
from experiments.doctor import preflight
from experiments.export import adapters
from experiments.runs.run_state import read_state
from experiments.verbs.common import run_config
from rl_unlearn.adapters.adapter_file import metadata
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import foundation, hub, location, model_folder

KINDS = tiny_families.KINDS
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub._known.clear()
    return tmp_path / "hub"


def put(
    cache: Path,
    folder: Path,
    commit: str = FIRST,
    ref: str | None = "main",
    name: str = "owner/name",
) -> Path:
    """A snapshot as the hub's client leaves it: links to content elsewhere."""
    place = cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = place / "blobs" / f"{commit[:4]}-{'-'.join(file.relative_to(folder).parts)}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    if ref is not None:
        point(cache, ref, commit, name)
    return snapshot


def point(cache: Path, ref: str, commit: str, name: str = "owner/name") -> None:
    file = cache / f"models--{name.replace('/', '--')}" / "refs" / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(commit)
    hub._known.clear()


def changed(folder: Path, to: Path) -> Path:
    """The same model with another schedule."""
    shutil.copytree(folder, to)
    file = to / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": 900}))
    return to


@pytest.mark.parametrize("name", KINDS)
def test_the_cache_alone_is_enough(name: str, cache: Path) -> None:
    folder = tiny_families.FOLDERS[name]()
    snapshot = put(cache, folder)
    expected = load_pipeline(Model(path=str(folder), size=tiny_families.SIZE))
    for revision in (None, "main", FIRST):
        model = Model(path="owner/name", revision=revision, size=tiny_families.SIZE)
        assert location.fetched_folder(model) == snapshot
        assert location.pinned(model).revision == FIRST
        config = tiny.config(
            model={"path": "owner/name", "revision": revision, "size": tiny_families.SIZE}
        )
        preflight.model(config)
        assert read_shape_and_kernel(config)[0]
    part = model_folder.read_layout(folder).trained
    found = getattr(load_pipeline(model), part).state_dict()
    assert all(
        torch.equal(value, found[key])
        for key, value in getattr(expected, part).state_dict().items()
    )
    assert foundation.model_digest(model) == foundation.model_digest(Model(path=str(folder)))


def test_what_is_not_whole_in_the_cache_is_refused_in_words(cache: Path) -> None:
    snapshot = put(cache, tiny.pipeline_folder())
    with pytest.raises(
        DataError, match=r"'owner/name' \(model\.revision=dev\) cannot be fetched, and is not whole"
    ):
        location.fetched_folder(Model(path="owner/name", revision="dev"))
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DataError, match="not whole in the hub's cache"):
        location.fetched_folder(Model(path="owner/name"))
    with pytest.raises(DataError, match="no hub id"):
        location.fetched_folder(Model(path="owner/na me"))


def test_a_variant_from_the_cache(cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    put(cache, folder)
    for variant in (None, "fp16"):
        load_pipeline(Model(path="owner/name", variant=variant))


def test_only_what_is_read_is_fetched(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stands for a folder: what is asked for is copied from it into the cache."""
    remote = Path(shutil.copytree(tiny_families.sdxl(), tmp_path / "remote"))
    (remote / "big.ckpt").write_text("")
    (remote / "unet" / "diffusion_pytorch_model.bin").write_text("")
    shutil.copy(remote / "unet" / "diffusion_pytorch_model.safetensors",
                remote / "unet" / "diffusion_pytorch_model.fp16.safetensors")  # fmt: skip
    (remote / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    asked: list[str] = []

    def download(_: str, file: str, revision: str) -> str:
        target = cache / "models--owner--name" / "snapshots" / revision / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(remote / file, target)
        return str(target)

    def snapshot(path: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked[:] = allow_patterns
        for file in allow_patterns:
            download(path, file, SECOND)
        point(cache, revision or "main", SECOND)
        return str(cache / "models--owner--name" / "snapshots" / SECOND)

    names = [str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file()]
    info = SimpleNamespace(sha=SECOND, siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = Model(path="owner/name", size=tiny_families.SIZE)
    load_pipeline(model)
    kept = {
        name
        for name in names
        if not name.endswith((".ckpt", ".bin", ".jinja")) and "fp16" not in name
    }
    assert kept - {*asked} == set()
    assert {*asked} <= {*names} - {
        name for name in names if name.endswith((".ckpt", ".bin")) or "fp16" in name
    }
    load_pipeline(model.model_copy(update={"variant": "fp16"}))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in asked
    assert "unet/diffusion_pytorch_model.safetensors" not in asked
    assert "vae/diffusion_pytorch_model.safetensors" in asked


def test_a_copy_for_others_fetches_what_images_do_not_need(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Path(shutil.copytree(tiny.epsilon_folder(), tmp_path / "remote"))
    snapshot = put(cache, remote)
    index = json.loads((remote / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (snapshot / "model_index.json").unlink()
    (snapshot / "model_index.json").write_text(json.dumps(index))
    names = [
        "README.md",
        "LICENSE",
        "v1.ckpt",
        "v1.safetensors",
        "safety_checker/config.json",
        "unet/config.json",
    ]
    names += [
        f"safety_checker/{name}"
        for name in ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
    ]
    asked: list[str] = []
    info = SimpleNamespace(sha=FIRST, siblings=[SimpleNamespace(rfilename=name) for name in names])
    assert location.whole_folder(Model(path="owner/name")) == snapshot, (
        "without a network it is what there is"
    )
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: asked.append(name))
    assert location.whole_folder(Model(path="owner/name")) == snapshot
    wanted = [
        "LICENSE",
        "README.md",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
    ]
    assert sorted(asked) == wanted


def train(out: Path, *more: str) -> int:
    file = out / "own.yaml"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(
            settings.dump(tiny.config(model={"path": "owner/name"}, loop={"checkpoint_every": 1}))
        )
    line = [
        "train",
        "--config",
        str(file),
        f"output={out}",
        "--name",
        "run",
        "concept=cat",
        "--no-evaluate",
    ]
    return main([*line, *more])


@pytest.mark.slow
def test_a_run_names_its_commit_wherever_the_branch_goes(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, tiny.pipeline_folder())
    assert train(tmp_path / "out", "model.revision=main") == 0
    run = tmp_path / "out" / "run"
    assert settings.recorded(run / "config.yaml").model.revision == FIRST
    assert read_state(run).revision_asked == "main"
    assert metadata(run)["base_revision"] == FIRST
    assert (
        f"from_pretrained('owner/name', revision='{FIRST}')"
        in (run / "adapter" / "README.md").read_text()
    )
    put(cache, changed(tiny.pipeline_folder(), tmp_path / "changed"), SECOND)  # main moves
    assert location.pinned(Model(path="owner/name")).revision == SECOND
    found: list[Config] = [run_config(path, []) for path in (run, run / "adapter")]
    shutil.copy(
        run / "adapter" / "pytorch_lora_weights.safetensors", tmp_path / "alone.safetensors"
    )
    found.append(run_config(tmp_path / "alone.safetensors", [], only_drawn=True))
    assert {config.model.revision for config in found} == {FIRST}
    assert train(tmp_path / "out", "model.revision=main", "--resume", "auto", "loop.rounds=4") == 0
    assert main(["resume", str(run), "loop.rounds=5", "--no-evaluate"]) == 0
    assert train(tmp_path / "out", "model.revision=main", "--resume", "auto", "loop.rounds=5") == 0
    assert settings.recorded(run / "config.yaml").model.revision == FIRST
    capsys.readouterr()
    assert (
        train(tmp_path / "out", f"model.revision={SECOND}", "--resume", "auto", "loop.rounds=7")
        == 5
    )
    assert "stands on the model" in capsys.readouterr().err
    written: dict[str, Any] = adapters.export(
        run, "diffusers", tmp_path / "exported", run_config(run, [])
    )
    assert ModelCard.load(written["card"]).data.base_model == "owner/name"
    assert FIRST in Path(written["card"]).read_text()
