"""REINFORCE against the group's others (RLOO; Kool et al. 2019, Ahmadian et al. 2024,
arXiv 2402.14740).
"""

from typing import TYPE_CHECKING

from rl_unlearn.estimators import Estimator

if TYPE_CHECKING:
    from rl_unlearn.advantages import Advantages, Batch

ESTIMATOR = Estimator(
    "leave_one_out",
    "reward less the mean of the same prompt's other images of the round (RLOO)",
    "Ahmadian et al. 2024, arXiv 2402.14740",
    "leave_one_out:against_others",
)


def against_others(batch: "Batch") -> "Advantages":
    """Returns ``r_i - mean of r_j, j != i`` over the images of the same prompt and round, the same
    for all steps; zero for an image without others.
    """
    import torch

    from rl_unlearn.advantages import Advantages

    trajectory = batch.scored.trajectory
    groups = torch.stack([trajectory.prompts, trajectory.rounds], dim=1)
    alike = (groups[:, None] == groups[None]).all(dim=2).float()
    others = alike - torch.eye(len(alike))
    count = others.sum(dim=1)
    baseline = (others @ trajectory.rewards) / count.clamp(min=1)
    worth = torch.where(count > 0, trajectory.rewards - baseline, 0.0)
    return Advantages(worth[:, None].expand_as(trajectory.log_probs), None)
