"""Stage `traits`: three networks that see what no caption names, trained on renders and on
reconstructions of them, and on nothing else.

They differ in seed and size: one rewards, one chooses checkpoints, one judges.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from experiments.canvas import augment
from experiments.canvas.autoencoder import decode, encode
from experiments.canvas.data import to_bytes
from experiments.canvas.training import Curve, RunningAverage, cosine
from rl_unlearn.canvas import (
    OBJECTS,
    STYLES,
    TRAITS,
    WITH_TRAITS,
    TraitRole,
    pipeline_path,
    traits_path,
)
from rl_unlearn.canvas.judges import load_traits, make_judge
from rl_unlearn.canvas.render import Split, render_with_factors

SEEDS: dict[TraitRole, int] = {"reward": 441, "selection": 442, "judge": 443}
KINDS: dict[TraitRole, dict[str, Any]] = {
    "reward": {"widths": (12, 24, 48)},
    "selection": {"widths": (16, 24, 32)},
    "judge": {"widths": (12, 32, 40)},
}
STEPS = 360
PEAK = 3e-3
BATCH = 64
RENDERED = 120
"""Renders of each concept; every fourth of them is seen through the autoencoder, too."""
SURE = 0.95
"""Label of a trait that is there; 1 less that of one that is not."""


def examples(split: Split, per_concept: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Renders (N, 3, 32, 32) uint8 of the things that have traits, the objects of these (N,), and
    their traits (N, 3) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    things = torch.tensor([OBJECTS.index(name) for name in WITH_TRAITS])
    objects, styles = things.repeat_interleave(len(STYLES)), torch.arange(len(STYLES))
    images, traits = [], []
    for _ in range(per_concept):
        drawn, factors = render_with_factors(objects, styles.repeat(len(things)), generator, split)
        images.append(to_bytes(drawn))
        traits.append(factors.traits())
    return torch.cat(images), objects.repeat(per_concept), torch.cat(traits)


def reconstructed(images: Tensor) -> Tensor:
    """The images (N, 3, 32, 32) uint8 through the shipped autoencoder."""
    model = AutoencoderKL.from_pretrained(pipeline_path() / "vae")
    parts = [decode(model, encode(model, part.float() / 255)[0]) for part in images.split(512)]
    return to_bytes(torch.cat(parts))


def training_set(work: Path) -> tuple[Tensor, Tensor]:
    """Images, a fifth of them reconstructions, and their traits, cached in the work folder."""
    path = work / "traits-training.safetensors"
    if not path.exists():
        images, _, traits = examples("train", RENDERED, seed=7)
        again = reconstructed(images[::4])
        made = {"images": torch.cat([images, again]), "traits": torch.cat([traits, traits[::4]])}
        save_file(made, path)
    read = load_file(path)
    return read["images"], read["traits"]


def build(role: TraitRole, work: Path) -> None:
    """Writes the network's folder, and its curve beside it."""
    folder, seed = traits_path(role), SEEDS[role]
    images, traits = training_set(work)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_judge(len(TRAITS), KINDS[role]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=0.02)
    average = RunningAverage(model, 0.99)
    curve = Curve(folder.parent / "curves" / f"{folder.name}.json")
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * cosine(step, STEPS)
        index = torch.randint(len(images), (BATCH,), generator=generator)
        batch, there = images[index].float() / 255, traits[index]
        batch = augment.shift(augment.colour(batch, 0.06, generator), 1, generator)
        batch = augment.noise(augment.blur(batch, 0.2, generator), 0.5, 0.06, generator)
        batch = batch.contiguous(memory_format=torch.channels_last)
        logits = model(batch)
        wanted = torch.where(there, SURE, 1 - SURE)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        right = ((logits > 0) == there).float().mean()
        curve.add(step, loss=loss.detach(), accuracy=right)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**KINDS[role], "classes": TRAITS, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in average.state.items()}
    halves = {k: v.contiguous(memory_format=torch.contiguous_format) for k, v in halves.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    unseen, _, labels = examples("test", 20, seed=8)
    for name, shown in (("renders", unseen), ("reconstructions", reconstructed(unseen))):
        print(f"{folder.name} on unseen {name}: {accuracies(role, shown, labels)}", flush=True)


@torch.no_grad()
def seen(role: TraitRole, images: Tensor) -> Tensor:
    """Which traits the network of that role sees on images (N, 3, 32, 32) uint8, (N, 3) bool."""
    network = load_traits(role)
    return torch.cat([network(part.float() / 255) > 0 for part in images.split(256)])


def accuracies(role: TraitRole, images: Tensor, traits: Tensor) -> dict[str, float]:
    """Share of images on which the network of that role is right about each trait."""
    return by_name(seen(role, images) == traits)


def by_name(marks: Tensor) -> dict[str, float]:
    """Shares of marks (N, 3) bool by trait."""
    return {
        name: round(share, 4)
        for name, share in zip(TRAITS, marks.float().mean(0).tolist(), strict=True)
    }
