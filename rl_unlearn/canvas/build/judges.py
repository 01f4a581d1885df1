"""Stage `judges`: the two judges, trained on renders and on reconstructions of them, and on nothing else.

Light augmentation and label smoothing keep them strict: an image that is neither one nor the other gets a low
confidence.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch.nn import functional as F

from rl_unlearn.canvas import OBJECTS, STYLES, Head
from rl_unlearn.canvas.build import augment
from rl_unlearn.canvas.build.autoencoder import decode, encode
from rl_unlearn.canvas.build.data import Pool, batches, renders, to_bytes
from rl_unlearn.canvas.build.training import Curve, RunningAverage, bfloat16, cosine
from rl_unlearn.canvas.judges import Judge, load_judge

SEEDS = {"object": 41, "style": 42}
WIDTHS = {"object": (32, 64, 96), "style": (32, 64, 80)}
STEPS = {"object": 1400, "style": 900}
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
def accuracy(judge: Judge, images: torch.Tensor, labels: torch.Tensor) -> float:
    guesses = torch.cat([judge(chunk).argmax(1) for chunk in images.split(256)])
    return round((guesses == labels).float().mean().item(), 4)


def build(head: Head, work: Path, weights: Path) -> None:
    """Write `judge-{head}`."""
    seed = SEEDS[head]
    pool = renders(work, "train", per_concept=500, seed=1)
    again = reconstructions(work, pool, RECONSTRUCTED, seed=5)
    classes = {"object": OBJECTS, "style": STYLES}[head]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Judge(len(classes), WIDTHS[head]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    average = RunningAverage(model, 0.998)
    curve = Curve(weights / "curves" / f"judge-{head}.json")
    clean = batches(pool, BATCH // 2, torch.Generator().manual_seed(seed))
    decoded = batches(again, BATCH // 2, torch.Generator().manual_seed(seed))
    for step in range(STEPS[head]):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(step, STEPS[head])
        one, two = next(clean), next(decoded)
        images = torch.cat([pool.take(one), again.take(two)])
        labels = torch.cat([getattr(pool, head + "s")[one], getattr(again, head + "s")[two]])
        images = augment.shift(augment.colour(images, 0.06, generator), 1, generator)
        images = augment.noise(augment.blur(images, 0.2, generator), 0.5, 0.06, generator)
        images = augment.cutout(images, 0.2, 8, generator).contiguous(memory_format=torch.channels_last)
        with bfloat16():
            logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        curve.add(step, loss=loss.detach(), accuracy=(logits.argmax(1) == labels).float().mean())
    folder = weights / f"judge-{head}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {"head": head, "widths": WIDTHS[head], "classes": classes, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in average.state.items()}
    halves = {k: v.contiguous(memory_format=torch.contiguous_format) for k, v in halves.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    judge = load_judge(head)
    test = renders(work, "test", per_concept=20, seed=2)
    again = reconstructions(work, test, len(test), seed=6)
    for name, shown in (("renders", test), ("reconstructions", again)):
        value = accuracy(judge, shown.take(torch.arange(len(shown))), getattr(shown, head + "s"))
        print(f"judge {head} on unseen {name}: {value}", flush=True)
