"""The central learner: importance-weighted policy-gradient updates of the adapter under a retention
budget.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learner import checkpointing, diagnostics
from learner.diagnostics import Metrics
from learner.objective import Objective
from learner.ranks import Ranks
from learner.retention import Retention
from learner.rounding import Floor
from rl_unlearn import memory
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.advantages import Advantages
from rl_unlearn.config import Config
from rl_unlearn.controllers import annealed, next_lr, update_kl
from rl_unlearn.errors import ConfigError, NonFiniteError, TrainingError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.kernel import MIN_STD
from rl_unlearn.losses import joint_log_ratio
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook
from rl_unlearn.snapshot import Snapshot, load_optimizer, optimizer_tensors, under
from rl_unlearn.trajectory import Scored, Trajectory
from rl_unlearn.weights import Weights

MAX_SKIPPED = 5


@dataclass(frozen=True)
class _Step:
    """What one optimizer step saw."""

    log_ratio: Float[Tensor, " pairs"]
    loss: float
    kl: float
    grad_norm: float
    finite: bool


class Learner:
    """Holds the policy being trained, its optimizer, and what keeps the rest of the model in
    place."""

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._book = PromptBook.from_config(config)
        self._policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
        if len(self._policy.kernel.learned) == 0:
            raise ConfigError(
                f"no denoising step has a std of {MIN_STD} or more to learn from: raise sampler.eta"
            )
        self._conditions = self._policy.encode([p.text for p in self._book.prompts])
        self._policy.free_text_encoders()
        self._policy.free_autoencoder()
        if checkpointing.choose(
            config.learner.checkpointing,
            self._policy,
            self._conditions[:1],
            config.learner.microbatch,
        ):
            self._policy.network.enable_gradient_checkpointing()
        self._parameters = self._policy.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learner.lr,
            # The gradient grows tenfold within a few updates once the policy starts to move; a long
            # memory of its former size would make those steps several times too large.
            betas=(0.9, 0.95),
            weight_decay=config.learner.weight_decay,
        )
        # Only fp16 gradients underflow; the scaler is the identity otherwise.
        self._scaler = torch.amp.GradScaler(
            self._policy.device.type, init_scale=2.0**10, enabled=config.model.dtype == "fp16"
        )
        self._objective = Objective(config, self._policy.dimensions)
        self._floor = Floor(config, self._policy, self._conditions)
        self._retention = Retention(config, self._policy, self._conditions, self._floor)
        self._ranks = Ranks()
        self._version = 0
        self._skipped = 0
        self._last: Metrics = {}

    @property
    def policy(self) -> DiffusionPolicy:
        """The one that is trained."""
        return self._policy

    def listen(self, host: str) -> str:
        """Where the other ranks find this one, which will be rank 0; ``host`` is an address of its
        machine.
        """
        return self._ranks.listen(host, self._config.loop.timeout)

    def join(self, rank: int, count: int, address: str) -> None:
        """Learns together with ``count - 1`` others of the same configuration from here on.

        :meth:`update` and :meth:`restore` must then be called on all of them with the same
        arguments; any one of them speaks for all. Raises MachineError if they cannot meet,
        TrainingError if they differ.
        """
        self._ranks.join(rank, count, address, self._policy.device, self._config.loop.timeout)
        self._ranks.agree("the models", self.base_digest())
        self._agree()

    def base_digest(self) -> str:
        """Checksum of the frozen model, to be compared with the rollout actors'."""
        return model_digest(self._config.model)

    def weights(self) -> Weights:
        """The current policy version."""
        state = self._policy.adapter_state()
        return Weights(self._version, state, digest(state))

    @memory.enough_for("the learner", memory.LEARNER)
    def keep(self, trajectory: Trajectory) -> int:
        """Makes the retention pool from the retained prompts among these trajectories; returns its
        number of states.

        Measures the floor of rounding, too: ConfigError if it leaves a budget no room.
        """
        retained = trajectory[~self._target(trajectory)]
        states = self._retention.keep(retained)
        self._floor.measure(retained if states else trajectory, self._ranks)
        self._floor.check(retains=states > 0)
        return states

    def snapshot(self) -> Snapshot:
        """Adapter, optimizer, multiplier, floor of rounding and counters.

        The retention pool is made again from the warm-up's images.
        """
        tensors = under("adapter", self._policy.adapter_state())
        values = {
            "version": self._version,
            "lr": self._optimizer.param_groups[0]["lr"],
            "kl_weight": self._retention.weight,
            "kl_floor": self._floor.state(),
            "skipped": self._skipped,
            "estimator": self._objective.state(),
            "scaler": self._scaler.state_dict(),
        }
        return Snapshot(tensors | under("optimizer", optimizer_tensors(self._optimizer)), values)

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> int:
        """Goes on where ``snapshot`` was taken; returns the number of states in the retention
        pool."""
        states = self._retention.keep(warm_up[~self._target(warm_up)])
        self._policy.load_adapter(snapshot.part("adapter"))
        load_optimizer(self._optimizer, snapshot.part("optimizer"))
        values = snapshot.values
        for group in self._optimizer.param_groups:
            group["lr"] = values["lr"]
        self._version, self._skipped = values["version"], values["skipped"]
        self._retention.weight = values["kl_weight"]
        self._floor.load(values["kl_floor"])
        self._objective.load(values["estimator"])
        self._scaler.load_state_dict(values["scaler"])
        self._agree()
        return states

    @memory.enough_for("the learner", memory.LEARNER)
    def update(self, scored: Scored, version: int | None = None) -> Metrics:
        """One update: ``learner.minibatches`` optimizer steps on the batch; the policy's version
        grows by one.

        ``version``: which policy is meant to be updated; delivered once more, the call only answers
        once more. Raises NonFiniteError after several optimizer steps in a row were skipped for a
        non-finite gradient, TrainingError for another version than the one held or the one before.
        """
        if version is not None and version != self._version:
            if version == self._version - 1 and self._last:
                return self._last
            raise TrainingError(
                f"an update of policy version {version} reached a learner at version "
                f"{self._version}"
            )
        trajectory = scored.trajectory
        target = self._target(trajectory)
        advantages = self._objective.advantages(
            scored, target, lambda: self._log_ratios(trajectory)
        )
        pairs = torch.cartesian_prod(torch.arange(len(trajectory)), self._policy.kernel.learned)
        order = torch.randperm(
            len(pairs), generator=generator(self._config.seed, "minibatches", self._version)
        )
        minibatches = pairs[order].tensor_split(min(self._config.learner.minibatches, len(pairs)))
        batch = diagnostics.of_batch(scored, target, self._version)
        steps = [
            self._optimizer_step(scored, advantages, part, number)
            for number, part in enumerate(minibatches)
        ]
        self._version += 1
        drawn_by = trajectory.policy_versions[minibatches[-1][:, 0]]
        # What the last minibatch saw is the policy before its own optimizer step. Where that is not
        # the one that acted, a log-ratio holds the rounding once, however long the way between was.
        moved = steps[-1].log_ratio + self._floor.at(minibatches[-1][:, 1])
        step_kl = update_kl(moved, self._version - drawn_by - 1 / len(minibatches))
        learner = self._config.learner
        progress = min(1.0, self._version / (self._config.loop.rounds * learner.updates_per_round))
        highest = learner.lr * annealed(progress, learner.lr_constant, learner.lr_floor)
        for group in self._optimizer.param_groups:
            known = (
                learner.step_kl if step_kl is None else step_kl
            )  # unknown: neither too far nor too little
            group["lr"] = next_lr(
                group["lr"], known, learner.step_kl, learner.lr * learner.lr_floor, highest
            )
        self._last = {
            "weights": self._agree(),
            "lr": self._optimizer.param_groups[0]["lr"],
            "step_kl": math.nan if step_kl is None else step_kl,
            "policy_version": self._version,
            "kl_weight": self._retention.weight,
            "kl_floor": self._floor.mean,
            "skipped_steps": sum(not step.finite for step in steps),
            "loss": sum(step.loss for step in steps) / len(steps),
            "grad_norm": sum(step.grad_norm for step in steps) / len(steps),
            "kl": sum(step.kl for step in steps) / len(steps),
            **batch,
            **diagnostics.of_ratios(
                [step.log_ratio for step in steps],
                self._policy.dimensions,
                self._objective.exponent,
                learner.clip_range,
            ),
        }
        return self._last

    def _agree(self) -> str:
        """What is handed over next is bit for bit the same on all ranks, and so will be the next
        step.

        Returns the digest of the weights.
        """
        weights = digest(self._policy.adapter_state())
        state = (
            self._version,
            self._optimizer.param_groups[0]["lr"],
            self._retention.weight,
            self._floor.state(),
        )
        self._ranks.agree("the weights", f"{weights} {state}")
        return weights

    def _target(self, trajectory: Trajectory) -> Bool[Tensor, " batch"]:
        """Whose prompt asks for the concept."""
        return torch.tensor(
            [self._book.prompts[i].target for i in trajectory.prompts.tolist()], dtype=torch.bool
        )

    @torch.no_grad()
    def _log_ratios(self, trajectory: Trajectory) -> Float[Tensor, "batch steps"]:
        """Joint log-ratios under the policy as it stands; 0 for the steps that are not learned
        from.

        Those have the wildest ratios, which would cut all traces before them.
        """
        pairs = torch.cartesian_prod(torch.arange(len(trajectory)), self._policy.kernel.learned)
        ratios = torch.zeros_like(trajectory.log_probs)
        for part in pairs[self._ranks.share(len(pairs))].split(self._config.learner.microbatch):
            if len(part):
                rows, steps = part.unbind(dim=1)
                ratios[rows, steps] = self._again(trajectory, rows, steps)[1].cpu()
        self._ranks.sum(ratios)
        return ratios

    def _optimizer_step(
        self,
        scored: Scored,
        advantages: Advantages,
        pairs: Int[Tensor, "pairs 2"],
        number: int,
    ) -> _Step:
        self._optimizer.zero_grad(set_to_none=True)
        log_ratios, losses = torch.zeros(2, len(pairs), device=self._policy.device).unbind()
        share = self._ranks.share(len(pairs))
        for part in torch.arange(share.start, share.stop).split(self._config.learner.microbatch):
            if len(part):
                log_ratio, loss = self._policy_loss(scored, advantages, pairs[part])
                self._scaler.scale(loss.sum() / len(pairs)).backward()
                log_ratios[part], losses[part] = log_ratio, loss.detach()
        kl = self._retention.backward(self._scaler, self._version, number, self._ranks)
        self._ranks.sum(log_ratios, losses)
        self._ranks.sum(*self._gradients())
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.learner.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if (
            finite or self._scaler.is_enabled()
        ):  # the scaler skips by itself, and must see it to lower its scale
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= MAX_SKIPPED:
            raise NonFiniteError(
                f"the gradient was not finite in {MAX_SKIPPED} optimizer steps in a row: "
                "lower learner.lr or check the reward"
            )
        if finite and kl is not None:
            self._retention.adjust(kl)
        return _Step(
            log_ratios.cpu(),
            losses.mean().item(),
            math.nan if kl is None else kl,
            norm.item(),
            finite,
        )

    def _gradients(self) -> list[Tensor]:
        """Of the adapter; zeros where this rank's share was empty."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _policy_loss(
        self, scored: Scored, advantages: Advantages, pairs: Int[Tensor, "pairs 2"]
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Detached joint log-ratios, and the loss of each (trajectory, step)."""
        rows, steps = pairs.unbind(dim=1)
        trajectory = scored.trajectory
        log_probs, log_ratio, mean = self._again(trajectory, rows, steps)
        away = None
        if trajectory.means is not None:
            away = (trajectory.latents[rows, steps + 1].float() - trajectory.means[rows, steps]).to(
                mean.device
            )
        worth = advantages.at(rows, steps, mean.device)
        return log_ratio, self._objective.loss(worth, log_probs, log_ratio, mean, away)

    def _again(
        self, trajectory: Trajectory, rows: Int[Tensor, " pairs"], steps: Int[Tensor, " pairs"]
    ) -> tuple[
        Float[Tensor, " pairs"],
        Float[Tensor, " pairs"],
        Float[Tensor, "pairs channels height width"],
    ]:
        """The stored actions under the policy as it stands: joint log-probs, detached log-ratios,
        and its means.
        """
        device, dimensions = self._policy.device, self._policy.dimensions
        latents, action = (trajectory.latents[rows, at].to(device) for at in (steps, steps + 1))
        output = self._policy.predict(latents, steps, self._conditions[trajectory.prompts[rows]])
        _, log_probs, mean = self._policy.kernel.step(output, latents, steps, action=action)
        behaviour = trajectory.log_probs[rows, steps].to(device)
        return (
            dimensions * log_probs,
            joint_log_ratio(log_probs.detach(), behaviour, dimensions),
            mean,
        )
