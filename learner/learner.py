"""The central learner: importance-weighted policy-gradient updates of the adapter under a retention budget."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_unlearn.adapter import digest
from rl_unlearn.config import Config
from rl_unlearn.ddim import reverse_kernel, step
from rl_unlearn.errors import TrainingError
from rl_unlearn.estimators import PromptStatistics, gae, standardised, vtrace
from rl_unlearn.losses import (
    clip_per_dimension,
    clipped_policy_loss,
    effective_sample_size,
    explained_variance,
    gaussian_kl,
    importance_ratio,
    next_kl_weight,
    pathwise_loss,
)
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy, load_pipeline
from rl_unlearn.prompts import PromptBook
from rl_unlearn.trajectory import Scored, Trajectory
from rl_unlearn.weights import Weights

MAX_SKIPPED = 5


@dataclass(frozen=True)
class _Pool:
    """States of retained trajectories with the frozen model's action means, row by row."""

    latents: Float[Tensor, "rows channels height width"]
    steps: Int[Tensor, " rows"]
    prompts: Int[Tensor, " rows"]
    reference: Float[Tensor, "rows channels height width"]


class Learner:
    """Holds the policy being trained, its optimizer, the Lagrange multiplier and the retention pool."""

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._book = PromptBook.from_config(config)
        self._policy = DiffusionPolicy(load_pipeline(config.model), config)
        self._embeddings = self._policy.encode([p.text for p in self._book.prompts])
        self._parameters = self._policy.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learner.lr, weight_decay=config.learner.weight_decay
        )
        # Only fp16 gradients underflow; the scaler is the identity otherwise.
        self._scaler = torch.amp.GradScaler(self._policy.device.type, enabled=config.model.dtype == "fp16")
        self._clip = clip_per_dimension(config.learner.clip_range, self._policy.dimensions)
        self._statistics = PromptStatistics()
        self._kl_weight = config.learner.kl_weight
        self._pool: _Pool | None = None
        self._version = 0
        self._skipped = 0

    def base_digest(self) -> str:
        """Checksum of the frozen model, to be compared with the rollout actors'."""
        return self._policy.base_digest()

    def weights(self) -> Weights:
        """The current policy version."""
        state = self._policy.adapter_state()
        return Weights(self._version, state, digest(state))

    @torch.no_grad()
    def keep(self, trajectory: Trajectory) -> int:
        """Makes the retention pool from the retained prompts' trajectories of the frozen policy; returns its states.

        The reference means are computed here, once, with the adapter switched off.
        """
        retained = torch.tensor([not self._book.prompts[i].target for i in trajectory.prompts.tolist()])
        kept = trajectory[retained.nonzero().flatten()]
        learned = self._policy.schedule.learned
        latents = kept.latents[:, learned].flatten(0, 1)
        steps = learned.repeat(len(kept))
        prompts = kept.prompts.repeat_interleave(len(learned))
        means = []
        with self._policy.adapter_enabled(False):
            for part in torch.arange(len(steps)).split(self._config.learner.microbatch):
                state = latents[part].to(self._policy.device)
                output = self._policy.predict(state, steps[part], self._embeddings[prompts[part]])
                means.append(reverse_kernel(output, state, self._policy.schedule, steps[part]).cpu())
        self._pool = _Pool(latents, steps, prompts, torch.cat(means)) if means else None
        return len(steps)

    def update(self, scored: Scored) -> dict[str, float | int | list[float]]:
        """One update: ``learner.minibatches`` optimizer steps on the batch; the policy's version grows by one.

        Raises TrainingError after several optimizer steps in a row were skipped for a non-finite gradient.
        """
        trajectory = scored.trajectory
        advantages = self._advantages(scored)
        learned = self._policy.schedule.learned
        pairs = torch.cartesian_prod(torch.arange(len(trajectory)), learned)
        order = torch.randperm(len(pairs), generator=generator(self._config.seed, "minibatches", self._version))
        steps = []
        minibatches = pairs[order].tensor_split(min(self._config.learner.minibatches, len(pairs)))
        for number, minibatch in enumerate(minibatches):
            steps.append(self._optimizer_step(scored, advantages, minibatch, number))
        self._version += 1
        return self._summary(scored, steps)

    def _advantages(self, scored: Scored) -> Float[Tensor, "batch steps"] | None:
        trajectory, estimator = scored.trajectory, self._config.estimator
        if estimator.name == "critic":
            return standardised(gae(scored.values, trajectory.rewards, estimator.gae_lambda))
        if estimator.name == "vtrace":
            ratios = self._ratios(trajectory)
            return standardised(vtrace(scored.values, trajectory.rewards, ratios, estimator.truncation))
        if estimator.name == "terminal":
            advantages = self._statistics.advantages(trajectory.prompts, trajectory.rewards)
            return advantages[:, None].expand(-1, trajectory.log_probs.shape[1])
        return None

    @torch.no_grad()
    def _ratios(self, trajectory: Trajectory) -> Float[Tensor, "batch steps"]:
        """Importance ratios of all steps under the policy as it stands."""
        columns = []
        for k in range(trajectory.log_probs.shape[1]):
            latents = trajectory.latents[:, k].to(self._policy.device)
            output = self._policy.predict(latents, k, self._embeddings[trajectory.prompts])
            _, log_probs, _ = step(
                output, latents, self._policy.schedule, k, action=trajectory.latents[:, k + 1].to(latents.device)
            )
            columns.append(importance_ratio(log_probs.cpu(), trajectory.log_probs[:, k]))
        return torch.stack(columns, dim=1)

    def _optimizer_step(
        self, scored: Scored, advantages: Float[Tensor, "batch steps"] | None, pairs: Int[Tensor, "pairs 2"], number: int
    ) -> dict[str, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        ratios, losses = [], []
        for part in pairs.split(self._config.learner.microbatch):
            ratio, loss = self._policy_loss(scored, advantages, part)
            self._scaler.scale(loss.sum() / len(pairs)).backward()
            ratios.append(ratio.detach())
            losses.append(loss.detach())
        kl = self._retain(number)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.learner.max_grad_norm)
        if torch.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
            self._scaler.update()
        finite = bool(torch.isfinite(norm))
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradient was not finite in {MAX_SKIPPED} optimizer steps in a row: lower learner.lr or check the reward"
            )
        if finite and kl is not None:
            self._kl_weight = next_kl_weight(
                self._kl_weight, kl, self._config.learner.kl_budget, self._config.learner.kl_rate
            )
        return {
            "ratio": torch.cat(ratios).cpu(),
            "loss": torch.cat(losses).cpu(),
            "kl": torch.tensor(math.nan if kl is None else kl),
            "grad_norm": norm.detach().cpu(),
            "skipped": torch.tensor(float(not finite)),
        }

    def _policy_loss(
        self, scored: Scored, advantages: Float[Tensor, "batch steps"] | None, pairs: Int[Tensor, "pairs 2"]
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        rows, steps = pairs.unbind(dim=1)
        trajectory, device = scored.trajectory, self._policy.device
        latents = trajectory.latents[rows, steps].to(device)
        output = self._policy.predict(latents, steps, self._embeddings[trajectory.prompts[rows]])
        action = trajectory.latents[rows, steps + 1].to(device)
        _, log_probs, mean = step(output, latents, self._policy.schedule, steps, action=action)
        ratio = importance_ratio(log_probs, trajectory.log_probs[rows, steps].to(device))
        if advantages is not None:
            return ratio, clipped_policy_loss(ratio, advantages[rows, steps].to(device), self._clip)
        assert scored.action_gradients is not None
        gradients = scored.action_gradients[rows, steps].to(device)
        return ratio, pathwise_loss(ratio, mean, gradients, self._clip)

    def _retain(self, number: int) -> float | None:
        """Adds the gradient of the KL to the frozen model on states of the pool; returns the KL in nats per step."""
        if self._pool is None:
            return None
        pool, count = self._pool, min(self._config.learner.kl_states, len(self._pool.steps))
        draw = generator(self._config.seed, "pool", self._version, number)
        chosen = torch.randperm(len(pool.steps), generator=draw)[:count]
        total = 0.0
        for part in chosen.split(self._config.learner.microbatch):
            state, steps = pool.latents[part].to(self._policy.device), pool.steps[part]
            output = self._policy.predict(state, steps, self._embeddings[pool.prompts[part]])
            mean = reverse_kernel(output, state, self._policy.schedule, steps)
            std = self._policy.schedule.std[steps].to(mean.device)
            kl = gaussian_kl(mean, pool.reference[part].to(mean.device), std).sum() / count
            self._scaler.scale(self._kl_weight * kl).backward()
            total += kl.item()
        return total

    def _summary(self, scored: Scored, steps: list[dict[str, Tensor]]) -> dict[str, float | int | list[float]]:
        trajectory = scored.trajectory
        ratio = torch.cat([s["ratio"] for s in steps])
        target = torch.tensor([self._book.prompts[i].target for i in trajectory.prompts.tolist()])
        lag = self._version - 1 - trajectory.policy_versions
        summary: dict[str, float | int | list[float]] = {
            "policy_version": self._version,
            "policy_lag": lag.float().mean().item(),
            "policy_lag_max": int(lag.max()),
            "loss": torch.cat([s["loss"] for s in steps]).mean().item(),
            "kl": torch.stack([s["kl"] for s in steps]).mean().item(),
            "kl_weight": self._kl_weight,
            "grad_norm": torch.stack([s["grad_norm"] for s in steps]).mean().item(),
            "skipped_steps": int(torch.stack([s["skipped"] for s in steps]).sum()),
            "ratio_max": ratio.max().item(),
            "ratio_min": ratio.min().item(),
            "first_ratio_max": steps[0]["ratio"].max().item(),
            "first_ratio_min": steps[0]["ratio"].min().item(),
            "clip_fraction": ((ratio - 1).abs() > self._clip).float().mean().item(),
            "ess": effective_sample_size(ratio),
            # Schulman's estimator of KL(mu || pi) per latent dimension, (r - 1) - log r.
            "approx_kl": (ratio - 1 - ratio.log()).mean().item(),
        }
        if target.any():
            summary["reward"] = trajectory.rewards[target].mean().item()
            # Over target prompts alone: between target and retained ones any critic looks good.
            summary["explained_variance"] = [
                explained_variance(values, trajectory.rewards[target]) for values in scored.values[target].unbind(dim=1)
            ]
            summary["forget_rate"] = 1 - trajectory.evidence[target].mean().item()
        if (~target).any():
            summary["retain_reward"] = trajectory.rewards[~target].mean().item()
            summary["retain_rate"] = trajectory.evidence[~target].mean().item()
        return summary
