"""Stage `clip`: two small open_clip models, trained on renders as zero-shot classifiers over every
caption.

The loss is CLIP's, with the texts of a batch replaced by all captions of the canvas, so that no
caption occurs twice: an image is scored against the 160 full captions, the 20 of an object alone
and the 8 of a style alone.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.canvas import augment, vocabulary
from experiments.canvas.data import CONCEPTS, batches, renders
from experiments.canvas.training import Curve, RunningAverage, bfloat16, cosine
from rl_unlearn.canvas import OBJECTS, STYLES, ClipName, caption
from rl_unlearn.canvas.clip import load_clip, normalise
from rl_unlearn.vision import open_clip

SEEDS = {"reward": 21, "selection": 22}
STEPS = {"reward": 3000, "selection": 1800}
BATCH = 128
SMOOTHING = 0.05

CAPTIONS = (
    [caption(o, s) for o in OBJECTS for s in STYLES]
    + [caption(object=o) for o in OBJECTS]
    + [caption(style=s) for s in STYLES]
)

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Draws images (B, 3, 32, 32) in [0, 1] and the share of each concept in them, (B, 160)."""


def new_clip(folder: Path, seed: int) -> tuple[open_clip.CLIP, open_clip.tokenizer.HFTokenizer]:
    """A fresh model; writes its configuration and tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder)
    config = {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {
                "image_size": 32,
                "patch_size": 4,
                "layers": 4,
                "width": 96,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": vocabulary.CONTEXT,
                "vocab_size": len(vocabulary.tokenizer()),
                "hf_tokenizer_name": "canvas",
                "width": 64,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.3] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def save_clip(state: dict[str, Tensor], folder: Path) -> None:
    """Writes the weights in half precision; loading turns them back into float32."""
    half = {name: value.half().contiguous() for name, value in state.items() if name != "attn_mask"}
    partial = folder / "open_clip_model.partial"
    save_file(half, partial, {"format": "pt"})
    partial.rename(folder / "open_clip_model.safetensors")


def augmented(
    images: Tensor, targets: Tensor, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes and distortions that a reward model must not be fooled by."""
    images, targets = augment.mix(images, targets, 0.2, generator)
    images = augment.elastic(images, 0.4, 0.8 * strength, generator)
    images = augment.colour(augment.shift(images, 1, generator), 0.12 * strength, generator)
    images = augment.cutout(augment.blur(images, 0.4, generator), 0.3, 12, generator)
    images = augment.noise(images, 0.5, 0.1 * strength, generator).clamp(0, 1)
    return augment.scramble(images, targets, len(images) // 24, generator)


def loss_of(
    model: open_clip.CLIP, images: Tensor, tokens: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Zero-shot cross-entropy over full, object-only and style-only captions; also the full logits
    (B, 160).
    """
    with bfloat16(), sdpa_kernel(SDPBackend.MATH):
        image = model.encode_image(normalise(model, images)).float()
    text = F.normalize(model.encode_text(tokens), dim=1)
    logits = model.logit_scale.exp() * F.normalize(image, dim=1) @ text.T
    full, by_object, by_style = logits.split([CONCEPTS, len(OBJECTS), len(STYLES)], 1)
    grid = targets.unflatten(1, (len(OBJECTS), len(STYLES)))
    loss = (
        F.cross_entropy(full, targets, label_smoothing=SMOOTHING)
        + F.cross_entropy(by_object, grid.sum(2), label_smoothing=SMOOTHING)
        + F.cross_entropy(by_style, grid.sum(1), label_smoothing=SMOOTHING)
    )
    return loss / 3, full


def attacked(
    model: open_clip.CLIP,
    images: Tensor,
    tokens: Tensor,
    targets: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Images moved a small step up the loss, half of the time along a smoothed gradient; root mean
    square <= 0.06.
    """
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(model, images, tokens, targets)[0], images)
    if torch.rand((), generator=generator) < 0.5:
        gradient = F.avg_pool2d(F.avg_pool2d(gradient, 3, 1, 1), 3, 1, 1)
    gradient = gradient / (gradient.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-12)
    size = augment.uniform(len(images), 0.0, 0.06, generator)
    return (images.detach() + size * gradient.clamp(-3, 3)).clamp(0, 1)


def train(
    model: open_clip.CLIP,
    tokens: Tensor,
    draw: Draw,
    steps: int,
    peak: float,
    patch_dropout: float,
    seed: int,
    curve: Curve,
    adversarial: int = 0,
) -> dict[str, Tensor]:
    """Trains in place, `adversarial` images of each batch attacked; returns the running average of
    the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    if patch_dropout:
        model.visual.patch_dropout = open_clip.transformer.PatchDropout(patch_dropout)
    model.train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, peak, betas=(0.9, 0.98))
    average = RunningAverage(model, 0.997)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * cosine(step, steps, warmup=200)
        images, targets = draw(generator)
        if adversarial:
            some = slice(-adversarial, None)
            images[some] = attacked(model, images[some], tokens, targets[some], generator)
        loss, logits = loss_of(model, images, tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=3.0)
        average.update(model)
        hits = (logits.argmax(1) == targets.argmax(1)).float().mean()
        curve.add(step, loss=loss.detach(), accuracy=hits, scale=model.logit_scale.detach().exp())
    return average.state


@torch.no_grad()
def zero_shot(
    model: open_clip.CLIP, tokens: Tensor, images: Tensor, concepts: Tensor
) -> dict[str, float]:
    """Accuracy against the full captions, the object captions and the style captions."""
    text = F.normalize(model.encode_text(tokens), dim=1)
    image = torch.cat([model.encode_image(normalise(model, chunk)) for chunk in images.split(128)])
    full, by_object, by_style = (F.normalize(image, dim=1) @ text.T).split(
        [CONCEPTS, len(OBJECTS), len(STYLES)], 1
    )
    right = {
        "full": full.argmax(1) == concepts,
        "object": by_object.argmax(1) == concepts // len(STYLES),
        "style": by_style.argmax(1) == concepts % len(STYLES),
    }
    return {name: round(hits.float().mean().item(), 4) for name, hits in right.items()}


def build(name: ClipName, work: Path, weights: Path) -> None:
    """Writes `clip-{name}`, trained on renders."""
    pool = renders(work, "train", per_concept=500, seed=1)
    order = batches(pool, BATCH, torch.Generator().manual_seed(SEEDS[name]))
    eye = torch.eye(CONCEPTS)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = next(order)
        return augmented(pool.take(index), eye[pool.concepts[index]], 1.0, generator)

    folder = weights / f"clip-{name}"
    model, tokenizer = new_clip(folder, SEEDS[name])
    curve = Curve(weights / "curves" / f"clip-{name}.json")
    state = train(model, tokenizer(CAPTIONS), draw, STEPS[name], 2e-3, 0.5, SEEDS[name], curve)
    save_clip(state, folder)
    model, tokenizer = load_clip(folder)
    test = renders(work, "test", per_concept=20, seed=2)
    images = test.take(torch.arange(len(test)))
    print(name, zero_shot(model, tokenizer(CAPTIONS), images, test.concepts), flush=True)
