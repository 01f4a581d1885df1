"""A tiny world for tests: a Stable Diffusion and two open_clip folders with random weights, and a
configuration.
"""

import atexit
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from learner.events import Event, Round
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Config, Model, Sampler
from rl_unlearn.estimators import NAMES
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.vision import open_clip

ESTIMATORS = NAMES
OBJECTS = ("cat", "dog", "fish")
STYLES = ("flat", "noto")
CONTEXT = 32
SHAPE = (4, 8, 8)


@functools.cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="tiny-world-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def tokenizer() -> CLIPTokenizer:
    """Every letter is a token; the end mark has the highest id, as CLIP's text towers expect."""
    letters = [c + end for c in map(chr, range(33, 127)) for end in ("", "</w>")]
    vocabulary = {
        token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])
    }
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT)


@functools.cache
def pipeline_folder() -> Path:
    """A genuine pipeline: 4x8x8 latents (D = 256), 16x16 images, v-prediction."""
    words = tokenizer()
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT, bos_token_id=188, eos_token_id=189, pad_token_id=189,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1, clip_sample=False,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=words, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = _root() / "pipeline"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@functools.cache
def epsilon_folder() -> Path:
    """The same as Stable Diffusion 1.x comes: it predicts the noise, and its scheduler is PNDM."""
    folder = Path(shutil.copytree(pipeline_folder(), _root() / "epsilon"))
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]})
    )
    return folder


@functools.cache
def clip_folder(seed: int = 0) -> Path:
    """An open_clip ViT in open_clip's folder layout: 16x16 images, 4x4 patches, width 32, 2
    layers."""
    folder = _root() / f"clip-{seed}"
    words = tokenizer()
    words.save_pretrained(folder)
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 4, "layers": 2, "width": 32,
                       "head_width": 16},
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": len(words), "hf_tokenizer_name": "tiny",
            "width": 16, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.3] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(100 + seed)
    # load_weights=False: the folder has none yet, open_clip is only asked to build the
    # architecture.
    clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@functools.cache
def _loaded(path: str) -> StableDiffusionPipeline:
    return load_pipeline(Model(path=path))


def load_quickly(model: Model, _sampler: Sampler | None = None) -> StableDiffusionPipeline:
    """What load_pipeline gives, without reading the folder again."""
    return copy.deepcopy(_loaded(model.path))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learners and rollout actors made in this process load their pipeline quickly."""
    monkeypatch.setattr("learner.learner.load_pipeline", load_quickly)
    monkeypatch.setattr("actors.rollout.load_pipeline", load_quickly)


_SETTINGS: dict[str, dict[str, Any]] = {
    "sampler": {"steps": 4},
    "lora": {"rank": 2},
    "prompts": {"objects": OBJECTS, "styles": STYLES},
    "critic": {
        "minibatch": 16,
        "steps": 2,
        "window": 16,
        "warmup_images": 8,
        "warmup_steps": 2,
        "grid": 2,
        "layers": 1,
    },
    # All of the four steps: half of so few leaves tests little to see. Only tests that ask for it
    # hold the anchor, for what that costs is no small part of the loss here.
    "learner": {
        "batch": 8,
        "microbatch": 8,
        "kl_states": 8,
        "steps_share": 1.0,
        "anchor_weight": 0.0,
    },
    "rollout": {"images": 8, "batch": 8},
    "replay": {"capacity": 256, "max_lag": 4},
    "loop": {"rounds": 3, "timeout": 60.0},
    "selection": {"images": 8, "every": 2, "floor": 0.0},
    "evaluation": {"target_images": 2, "other_images": 1},
    "cluster": {"inline": True},
}


def config(**overrides: Any) -> Config:
    """Configuration of a run on the tiny world: ``config(seed=1, loop={"rounds": 2})``."""
    tree = {key: dict(value) for key, value in _SETTINGS.items()}
    tree["model"] = {"path": str(pipeline_folder())}
    tree["reward"] = {"clip": str(clip_folder(0))}
    tree["selection"]["clip"] = str(clip_folder(1))
    for key, value in overrides.items():
        tree[key] = tree.get(key, {}) | value if isinstance(value, dict) else value
    return Config(**tree)


@functools.cache
def adapter_folder() -> Path:
    """An adapter of the tiny pipeline that changes something."""
    from learner.learner import Learner

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    fresh = Learner(config()).weights().state
    save_adapter(folder, {name: torch.full_like(t, 0.01) for name, t in fresh.items()}, config())
    return folder


def round_event(round: int = 1, **metrics: Any) -> Round:
    """The event of a round with these metrics."""
    given = {"round": round, "rounds": 9, "images": 8, "seconds": 1.0, "images_per_second": 8.0}
    return Round.model_validate(given | metrics)


class Nobody:
    """A handle of an actor that is never called."""

    def __getattr__(self, name: str) -> None:
        return None


def into(events: list[tuple[str, dict[str, Any]]]) -> Callable[[Event], None]:
    """An `emit` that keeps the name and the row of each event."""
    return lambda event: events.append((event.name, event.row()))


def versions(events: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Digests of the weights after every update; what so small a world selects is often the
    untouched model.
    """
    return [row["weights"] for name, row in events if name == "update"]
