"""A merged folder is the source's, file by file, but for the weights that were trained, and tells
nobody's paths.
"""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_families
import torch
import weight_files
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from experiments.export import adapters, merging
from experiments.export.source_copy import KEPT_CARD, copy_source
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import location, model_folder
from rl_unlearn.policy import DiffusionPolicy

KINDS = tiny_families.KINDS


def dressed(name: str, to: Path, half: bool) -> Path:
    """The family's folder as its makers publish it: half precision, card, licence, safety checker,
    traces of a disk.
    """
    folder = Path(shutil.copytree(tiny_families.FOLDERS[name](), to))
    for file in folder.rglob("*.safetensors"):
        state = load_file(file)
        save_file({k: v.half() if half else v for k, v in state.items()}, file, {"format": "pt"})
    trained = model_folder.read_layout(folder).trained
    (folder / "README.md").write_text("---\nlicense: other\n---\n# The model")
    (folder / "LICENSE.md").write_text("You may.")
    (folder / "old.safetensors").write_text("the old weights once more")
    (folder / trained / "diffusion_pytorch_model.bin").write_text("and once more")
    (folder / trained / "diffusion_pytorch_model.ema.safetensors").write_text("and once more")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text(str(folder))
    (folder / "assets").mkdir()
    (folder / "assets" / "one.txt").write_text("kept")
    for part in ("safety_checker", "feature_extractor"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(
            json.dumps({"_name_or_path": "/home/somebody/clip", "x": 1})
        )
    if name == "stable_diffusion":
        (folder / "safety_checker" / "model.safetensors").write_text("checks")
    for file, key in (("model_index.json", "_name_or_path"),
                      (f"{trained}/config.json", "_name_or_path"),
                      ("tokenizer/tokenizer_config.json", "name_or_path")):  # fmt: skip
        content = json.loads((folder / file).read_text())
        if file == "model_index.json" and name == "stable_diffusion":
            content |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
            content |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
        (folder / file).write_text(json.dumps(content | {key: str(folder)}))
    return folder


def adapter(config: Config, to: Path) -> Path:
    state = DiffusionPolicy(load_pipeline(config.model), config).adapter_state()
    draws = torch.Generator().manual_seed(1)
    save_adapter(
        to, {name: torch.randn(t.shape, generator=draws) / 4 for name, t in state.items()}, config
    )
    return to


def config(folder: Path, **model: object) -> Config:
    size = {"path": str(folder), "size": tiny_families.SIZE} | model
    return tiny.config(
        model=size, lora={"rank": 2, "layers": "attention"}, sampler={"guidance": 1.0}
    )


@pytest.mark.parametrize(("name", "half"), [(name, True) for name in KINDS] + [("sdxl", False)])
def test_only_the_trained_weights_change(name: str, half: bool, tmp_path: Path) -> None:
    folder = dressed(name, tmp_path / "model", half)
    chosen, out = config(folder), tmp_path / "out"
    written = adapters.export(adapter(chosen, tmp_path / "adapter"), "merged", out, chosen)
    trained, layout = model_folder.read_layout(folder).trained, model_folder.read_layout(folder)
    assert written["largest_difference"] < (2e-2 if half else 1e-4)
    assert written["left_out"] == []
    kept = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    gone = {Path("old.safetensors"), Path(".cache/x"),
            Path(trained) / "diffusion_pytorch_model.bin",
            Path(trained) / "diffusion_pytorch_model.ema.safetensors"}  # fmt: skip
    found = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert found == (kept - gone) | {Path(KEPT_CARD)}
    for file in kept - gone - {Path("README.md")}:
        assert str(tmp_path) not in (out / file).read_bytes().decode(errors="replace"), file
        assert "/home/somebody" not in (out / file).read_bytes().decode(errors="replace"), file
        if file.suffix == ".json" and b"name_or_path" in (folder / file).read_bytes():
            before = json.loads((folder / file).read_text())
            left = {key: value for key, value in before.items() if not key.endswith("name_or_path")}
            assert json.loads((out / file).read_text()).items() >= left.items()
        elif file != Path(trained) / "diffusion_pytorch_model.safetensors":
            assert (out / file).read_bytes() == (folder / file).read_bytes(), file
    assert (out / KEPT_CARD).read_bytes() == (folder / "README.md").read_bytes()
    before, after = (
        load_file(f / trained / "diffusion_pytorch_model.safetensors") for f in (folder, out)
    )
    assert {key: value.dtype for key, value in before.items()} == {
        key: value.dtype for key, value in after.items()
    }
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(
        any(part in key for part in ("attn", "to_q", "to_k", "to_v", "to_out")) for key in changed
    )
    left_out = dict.fromkeys(("safety_checker", "feature_extractor"))
    plain = DiffusionPipeline.from_pretrained(
        out, **(left_out if name == "stable_diffusion" else {})
    )
    network = getattr(plain, layout.trained).state_dict()
    assert all(torch.equal(network[key], value.float()) for key, value in after.items())


def test_a_variant_keeps_its_name_and_its_shards(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_families.sdxl(), tmp_path / "model"))
    for name in ("unet", "vae"):
        weight_files.halve(folder, name)
    index = "diffusion_pytorch_model.safetensors.index.fp16.json"
    weight_files.split(folder, "unet", index)
    for variant in (None, "fp16"):
        chosen, out = config(folder, variant=variant), tmp_path / f"out-{variant}"
        written = adapters.export(
            adapter(chosen, tmp_path / f"adapter-{variant}"), "merged", out, chosen
        )
        assert {path.name for path in (out / "unet").iterdir()} == {
            path.name for path in (folder / "unet").iterdir()
        }
        assert (out / "unet" / index).read_bytes() == (folder / "unet" / index).read_bytes()
        assert ('from_pretrained("this folder", variant=' in Path(written["card"]).read_text()) == (
            variant == "fp16"
        )
        DiffusionPipeline.from_pretrained(out, variant="fp16")


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    folder = dressed("sdxl", tmp_path / "model", half=True)
    chosen = config(folder)
    policy = DiffusionPolicy(load_pipeline(chosen.model), chosen)
    huge = {name: torch.full(t.shape, 400.0) for name, t in policy.adapter_state().items()}
    save_adapter(tmp_path / "adapter", huge, chosen)
    with pytest.raises(DataError, match="nothing was written"):
        merging.merge(tmp_path / "adapter", tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


def test_what_the_cache_lacks_is_not_named_by_the_copy(tmp_path: Path) -> None:
    folder = dressed("stable_diffusion", tmp_path / "model", half=False)
    shutil.rmtree(folder / "safety_checker")
    assert copy_source(folder, tmp_path / "out", "unet") == ["safety_checker"]
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert index["requires_safety_checker"] is False
    assert location.whole_folder(Model(path=str(folder))) == folder


def test_names_on_the_hub_stay(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))
    file = folder / "text_encoder" / "config.json"
    content = json.loads(file.read_text()) | {"_name_or_path": "openai/clip-vit-large-patch14"}
    file.write_text(json.dumps(content))
    copy_source(folder, tmp_path / "out", "unet")
    assert (tmp_path / "out" / "text_encoder" / "config.json").read_bytes() == file.read_bytes()
