"""The canvas as shipped: names, renders, pipeline, CLIP models and judges, loaded as a user loads
them.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch.nn import functional as F

from rl_unlearn import canvas
from rl_unlearn.canvas.clip import load_clip, normalise
from rl_unlearn.canvas.judges import load_judge, load_traits, outlines
from rl_unlearn.canvas.render import render, render_with_factors
from rl_unlearn.models.fingerprint import weights_digest

CONCEPTS = torch.arange(160)
SPRITES = "0c7001de42b4e51ced94b78d982b7231bc3f4674e86b31d5c86eef5eeb6855e5"
OBJECT, STYLE = CONCEPTS // 8, CONCEPTS % 8


@pytest.fixture(scope="module")
def unseen() -> torch.Tensor:
    """Five unseen renders of every concept, (800, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(1234)
    return torch.cat([render(OBJECT, STYLE, generator, split="test") for _ in range(5)])


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(canvas.pipeline_path())
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def generated(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    """Two images of every concept by the default sampler, (320, 3, 32, 32)."""
    prompts = [canvas.caption(o, s) for o in canvas.OBJECTS for s in canvas.STYLES] * 2
    generator = torch.Generator().manual_seed(4321)
    parts = [
        pipeline(
            prompts[i : i + 80],
            num_inference_steps=10,
            guidance_scale=1.0,
            eta=1.0,
            generator=generator,
            output_type="pt",
        ).images
        for i in range(0, 320, 80)
    ]
    return torch.cat(parts)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(1) == labels.repeat(len(logits) // len(labels))).float().mean().item()


def test_captions() -> None:
    assert canvas.caption("cat", "noto") == "A cat image in noto style."
    assert canvas.caption(object="cat") == "A cat image."
    assert canvas.caption(style="noto") == "An image in noto style."
    assert canvas.caption() == ""
    assert (len(canvas.OBJECTS), len(canvas.STYLES)) == (20, 8)
    with pytest.raises(ValueError, match="unknown object 'dragon'"):
        canvas.caption("dragon")
    with pytest.raises(ValueError, match="unknown style 'oil'"):
        canvas.caption("cat", "oil")


def test_unknown_models_are_refused() -> None:
    with pytest.raises(
        (ValueError, TypeError)
    ):  # TypeError where annotations are checked at run time
        canvas.clip_path("other")
    with pytest.raises((ValueError, TypeError)):
        canvas.judge_path("other")


def test_importing_the_names_imports_nothing_heavy() -> None:
    code = (
        "import sys, rl_unlearn.canvas; print(sorted({'torch', 'ray', 'diffusers'} & "
        "set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_the_shipped_files_are_small_and_safe() -> None:
    files = [path for path in canvas.sprites_path().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".jinja"}


def test_sprites_are_the_recorded_ones() -> None:
    sprites = load_file(canvas.sprites_path())["sprites"]
    assert sprites.shape == (20, 8, 4, 64, 64)
    assert sprites.dtype == torch.uint8
    assert (sprites[:, :, :3] <= sprites[:, :, 3:]).all()  # premultiplied
    assert hashlib.sha256(sprites.numpy().tobytes()).hexdigest() == SPRITES


def test_render_is_a_function_of_the_generator() -> None:
    names = ["cat", "rocket"], ["noto", "contrast"]
    first = render(*names, torch.Generator().manual_seed(5))
    again = render(*names, torch.Generator().manual_seed(5))
    other = render(*names, torch.Generator().manual_seed(6))
    by_index = render(torch.tensor([4, 19]), torch.tensor([0, 7]), torch.Generator().manual_seed(5))
    assert first.shape == (2, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(first, by_index)
    assert not torch.equal(first, other)


def test_factors_are_those_of_the_same_images() -> None:
    images, factors = render_with_factors(OBJECT, STYLE, torch.Generator().manual_seed(5))
    assert torch.equal(images, render(OBJECT, STYLE, torch.Generator().manual_seed(5)))
    # The mirror image of a drawing is the mirror image: its other factors stay what they are.
    assert factors.traits().shape == (160, 3)
    assert factors.traits().float().mean(0).sub(0.5).abs().max() < 0.15
    assert torch.equal(factors.traits()[:, 1], factors.scale > 0.87)


def test_a_factor_is_what_its_name_says() -> None:
    """Of one drawing on plain ground: how much of it lies right of its middle, its area, and the
    way it leans.
    """
    count = 400
    tower, horse = torch.full((count,), 17), torch.full((count,), 10)
    for name, thing in (("tilted", tower), ("large", tower), ("mirrored", horse)):
        draws = torch.Generator().manual_seed(6)
        images, factors = render_with_factors(thing, torch.full((count,), 7), draws)
        ink = (images.amax((2, 3), keepdim=True) - images).mean(1).clamp(min=0)
        ink = ink * (ink > 0.25)
        axis = torch.arange(32.0)
        mass = ink.sum((1, 2))
        x = (ink * axis).sum((1, 2)) / mass
        y = (ink * axis[:, None]).sum((1, 2)) / mass
        dx, dy = axis - x[:, None, None], axis[:, None] - y[:, None, None]
        measured = {
            "tilted": -(ink * dx * dy).sum((1, 2)) / mass,  # a clockwise tower leans to the right
            "large": mass,
            "mirrored": (ink * dx.pow(3)).sum((1, 2)) / mass,
        }[name]
        truth = {
            "tilted": factors.angle, "large": factors.scale, "mirrored": factors.mirrored.float()
        }[name]  # fmt: skip
        together = torch.corrcoef(torch.stack([measured, truth]))[0, 1]
        assert together.abs() > 0.6 if name == "mirrored" else together > 0.8, name


@pytest.mark.parametrize("role", ["reward", "selection", "judge"])
def test_traits_are_seen_on_unseen_renders(role: str) -> None:
    objects = torch.tensor([canvas.OBJECTS.index(name) for name in ("horse", "bird", "fish")])
    network = load_traits(role)
    draws = torch.Generator().manual_seed(7)
    images, factors = render_with_factors(
        objects.repeat(80), torch.arange(8).repeat_interleave(3).repeat(10), draws, "test"
    )
    right = ((network(images) > 0) == factors.traits()).float().mean(0)
    assert (right > torch.tensor([0.96, 0.86, 0.78])).all(), right


def test_the_networks_that_see_traits_are_three() -> None:
    digests = {
        weights_digest(load_traits(role).state_dict()) for role in ("reward", "selection", "judge")
    }
    assert len(digests) == 3


def test_the_splits_share_no_draw() -> None:
    from rl_unlearn.canvas.render import _cells

    train, test = ({tuple(pair) for pair in _cells(split).tolist()} for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 64


@pytest.mark.parametrize("member", ["main", *canvas.PANEL])
@pytest.mark.parametrize("head", ["object", "style"])
def test_judges_know_unseen_renders(head: str, member: str, unseen: torch.Tensor) -> None:
    judge = load_judge(head, member)
    assert not judge.training
    assert all(p.dtype == torch.float32 for p in judge.parameters())
    with torch.no_grad():
        logits = judge(unseen)
    assert logits.shape == (800, {"object": 20, "style": 8}[head])
    assert accuracy(logits, {"object": OBJECT, "style": STYLE}[head]) >= 0.99


def test_outlines_are_the_same_in_any_colour() -> None:
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, :, 8:24, 8:24] = 1
    found = outlines(picture)
    assert found.shape == picture.shape
    assert found[:, :, 12:20, 12:20].max() == 0, "nothing inside"
    assert found.max() == 1
    pale = 0.4 + 0.2 * picture * torch.tensor([1.0, 0.5, 0.0])[None, :, None, None]
    torch.testing.assert_close(outlines(pale), found)
    torch.testing.assert_close(outlines(1 - pale), found)


def test_the_panel_is_of_other_networks_than_the_judge() -> None:
    weights = [load_judge("object", member).state_dict() for member in ("main", *canvas.PANEL)]
    assert len({weights_digest(state) for state in weights}) == 4


def test_the_object_judge_is_unsure_of_noise() -> None:
    noise = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert load_judge("object")(noise).softmax(1).amax(1).mean() < 0.7


@pytest.mark.parametrize("name", ["reward", "selection"])
def test_clip_knows_unseen_renders(name: str, unseen: torch.Tensor) -> None:
    model, tokenizer = load_clip(canvas.clip_path(name))
    assert not model.training
    full = [canvas.caption(o, s) for o in canvas.OBJECTS for s in canvas.STYLES]
    with torch.no_grad():
        image = F.normalize(model.encode_image(normalise(model, unseen)), dim=1)
        for captions, labels in (
            (full, CONCEPTS),
            ([canvas.caption(object=o) for o in canvas.OBJECTS], OBJECT),
            ([canvas.caption(style=s) for s in canvas.STYLES], STYLE),
        ):
            text = F.normalize(model.encode_text(tokenizer(captions)), dim=1)
            assert accuracy(image @ text.T, labels) >= 0.98


def test_load_clip_refuses_other_formats(tmp_path: Path) -> None:
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="other weight formats are not read"):
        load_clip(tmp_path)


def test_pipeline_parts(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert len(pipeline.tokenizer("A cat image in noto style.").input_ids) == 9
    unknown = pipeline.tokenizer("7").input_ids[1:-1]
    assert unknown == [pipeline.tokenizer.unk_token_id]


def test_generated_images_show_their_prompt(generated: torch.Tensor) -> None:
    assert generated.shape == (320, 3, 32, 32)
    with torch.no_grad():
        assert accuracy(load_judge("object")(generated), OBJECT) >= 0.95
        assert accuracy(load_judge("style")(generated), STYLE) >= 0.94


def test_the_recorded_quality_meets_the_bar() -> None:
    quality = json.loads((canvas.sprites_path().parent / "quality.json").read_text())
    made = quality["judges"]["generated"]
    assert made["object"] >= 0.98
    assert min(made["by_object"].values()) >= 0.92
    assert made["style"] >= 0.97
    assert min(made["by_style"].values()) >= 0.90
