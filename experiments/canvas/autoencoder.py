"""Stage `autoencoder`: an AutoencoderKL from 3x32x32 images to 4x8x8 latents, then its decoder once
more.

The perceptual loss uses a classifier trained here for that purpose only and thrown away; the judges
stay out.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.canvas.augment import blur, colour, cutout, noise
from experiments.canvas.data import CONCEPTS, Pool, batches, renders
from experiments.canvas.training import Curve, RunningAverage, bfloat16, cosine
from rl_unlearn.canvas.judges import Judge

SEED = 11
BATCH = 64
CLASSIFIER_STEPS = 1500
STEPS = 1800
DECODER_STEPS = 1300
KL_WEIGHT = 2e-6
"""Per nat of the whole latent; the reconstruction terms are means over pixels."""
PERCEPTUAL_WEIGHT, DECODER_PERCEPTUAL_WEIGHT = 0.05, 0.15


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


class Features(nn.Module):
    """Perceptual distance: mean squared difference of channel-normalised features of a frozen
    classifier.
    """

    def __init__(self, classifier: Judge) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.classifier.features(target)
        pairs = zip(self.classifier.features(images), wanted, strict=True)
        terms = [
            (a.float() - b.float()).square().mean() / b.float().square().mean() for a, b in pairs
        ]
        return torch.stack(terms).sum()


def train_classifier(pool: Pool, curves: Path) -> Judge:
    """A classifier of all 160 concepts, for the perceptual loss."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = Judge(CONCEPTS, (32, 64, 96)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    curve = Curve(curves / "autoencoder-features.json")
    for step, index in zip(range(CLASSIFIER_STEPS), batches(pool, 128, generator), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(step, CLASSIFIER_STEPS)
        images = noise(
            blur(colour(pool.take(index), 0.1, generator), 0.5, generator), 0.5, 0.1, generator
        )
        images = cutout(images, 0.3, 12, generator).contiguous(memory_format=torch.channels_last)
        with bfloat16():
            logits = model(images).float()
        loss = F.cross_entropy(logits, pool.concepts[index], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.add(
            step,
            loss=loss.detach(),
            accuracy=(logits.argmax(1) == pool.concepts[index]).float().mean(),
        )
    return model.to(memory_format=torch.contiguous_format)


def train_autoencoder(
    model: AutoencoderKL, distance: Features, pool: Pool, curves: Path, decoder_only: bool
) -> None:
    """Trains in place; `decoder_only` keeps every latent as it is.

    Leaves the running average in `model`.
    """
    name = "decoder" if decoder_only else "autoencoder"
    steps = DECODER_STEPS if decoder_only else STEPS
    weight = DECODER_PERCEPTUAL_WEIGHT if decoder_only else PERCEPTUAL_WEIGHT
    generator = torch.Generator().manual_seed(SEED + 1 + decoder_only)
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    peak = 1e-3 if decoder_only else 2e-3
    optimizer = torch.optim.AdamW(parameters, peak, betas=(0.9, 0.99), weight_decay=0.0)
    average = RunningAverage(model, 0.998)
    curve = Curve(curves / f"{name}.json")
    for step, index in zip(range(steps), batches(pool, BATCH, generator), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = peak * cosine(step, steps)
        target = pool.take(index) * 2 - 1
        with bfloat16():
            with torch.set_grad_enabled(not decoder_only):
                posterior = model.encode(target).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            latents = mean + deviation * torch.randn(mean.shape, generator=generator)
            images = model.decode(latents).sample.float()
            perceptual = distance(images / 2 + 0.5, target / 2 + 0.5)
        pixels = (images - target).abs().mean() + (images - target).square().mean()
        kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum((1, 2, 3)).mean()
        loss = pixels + weight * perceptual + (0.0 if decoder_only else KL_WEIGHT) * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(model)
        curve.add(
            step,
            loss=loss.detach(),
            pixels=pixels.detach(),
            perceptual=perceptual.detach(),
            kl=kl.detach(),
        )
    model.load_state_dict(average.state)
    model.requires_grad_(True)


@torch.no_grad()
def encode(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and deviation of images in [0, 1], each (N, 4, 8, 8), unscaled."""
    parts = [model.encode(chunk * 2 - 1).latent_dist for chunk in images.split(64)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


@torch.no_grad()
def decode(model: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images in [0, 1] of unscaled latents."""
    return torch.cat([model.decode(chunk).sample / 2 + 0.5 for chunk in latents.split(64)]).clamp(
        0, 1
    )


def build(work: Path, weights: Path) -> None:
    """Writes the pipeline's `vae` folder; the scaling factor gives latents of unit deviation."""
    pool = renders(work, "train", per_concept=500, seed=1)
    curves, folder = weights / "curves", work / "vae-joint"
    if not folder.exists():
        classifier = train_classifier(pool, curves)
        torch.manual_seed(SEED)
        model = new_autoencoder()
        train_autoencoder(model, Features(classifier), pool, curves, decoder_only=False)
        some = torch.randperm(len(pool), generator=torch.Generator().manual_seed(SEED))[:4096]
        mean, _ = encode(model, pool.take(some))
        model.register_to_config(scaling_factor=round(1.0 / mean.std().item(), 4))
        save_classifier(classifier, work)
        model.save_pretrained(folder)
    model = AutoencoderKL.from_pretrained(folder)
    train_autoencoder(model, Features(load_classifier(work)), pool, curves, decoder_only=True)
    model.save_pretrained(work / "vae")


def save_classifier(classifier: Judge, work: Path) -> None:
    """Keeps the perceptual classifier in the work folder."""
    state = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    save_file(state, work / "autoencoder-features.safetensors")


def load_classifier(work: Path) -> Judge:
    """The perceptual classifier: images (B, 3, 32, 32) in [0, 1] -> logits (B, 160)."""
    classifier = Judge(CONCEPTS, (32, 64, 96))
    classifier.load_state_dict(load_file(work / "autoencoder-features.safetensors"))
    return classifier
