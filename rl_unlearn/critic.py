"""The critic: a timestep-aware, concept-conditioned CLIP trunk that reads noisy latents (CGRU's V(x_t, t, c)).

The next state is the action, so V also values actions: Q(s_t, a_t) = V(a_t, t - 1).
"""

import copy
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_unlearn.errors import DataError


def timestep_features(timesteps: Int[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sinusoidal features of timesteps in [0, 1000) (Vaswani et al. 2017, sec. 3.5)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=timesteps.device) / (width // 2))
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Critic(nn.Module):
    """V(x_t, t, c) in units of reward.

    The CLIP image tower keeps its transformer, class token and positions (resampled to the grid); its patch embedding
    is replaced by one for latents, and timestep and condition are added to every token.
    """

    def __init__(self, clip: nn.Module, channels: int, size: int, grid: int, condition_width: int):
        super().__init__()
        tower: Any = clip.visual
        if not hasattr(tower, "class_embedding"):
            raise DataError("the critic needs a CLIP with a ViT image tower: set reward.clip to one, like ViT-B-32")
        grid = min(grid, size)
        patch = size // grid
        width = tower.class_embedding.shape[0]
        self.stem = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.timestep = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_width, width)
        self.class_token = nn.Parameter(tower.class_embedding.detach().clone())
        self.positions = nn.Parameter(_resampled(tower.positional_embedding.detach(), size // patch))
        self.norm_in = copy.deepcopy(tower.ln_pre)
        self.trunk = copy.deepcopy(tower.transformer)
        self.norm_out = copy.deepcopy(tower.ln_post)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), last)
        self.requires_grad_(True)

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch features"],
    ) -> Float[Tensor, " batch"]:
        """Values of noisy latents; ``condition``: CLIP text embeddings of prompt and concept, and the target flag."""
        tokens = self.stem(latents).flatten(2).transpose(1, 2)
        context = self.timestep(timestep_features(timesteps, 64)) + self.condition(condition)
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)
        tokens = self.norm_in(tokens + self.positions + context[:, None])
        tokens = self.norm_out(self.trunk(tokens))
        # Class token for what CLIP saw, mean token for where the gradient with respect to the latents is smooth.
        pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        return self.head(pooled).squeeze(1)


def _resampled(positions: Float[Tensor, "tokens width"], grid: int) -> Float[Tensor, "resampled width"]:
    side = math.isqrt(len(positions) - 1)
    if side == grid:
        return positions.clone()
    patches = positions[1:].T.reshape(1, -1, side, side)
    patches = nn.functional.interpolate(patches, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], patches.flatten(2)[0].T])


def action_gradients(
    critic: Critic,
    actions: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    condition: Float[Tensor, "batch features"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch channels height width"]]:
    """V(a, t - 1) and its gradient with respect to the action."""
    with torch.enable_grad():
        actions = actions.detach().requires_grad_(True)
        values = critic(actions, timesteps, condition)
        (gradients,) = torch.autograd.grad(values.sum(), actions)
    return values.detach(), gradients
