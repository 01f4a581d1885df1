"""Images made by the diffusion model itself, for the CLIP models to train on.

Two kinds: finished samples, and decoded predictions of half-denoised latents, whose prompt is
trusted the less the noisier the latent was. Samples that the throw-away classifier of the
autoencoder stage does not recognise at all are dropped; the judges take no part.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.canvas.autoencoder import load_classifier
from experiments.canvas.data import CONCEPTS, to_bytes
from experiments.canvas.denoiser import Denoiser, averaged, scheduler
from experiments.canvas.latents import Latents
from experiments.canvas.sampling import predict, sample, to_images

SEED = 61
FINISHED_PER_CONCEPT = 40
HALF_DENOISED = 24_000
FINISHED_TRUST = 0.97
"""Share of the prompt's concept in the target of a finished sample; the rest is spread over all
concepts."""


@torch.no_grad()
def finished(
    model: Denoiser, vae: AutoencoderKL, work: Path, per_concept: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Samples of the default sampler (N, 3, 32, 32) uint8 and their concepts, less the
    unrecognisable ones.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier, sampler = load_classifier(work).eval(), scheduler()
    images, concepts = [], []
    for batch in torch.arange(CONCEPTS).repeat(per_concept).split(80):
        made = to_images(vae, sample(model, sampler, batch, generator)[0])
        known = classifier(made).softmax(1).gather(1, batch[:, None])[:, 0] > 0.05
        images.append(to_bytes(made[known]))
        concepts.append(batch[known])
    return torch.cat(images), torch.cat(concepts)


@torch.no_grad()
def half_denoised(
    model: Denoiser, vae: AutoencoderKL, work: Path, count: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded one-step predictions (N, 3, 32, 32) uint8, concepts and trust: the share of signal in
    the latent.
    """
    generator = torch.Generator().manual_seed(seed)
    data = Latents(work, scheduler(), generator)
    images, concepts, trust = [], [], []
    for _ in range(count // 128):
        clean, concept = data.clean(128)
        steps = torch.randint(1000, (128,), generator=generator)
        noisy, _ = data.noisy(clean, steps)
        v = predict(model, noisy, steps, concept, guidance=1.0)
        alpha = data.signal[steps].sqrt()[:, None, None, None]
        sigma = (1 - data.signal[steps]).sqrt()[:, None, None, None]
        images.append(to_bytes(to_images(vae, alpha * noisy - sigma * v)))
        concepts.append(concept)
        trust.append(data.signal[steps].sqrt())
    return torch.cat(images), torch.cat(concepts), torch.cat(trust)


def build(work: Path) -> None:
    """Writes `generated.safetensors`: images (N, 3, 32, 32), concepts (N,) and trust (N,), by the
    distilled model.
    """
    path = work / "generated.safetensors"
    if path.exists():
        return
    model, vae = averaged(work, "distill"), AutoencoderKL.from_pretrained(work / "vae")
    whole, whole_concepts = finished(model, vae, work, FINISHED_PER_CONCEPT, SEED)
    part, part_concepts, trust = half_denoised(model, vae, work, HALF_DENOISED, SEED + 1)
    tensors = {
        "images": torch.cat([whole, part]),
        "concepts": torch.cat([whole_concepts, part_concepts]),
        "trust": torch.cat([torch.full((len(whole),), FINISHED_TRUST), trust]),
    }
    save_file(tensors, path.with_suffix(".partial"))
    path.with_suffix(".partial").rename(path)
    print(f"{len(whole)} finished, {len(part)} half-denoised images", flush=True)


def load(work: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8, concepts and trust of `generated.safetensors`."""
    file = load_file(work / "generated.safetensors")
    return file["images"], file["concepts"], file["trust"]
