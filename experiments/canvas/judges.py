"""Stages `judges` and `panel`: classifiers trained on renders and on reconstructions of them, and
on nothing else.

Light augmentation and label smoothing keep them strict: an image that is neither one nor the other
gets a low confidence.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from experiments.canvas import augment
from experiments.canvas.autoencoder import decode, encode
from experiments.canvas.data import Pool, batches, renders, to_bytes
from experiments.canvas.training import Curve, RunningAverage, bfloat16, cosine
from rl_unlearn.canvas import OBJECTS, STYLES, Head, Member, judge_path
from rl_unlearn.canvas.judges import load_judge, make_judge

HEADS: tuple[Head, ...] = ("object", "style")
SEEDS: dict[Member, dict[Head, int]] = {
    "main": {"object": 41, "style": 42}, "second": {"object": 141, "style": 142},
    "outline": {"object": 241, "style": 242}, "patches": {"object": 341, "style": 342},
}  # fmt: skip
KINDS: dict[Member, dict[Head, dict[str, Any]]] = {
    "main": {"object": {"widths": (32, 64, 96)}, "style": {"widths": (32, 64, 80)}},
    "second": {"object": {"widths": (40, 56, 112)}, "style": {"widths": (24, 56, 96)}},
    "outline": {head: {"widths": (32, 64, 96), "outlines": True} for head in HEADS},
    "patches": {head: {"kind": "patches", "width": 96, "depth": 4} for head in HEADS},
}
STEPS: dict[Head, int] = {"object": 1400, "style": 900}
PEAK: dict[Member, float] = {"main": 2e-3, "second": 2e-3, "outline": 2e-3, "patches": 1e-3}
BATCH = 128
RECONSTRUCTED = 16_000
SMOOTHING = 0.1


def reconstructions(work: Path, pool: Pool, count: int, seed: int) -> Pool:
    """`count` images of the pool through the autoencoder, cached in the work folder."""
    path = work / f"reconstructions-{count}-{seed}.safetensors"
    if not path.exists():
        model = AutoencoderKL.from_pretrained(work / "vae")
        index = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]
        parts = [to_bytes(decode(model, encode(model, pool.take(i))[0])) for i in index.split(512)]
        Pool(torch.cat(parts), pool.concepts[index]).save(path)
    return Pool.load(path)


@torch.no_grad()
def accuracy(judge: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    guesses = torch.cat([judge(chunk).argmax(1) for chunk in images.split(256)])
    return round((guesses == labels).float().mean().item(), 4)


def build(head: Head, work: Path, member: Member = "main") -> None:
    """Writes the judge's folder, and its curve beside it."""
    folder, seed, peak = judge_path(head, member), SEEDS[member][head], PEAK[member]
    pool = renders(work, "train", per_concept=500, seed=1)
    again = reconstructions(work, pool, RECONSTRUCTED, seed=5)
    classes = {"object": OBJECTS, "style": STYLES}[head]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_judge(len(classes), KINDS[member][head]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=0.02)
    average = RunningAverage(model, 0.998)
    curve = Curve(folder.parent / "curves" / f"{folder.name}.json")
    clean = batches(pool, BATCH // 2, torch.Generator().manual_seed(seed))
    decoded = batches(again, BATCH // 2, torch.Generator().manual_seed(seed))
    for step in range(STEPS[head]):
        for group in optimizer.param_groups:
            group["lr"] = peak * cosine(step, STEPS[head])
        rendered, reconstructed = next(clean), next(decoded)
        images = torch.cat([pool.take(rendered), again.take(reconstructed)])
        labels = torch.cat(
            [getattr(pool, head + "s")[rendered], getattr(again, head + "s")[reconstructed]]
        )
        images = augment.shift(augment.colour(images, 0.06, generator), 1, generator)
        images = augment.noise(augment.blur(images, 0.2, generator), 0.5, 0.06, generator)
        images = augment.cutout(images, 0.2, 8, generator).contiguous(
            memory_format=torch.channels_last
        )
        with bfloat16():
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        curve.add(step, loss=loss.detach(), accuracy=(logits.argmax(1) == labels).float().mean())
    folder.mkdir(parents=True, exist_ok=True)
    config = {"head": head, **KINDS[member][head], "classes": classes, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in average.state.items()}
    halves = {k: v.contiguous(memory_format=torch.contiguous_format) for k, v in halves.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    judge = load_judge(head, member)
    test = renders(work, "test", per_concept=20, seed=2)
    again = reconstructions(work, test, len(test), seed=6)
    for name, shown in (("renders", test), ("reconstructions", again)):
        value = accuracy(judge, shown.take(torch.arange(len(shown))), getattr(shown, head + "s"))
        print(f"{folder.name} on unseen {name}: {value}", flush=True)
