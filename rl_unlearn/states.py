"""Single noisy latents and what became of them: what a critic is fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.trajectory import Trajectory


@dataclass(frozen=True)
class States:
    """States of trajectories, one a row; all tensors on the CPU."""

    latents: Float[Tensor, "count channels height width"]
    """Latents of the level or, where ``final``, the trajectory's last ones; in storage type."""
    levels: Int[Tensor, " count"]
    """0 is pure noise, T the final latents."""
    final: Bool[Tensor, " count"]
    """Which latents are to be put under fresh noise of their level first."""
    prompts: Int[Tensor, " count"]
    """Index into the prompt book."""
    outcomes: Float[Tensor, "count outcomes"]
    """Outcomes of the trajectory's final image (rewards.outcomes)."""

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice) -> "States":
        return States(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def cat(parts: "Sequence[States]") -> "States":
        """Returns several as one, in the order given."""
        return States(
            *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(States))
        )


def choose(trajectory: Trajectory, count: int, renoised: float, draw: torch.Generator) -> States:
    """Random states of some trajectories, with replacement.

    A share of them, ``renoised``, are final latents, for fresh noise: of a trained model the
    forward process gives the same joint distribution as the sampler, and a few hundred images never
    run out of states.
    """
    rows, places, levels, final = _chosen(trajectory, len(trajectory), count, renoised, draw)
    latents = trajectory.latents[rows, places]
    return States(latents, levels, final, trajectory.prompts[rows], trajectory.outcomes[rows])


def choose_of(
    trajectories: "Sequence[Trajectory]", count: int, renoised: float, draw: torch.Generator
) -> States:
    """What :func:`choose` gives for the same trajectories in one batch, from batches of one each.

    Only the states that are chosen are read.
    """
    one = trajectories[0]
    rows, places, levels, final = _chosen(one, len(trajectories), count, renoised, draw)
    pairs = zip(rows.tolist(), places.tolist(), strict=True)
    parts = [trajectories[row].latents[0, place] for row, place in pairs]
    latents = torch.stack(parts) if parts else one.latents[:0, 0]
    prompts = torch.cat([trajectory.prompts for trajectory in trajectories])[rows]
    outcomes = torch.cat([trajectory.outcomes for trajectory in trajectories])[rows]
    return States(latents, levels, final, prompts, outcomes)


def _chosen(
    like: Trajectory, trajectories: int, count: int, renoised: float, draw: torch.Generator
) -> tuple[
    Int[Tensor, " count"], Int[Tensor, " count"], Int[Tensor, " count"], Bool[Tensor, " count"]
]:
    """Row, place among the row's latents, level, and whether it is for fresh noise."""
    last = like.latents.shape[1] - 1
    rows = torch.randint(trajectories, (count,), generator=draw)
    levels = torch.randint(last + 1, (count,), generator=draw)
    final = torch.rand(count, generator=draw) < renoised
    return rows, torch.where(final, last, levels), levels, final
