"""Judges of every kind: what they give, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from rl_unlearn import canvas
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.evaluation.judges import Judgement, ProbabilityJudge, load_judge
from rl_unlearn.models.fingerprint import weights_digest
from rl_unlearn.vision import timm

LABELS = {
    "object": ["Fish", "dog", "CAT", "bear"],
    "style": ["noto", "flat"],
}  # another order, and one more


def transformers_judge(root: Path) -> Path:
    for domain, labels in LABELS.items():
        torch.manual_seed(len(labels))
        shape = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=16,
            patch_size=8, id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        ViTForImageClassification(shape).save_pretrained(root / domain)
    return root


def sign(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n")


def timm_judge(root: Path) -> Path:
    for domain, labels in LABELS.items():
        folder = root / domain
        folder.mkdir(parents=True)
        torch.manual_seed(len(labels))
        network = timm.create_model("test_vit", pretrained=False, num_classes=len(labels))
        save_file(network.state_dict(), folder / "model.safetensors")
        about = {"architecture": "test_vit", "num_classes": len(labels), "label_names": labels}
        (folder / "config.json").write_text(json.dumps(about))
        sign(folder)
    return root


def load(judge: Path | str, **overrides: object) -> ProbabilityJudge:
    return load_judge(tiny.config(evaluation={"judge": str(judge)}, **overrides))


@pytest.mark.parametrize("make", [transformers_judge, timm_judge])
def test_a_folder_of_classifiers_is_read_by_label(make, tmp_path):
    judge = load(make(tmp_path / "judges"))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = judge.classify(images)
    assert {d: tuple(v.shape) for d, v in found.log_probs.items()} == {
        "object": (4, 3),
        "style": (4, 2),
    }
    assert found.features.shape[0] == 4
    for values in found.log_probs.values():
        assert torch.allclose(values.exp().sum(dim=1), torch.ones(4), atol=1e-5)
    assert "not Inception" in judge.feature_extractor
    labels = judge(images)
    assert all(torch.equal(labels[d], found.log_probs[d].argmax(dim=1)) for d in labels)

    # The same by hand: the world's order is cat, dog, fish.
    if make is transformers_judge:
        network = AutoModelForImageClassification.from_pretrained(
            tmp_path / "judges" / "object"
        ).eval()
        logits = network((images - 0.5) / 0.5).logits
    else:
        network = timm.create_model("test_vit", pretrained=False, num_classes=4)
        network.load_state_dict(load_file(tmp_path / "judges" / "object" / "model.safetensors"))
        side = network.pretrained_cfg["input_size"][-1]
        larger = torch.nn.functional.interpolate(
            images, (side, side), mode="bilinear", antialias=True
        )
        logits = network.eval()((larger - 0.5) / 0.5)
    expected = logits.detach()[:, [2, 1, 0]].log_softmax(dim=1)
    assert torch.allclose(found.log_probs["object"], expected, atol=1e-4)


def test_a_judge_must_know_the_world(tmp_path):
    folder = transformers_judge(tmp_path / "judges")
    with pytest.raises(ConfigError, match="does not know whale: it knows Fish"):
        load(folder, prompts={"objects": ("cat", "dog", "whale")})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "style50.pth"), "style50.pth, a pickle"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (
            lambda f: (f / "config.json").write_text('{"num_classes": 4}'),
            "neither timm's 'architecture'",
        ),
        (lambda f: (f / "SHA256SUMS").unlink(), "sha256sum model.safetensors"),
        (
            lambda f: (f / "SHA256SUMS").write_text("0" * 64 + "  model.safetensors\n"),
            "not the file",
        ),
        (lambda f: relabel(f, None), "label_names"),
        (lambda f: relabel(f, ["fish", "dog", "cat"]), "head has 4 rows for 3 label_names"),
        (lambda f: relabel(f, ["fish", "dog", "cat", "Dog"]), "a label twice"),
        (lambda f: shutil.rmtree(f), "config.json cannot be read"),
    ],
)
def test_an_unfit_timm_judge_is_refused(damage, message, tmp_path):
    root = timm_judge(tmp_path / "judges")
    damage(root / "object")
    with pytest.raises(DataError, match=message):
        load(root)


def relabel(folder: Path, labels: list[str] | None) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"label_names": labels}))


def test_a_cut_file_is_refused_though_its_sum_is_right(tmp_path):
    folder = timm_judge(tmp_path / "judges") / "style"
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    sign(folder)
    with pytest.raises(DataError, match="is not a valid safetensors"):
        load(tmp_path / "judges")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_judge_must_not_have_trained_under_any_name(seed, tmp_path):
    used = tiny.clip_folder(seed)
    with pytest.raises(ConfigError, match="another network"):
        load(used)
    copy = tmp_path / "innocent"
    shutil.copytree(used, copy)
    with pytest.raises(
        ConfigError, match=r"innocent' has the weights of the (reward|selection) CLIP"
    ):
        load(copy)
    # Stored in half precision it is still the same network.
    stored = load_file(copy / "open_clip_model.safetensors")
    halves = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }
    save_file(halves, copy / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match="has the weights of"):
        load(copy)


def test_a_network_that_rewarded_does_not_judge_under_any_name(tmp_path):
    judges, copy = transformers_judge(tmp_path / "judges"), tmp_path / "copy"
    shutil.copytree(judges / "object", copy)
    for folder in (judges / "object", copy):
        with pytest.raises(
            ConfigError, match=r"holds the network of the reward 'classifier:.*:Dog'"
        ):
            load(judges, reward={"images": {f"classifier:{folder}:Dog": 1.0}})
    head = load_file(copy / "model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in head.items()},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    assert load(judges, reward={"images": {f"classifier:{copy}:Dog": 1.0}}).name == str(judges), (
        "another network"
    )


def test_the_canvas_clips_are_refused_as_judges_of_the_canvas():
    with pytest.raises(ConfigError, match="has the weights of the reward CLIP 'canvas'"):
        load_judge(Config(evaluation={"judge": str(canvas.clip_path("reward"))}))


def test_digests_tell_networks_apart_and_ignore_names():
    weights = {"a": torch.rand(3, 2), "b": torch.rand(4), "steps": torch.tensor(7)}
    assert weights_digest(weights) == weights_digest({"x": weights["b"], "y": weights["a"]})
    assert weights_digest(weights) != weights_digest(weights | {"b": torch.rand(4)})


def test_the_canvas_judges_know_the_canvas_only():
    with pytest.raises(ConfigError, match="canvas"):
        load_judge(tiny.config())


def test_the_canvas_judges_show_features_and_sureness():
    judge = load_judge(Config())
    found = judge.classify(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert {d: tuple(v.shape) for d, v in found.log_probs.items()} == {
        "object": (3, 20),
        "style": (3, 8),
    }
    assert found.features.shape[1] > 64
    assert "canvas" in judge.feature_extractor


def test_an_open_clip_judge_gives_classes():
    judge = load(tiny.clip_folder(2))
    labels = judge(torch.rand(4, 3, 16, 16))
    assert {d: v.shape for d, v in labels.items()} == {"object": (4,), "style": (4,)}
    assert labels["object"].max() < 3
    assert labels["style"].max() < 2
    assert judge.classify(torch.rand(2, 3, 16, 16)).features.shape == (2, 16)


def test_the_panel_is_the_mean_of_its_members():
    def seen(name: str) -> Judgement:
        return load_judge(Config(evaluation={"judge": name})).classify(images)

    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    members = [seen(f"canvas:{member}") for member in canvas.PANEL]
    panel = seen("canvas:panel")
    for domain in ("object", "style"):
        mean = torch.stack([member.log_probs[domain].exp() for member in members]).mean(dim=0)
        torch.testing.assert_close(panel.log_probs[domain].exp(), mean)
    assert panel.features.shape[1] == sum(member.features.shape[1] for member in members)
    with pytest.raises(
        ConfigError, match="canvas:third' is unknown: the canvas has canvas, canvas:panel"
    ):
        seen("canvas:third")
