"""The critic: a timestep-aware, concept-conditioned network with a CLIP trunk that reads noisy
latents (CGRU's V).

It predicts the *outcomes* of a noisy latent, what the reward CLIP will see on the final image
(rewards.outcomes), and the reward is linear in them: ``V(x_t, t, c) = psi(x_t, t, c) . w_c``
(successor features: Barreto et al. 2017, arXiv 1606.05312). Dozens of targets an image teach it
what objects and styles look like under noise; one number hardly does.

The next state is the action, so V also values actions: Q(s_t, a_t) = V(a_t, t - 1).
"""

import copy
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_unlearn.errors import DataError

Timesteps = Float[Tensor, " batch"] | Int[Tensor, " batch"]
_CONTEXT = 64
_STEM = 48


def timestep_features(timesteps: Timesteps, width: int) -> Float[Tensor, "batch width"]:
    """Sinusoidal features of timesteps in [0, 1000) (Vaswani et al. 2017, sec. 3.5)."""
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(width // 2, device=timesteps.device) / (width // 2)
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Residual(nn.Module):
    """Two convolutions around a skip connection, the second one scaled and shifted by the
    context."""

    def __init__(self, channels: int):
        super().__init__()
        groups = math.gcd(8, channels)
        self.norm_in, self.norm_out = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.context = nn.Linear(_CONTEXT, 2 * channels)
        nn.init.zeros_(self.conv_out.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        context: Float[Tensor, "batch features"],
    ) -> Float[Tensor, "batch channels height width"]:
        scale, shift = self.context(context)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_in(nn.functional.silu(self.norm_in(x)))
        hidden = nn.functional.silu(self.norm_out(hidden) * (1 + scale) + shift)
        result: Tensor = x + self.conv_out(hidden)
        return result


class Critic(nn.Module):
    """psi(x_t, t, c), the expected outcomes.

    Convolutions turn latents into tokens, ``grid`` of them along the shorter side; the first
    ``layers`` blocks of the CLIP image tower, with its class token and positions (resampled to the
    tokens), read them; a linear head sees every token where it is. With ``layers=0`` the
    convolutions feed the head themselves.
    """

    mean: Tensor

    def __init__(
        self,
        clip: nn.Module,
        latent_shape: tuple[int, int, int],
        grid: int,
        layers: int,
        condition_width: int,
        outcomes: int,
    ):
        super().__init__()
        tower: Any = clip.visual
        if not hasattr(tower, "class_embedding"):
            raise DataError(
                "the critic needs a CLIP with a ViT image tower: set reward.clip to one, like "
                "ViT-B-32"
            )
        channels, *size = latent_shape
        patch = max(1, min(size) // grid)
        rows, columns = (side // patch for side in size)
        width = tower.class_embedding.shape[0]
        self.context = nn.Sequential(nn.Linear(_CONTEXT, _CONTEXT), nn.SiLU())
        self.condition = nn.Linear(condition_width, _CONTEXT)
        self.stem = nn.Conv2d(channels, _STEM, 3, padding=1)
        self.fine = _Residual(_STEM)
        self.down = nn.Conv2d(_STEM, width, kernel_size=patch, stride=patch)
        self.coarse = _Residual(width)
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        if layers:
            self.class_token = nn.Parameter(tower.class_embedding.detach().clone())
            self.positions = nn.Parameter(
                _resampled(tower.positional_embedding.detach(), rows, columns)
            )
            self.norm_in = copy.deepcopy(tower.ln_pre)
            self.trunk = copy.deepcopy(tower.transformer)
            self.trunk.resblocks = self.trunk.resblocks[:layers]
            self.norm_out = copy.deepcopy(tower.ln_post)
        self.head = nn.Linear(width * (rows * columns + (layers > 0)), outcomes)
        self.requires_grad_(True)
        # What the head starts from; set to the outcomes' mean before the first step.
        self.register_buffer("mean", torch.zeros(outcomes))
        self._layers = layers

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Float[Tensor, "batch features"],
    ) -> Float[Tensor, "batch outcomes"]:
        """Expected outcomes of noisy latents; ``condition``: see CriticActor, zeros where the
        prompt is withheld.
        """
        context = self.context(timestep_features(timesteps, _CONTEXT)) + self.condition(condition)
        hidden = self.fine(self.stem(latents), context)
        hidden = nn.functional.silu(self.norm(self.coarse(self.down(hidden), context)))
        if self._layers:
            tokens = hidden.flatten(2).transpose(1, 2)
            tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)
            hidden = self.norm_out(self.trunk(self.norm_in(tokens + self.positions)))
        outcomes: Tensor = self.head(hidden.flatten(1)) + self.mean
        return outcomes


def _resampled(
    positions: Float[Tensor, "tokens width"], rows: int, columns: int
) -> Float[Tensor, "resampled width"]:
    side = math.isqrt(len(positions) - 1)
    if (rows, columns) == (side, side):
        return positions.clone()
    patches = positions[1:].T.reshape(1, -1, side, side)
    patches = nn.functional.interpolate(
        patches, (rows, columns), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([positions[:1], patches.flatten(2)[0].T])


def values(
    critic: Critic,
    latents: Float[Tensor, "batch channels height width"],
    timesteps: Timesteps,
    condition: Float[Tensor, "batch features"],
    weights: Float[Tensor, "batch outcomes"],
) -> Float[Tensor, " batch"]:
    """V in units of reward; ``weights``: the rows of rewards.reward_weights of the latents'
    prompts.
    """
    rewards: Tensor = (critic(latents, timesteps, condition) * weights).sum(dim=1)
    return rewards


def valued_gradients(
    critic: Critic,
    actions: Float[Tensor, "batch channels height width"],
    timesteps: Timesteps,
    weights: Float[Tensor, "batch outcomes"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch channels height width"]]:
    """V(a, t - 1) and its gradient with respect to the action, both with the prompt withheld.

    A critic that is told the prompt need not look: while the policy does as it is told, the prompt
    predicts the outcome, and the gradient with respect to the latents is noise.
    """
    condition = torch.zeros(len(actions), critic.condition.in_features, device=actions.device)
    with torch.enable_grad():
        actions = actions.detach().requires_grad_(True)
        valued = values(critic, actions, timesteps, condition, weights)
        (gradients,) = torch.autograd.grad(valued.sum(), actions)
    return valued.detach(), gradients
