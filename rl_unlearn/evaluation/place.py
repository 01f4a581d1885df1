"""What stands in the concept's place: whether it is the anchor as the untouched model draws it, and
how varied it is.

UA and coherence do not see it: one picture of the anchor, always the same and blurred, scores 100
in both.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.evaluation.distances import distances


@dataclass(frozen=True)
class Place:
    """Images that were asked to show the concept, or of the untouched model the anchor."""

    probability: Float[Tensor, " images"]
    """The judge's, of the anchor, 0 to 1."""
    features: Float[Tensor, "images features"]
    """The judge's."""
    prompts: Int[Tensor, " images"]


def spread(place: Place, reference: Place) -> float | None:
    """Returns how varied the images of a prompt are, in percent of the reference's; None if no
    prompt of one of them has two images, or the reference's are all alike.

    It is the mean over prompts of the variance of the judge's features, each feature in units of
    its standard deviation over all of the reference's images.
    """
    scale = reference.features.std(dim=0)
    scale = scale.clamp(min=1e-3 * scale.max().item() + 1e-12)
    own, usual = (_variance(p.features / scale, p.prompts) for p in (place, reference))
    return 100 * own / usual if own is not None and usual else None


def _variance(
    features: Float[Tensor, "images features"], prompts: Int[Tensor, " images"]
) -> float | None:
    """Returns the mean over prompts with two images or more of the summed unbiased variances."""
    groups = [features[prompts == prompt] for prompt in prompts.unique()]
    variances = [group.var(dim=0).sum() for group in groups if len(group) > 1]
    return torch.stack(variances).mean().item() if variances else None


def kernel_distance(place: Place, reference: Place, seed: int) -> float | None:
    """Returns the KID of these images to the reference's, in the judge's features; None below two
    images a side.
    """
    apart = distances(reference.features, place.features, seed)
    return apart.kid if apart else None


def nearest(
    classes: Float[Tensor, "classes features"], concepts: tuple[int, ...], others: list[int]
) -> frozenset[int]:
    """Returns the quarter of the other classes, at least one, whose texts are most similar to a
    concept's; ``classes``: normalised text embeddings.
    """
    if not others:
        return frozenset()
    closest = (classes[others] @ classes[list(concepts)].T).max(dim=1).values
    count = max(1, round(len(others) / 4))
    return frozenset(others[i] for i in closest.topk(count).indices.tolist())
