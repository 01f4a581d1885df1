"""Stage `clip-robust`: both CLIP models tuned on what a policy will show them, not on clean renders
alone.

A policy gradient finds whatever raises the score, blur and artefacts of the decoder included. So
the models train on renders, reconstructions, samples and half-denoised predictions, all of them
mixed and distorted.
"""

from pathlib import Path

import torch
from torch import Tensor

from experiments.canvas import generated
from experiments.canvas.clip import BATCH, CAPTIONS, augmented, save_clip, train, zero_shot
from experiments.canvas.data import CONCEPTS, batches, renders
from experiments.canvas.judges import RECONSTRUCTED, reconstructions
from experiments.canvas.training import Curve
from rl_unlearn.canvas import ClipName, clip_path
from rl_unlearn.canvas.clip import load_clip

SEEDS = {"reward": 71, "selection": 72}
STEPS = {"reward": 1500, "selection": 900}
STRENGTH = {"reward": 1.0, "selection": 1.3}
PEAK = 1e-3
ADVERSARIAL = 32
"""Images of each batch of 128 that the model itself has made harder."""
SHARES = (0.25, 0.25, 0.5)
"""Renders, reconstructions, and images of the diffusion model in each batch."""


def build(name: ClipName, work: Path, weights: Path, steps: int | None = None) -> None:
    """Tunes `clip-{name}` and replaces its weights."""
    seed, eye = SEEDS[name], torch.eye(CONCEPTS)
    sizes = [int(BATCH * share) for share in SHARES]
    pool = renders(work, "train", per_concept=500, seed=1)
    again = reconstructions(work, pool, RECONSTRUCTED, seed=5)
    images, concepts, trust = generated.load(work)
    clean = batches(pool, sizes[0], torch.Generator().manual_seed(seed))
    decoded = batches(again, sizes[1], torch.Generator().manual_seed(seed + 1))

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rendered, reconstructed = next(clean), next(decoded)
        drawn = torch.randint(len(images), (sizes[2],), generator=generator)
        shown = torch.cat(
            [pool.take(rendered), again.take(reconstructed), images[drawn].float() / 255]
        )
        certain = trust[drawn, None]
        soft = certain * eye[concepts[drawn]] + (1 - certain) / CONCEPTS
        targets = torch.cat(
            [eye[pool.concepts[rendered]], eye[again.concepts[reconstructed]], soft]
        )
        order = torch.randperm(len(shown), generator=generator)
        return augmented(shown[order], targets[order], STRENGTH[name], generator)

    folder = clip_path(name)
    model, tokenizer = load_clip(folder)
    curve = Curve(weights / "curves" / f"clip-{name}-robust.json")
    state = train(
        model, tokenizer(CAPTIONS), draw, steps or STEPS[name], PEAK, 0.25, seed, curve, ADVERSARIAL
    )
    save_clip(state, folder)
    model, tokenizer = load_clip(folder)
    test = renders(work, "test", per_concept=20, seed=2)
    for kind, shown in (
        ("renders", test),
        ("reconstructions", reconstructions(work, test, len(test), seed=6)),
    ):
        values = zero_shot(
            model, tokenizer(CAPTIONS), shown.take(torch.arange(len(shown))), shown.concepts
        )
        print(f"clip {name} on unseen {kind}: {values}", flush=True)
