"""A CLIP is looked at before open_clip sees it: nothing runs, nothing is asked of another place."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from rl_unlearn import canvas
from rl_unlearn.clip import clip_layout, clip_source, zeroshot
from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.clip_folder(), tmp_path / "clip"))


def configure(folder: Path, section: str, **values: Any) -> None:
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    content["model_cfg"][section] |= values
    file.write_text(json.dumps(content))


def refused(folder: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("open_clip has seen it")

    monkeypatch.setattr(zeroshot.open_clip, "create_model_from_pretrained", never)
    with pytest.raises(DataError, match=said):
        load_open_clip(str(folder), "reward")


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("text_cfg", {"hf_model_name": "someone/text-tower"}),
        ("vision_cfg", {"timm_model_name": "hf-hub:someone/tower"}),
        ("vision_cfg", {"timm_model_name": "hf_hub:someone/tower", "timm_model_pretrained": True}),
    ],
)
def test_towers_of_other_places_are_not_fetched(section, values, folder, monkeypatch) -> None:
    configure(folder, section, **values)
    refused(folder, "tower of another place", monkeypatch)


def test_a_tokenizer_with_code_of_its_own_is_not_run(folder, monkeypatch) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}
        )
    )
    (folder / "code.py").write_text("raise SystemExit('ran')")
    refused(folder, "auto_map", monkeypatch)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"model_cfg": 5}', '{"model_cfg": {"text_cfg": {}}}', "[" * 10**5]
)
def test_a_damaged_configuration_is_named(content, folder, monkeypatch) -> None:
    (folder / "open_clip_config.json").write_text(content)
    refused(folder, "open_clip_config.json", monkeypatch)


def test_a_file_in_place_of_a_name_is_not_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "ViT-B-32").mkdir()
    shutil.copy("x.pt", "ViT-B-32/x.pt")
    for spec in ("ViT-B-32/x.pt", str(tmp_path / "x.pt"), "./x.pt"):
        with pytest.raises(DataError, match="is no folder"):
            clip_source.check("reward.clip", spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ViT-B-23/openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32/opnai", "did you mean 'openai'"),
        ("ViT-B-32", "arch/pretrained"),
        ("hf-hub:someone/model", "arch/pretrained"),
        ("local-dir:/tmp/x", "arch/pretrained"),
        ("ViT-B-32/", "arch/pretrained"),
    ],
)
def test_a_name_that_open_clip_does_not_have_is_told_at_once(spec, said) -> None:
    start = time.monotonic()
    for ask in (zeroshot.fetch, lambda key, spec: load_open_clip(spec, "reward", key)):
        with pytest.raises(DataError, match=f"selection.clip.*{said}"):
            ask("selection.clip", spec)
    assert time.monotonic() - start < 10, "nothing is asked of the network"


DAMAGE = (
    lambda state: state.pop("token_embedding.weight"),
    lambda state: state.update(extra=torch.ones(1)),
    lambda state: [state.update({f"model.{k}": state.pop(k)}) for k in list(state)],
)


@pytest.mark.parametrize(
    ("damage", "said"),
    zip(
        DAMAGE,
        ("token_embedding.weight", "extra", "Missing key.*positional_embedding"),
        strict=True,
    ),
    ids=["absent", "unexpected", "renamed"],
)
def test_a_clips_weights_have_their_places(damage, said, folder) -> None:
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    damage(state)
    save_file(state, file)
    if damage is not DAMAGE[-1]:
        with pytest.raises(DataError, match=said):
            clip_source.check("reward.clip", str(folder))  # by the header alone
    with pytest.raises(DataError, match=said) as caught:
        load_open_clip(str(folder), "reward")
    assert "reward.clip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_a_clip_cannot_tell_apart_are_refused() -> None:
    clip, tokenizer = load_open_clip(str(tiny.clip_folder()), "reward")
    same = "a very long phrase that all the classes share, "
    with pytest.raises(ConfigError, match=r"cannot tell the object .*prompts\.object_template"):
        ZeroShot(
            clip,
            tokenizer,
            {"object": (same + "cat", same + "dog"), "style": ("a", "b")},
            torch.device("cpu"),
        )


@pytest.mark.parametrize(
    "architecture", ["ViT-B-32", "ViT-L-14", "ViT-B-16-quickgelu", "RN50", "roberta-ViT-B-32"]
)
def test_the_names_are_those_of_open_clip(architecture: str) -> None:
    config = zeroshot.open_clip.get_model_config(architecture)
    found = clip_layout.names(config)
    if not architecture.startswith("ViT"):
        assert found is None, "of another kind only loading can tell"
        return
    config.pop("quick_gelu", None)
    with torch.device("meta"):
        assert found == set(zeroshot.open_clip.CLIP(**config).state_dict())


@pytest.mark.parametrize("name", ["reward", "selection"])
def test_the_canvass_clips_are_whole(name) -> None:
    clip_source.check_folder("reward.clip", canvas.clip_path(name))
