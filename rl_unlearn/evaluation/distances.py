"""KID and FID by torchmetrics in a judge's feature space: comparable among themselves, never with
Inception's.
"""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_unlearn.noise import seed_of

_SUBSETS = 50
_SUBSET_SIZE = 100


@dataclass(frozen=True)
class Distances:
    """How far two sets of images lie apart; 0 for equal ones."""

    kid: float
    """Kernel distance (arXiv 1801.01401), unbiased: may fall a little below 0."""
    fid: float
    """Fréchet distance (arXiv 1706.08500), biased upwards for few images."""


def distances(
    reference: Float[Tensor, "references features"],
    images: Float[Tensor, "images features"],
    seed: int = 0,
) -> Distances | None:
    """Returns KID and FID of images against a reference set, in features they were given in; None
    below two images a side.

    Features are standardised by the reference, or the kernel would see the widest of them alone.
    KID is the mean over 50 subsets of at most 100 images, drawn by ``seed``.
    """
    # They bring scipy along, which takes a second that a run should not begin with.
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    smallest = min(len(reference), len(images))
    if smallest < 2:
        return None
    scale = reference.std(dim=0)
    scale = scale.clamp(min=1e-3 * scale.max().item() + 1e-12)
    centre = reference.mean(dim=0)
    reference, images = ((x - centre) / scale for x in (reference, images))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter(
            "ignore"
        )  # KID warns that it keeps all features: they are in memory anyway
        torch.manual_seed(seed_of(seed, "kid"))
        given = _Given(reference.shape[1])
        kid = KernelInceptionDistance(
            given, subsets=_SUBSETS, subset_size=min(_SUBSET_SIZE, smallest)
        )
        fid = FrechetInceptionDistance(given)
        for metric in (kid, fid):
            metric.update(reference, real=True)
            metric.update(images, real=False)
        return Distances(kid=kid.compute()[0].item(), fid=fid.compute().item())


class _Given(nn.Module):
    """Feature module of torchmetrics for images whose features are known already."""

    def __init__(self, features: int):
        super().__init__()
        self.num_features = features

    def forward(
        self, features: Float[Tensor, "images features"]
    ) -> Float[Tensor, "images features"]:
        return features
