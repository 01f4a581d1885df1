"""The central learner: importance-weighted policy-gradient updates of the adapter under a retention
budget.
"""

import math

import torch

from learner import checkpointing, diagnostics
from learner.adapter_optimizer import AdapterOptimizer
from learner.diagnostics import Metrics, Step
from learner.policy_gradient import Pairs, PolicyGradient
from learner.ranks import Ranks
from learner.retention import Retention
from learner.rounding import Floor
from rl_unlearn import memory
from rl_unlearn.adapters.adapter import AdapterState, digest, read_adapter
from rl_unlearn.advantages import Advantages
from rl_unlearn.anchors import anchors_of, of_anchors
from rl_unlearn.config import Config
from rl_unlearn.controllers import update_kl
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.kernel import MIN_STD
from rl_unlearn.messages import Snapshot, Weights, under
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook
from rl_unlearn.trajectory import Scored, Scores, Trajectory


def _policy_to_train(config: Config, prompts: list[str]) -> tuple[DiffusionPolicy, Condition]:
    """Loads the policy, reads the prompts, and leaves nothing in memory that is not trained."""
    policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
    if len(policy.kernel.learned) == 0:
        raise ConfigError(
            f"no denoising step has a std of {MIN_STD} or more to learn from: raise sampler.eta"
        )
    conditions = policy.encode(prompts)
    policy.free_text_encoders()
    policy.free_autoencoder()
    if config.lora.start is not None:
        policy.load_adapter(read_adapter(config.lora.start))
    checkpointing.set_up(config.learner, policy, conditions[:1])
    return policy, conditions


def _weights(version: int, state: AdapterState) -> Weights:
    return Weights(version, state, digest(state))


class Learner:
    """Holds the policy being trained, and what changes it and keeps the rest of the model in place:
    gradient, optimizer, step size, retention, and the other ranks.
    """

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        book = PromptBook.from_config(config)
        prompts = book.prompts
        self._target = torch.tensor([prompt.target for prompt in prompts])
        self.policy, conditions = _policy_to_train(config, [prompt.text for prompt in prompts])
        self._ranks = Ranks()
        self._optimizer = AdapterOptimizer(config, self.policy, self._ranks)
        self.gradient = PolicyGradient(config, self.policy, conditions, self._target, self._ranks)
        self._floor = Floor(config, self.policy, conditions)
        self._retention = Retention(config, self.policy, conditions, self._floor)
        wanted = config.learner.anchor_weight > 0
        self._anchors = anchors_of(config, book).prompts if wanted else {}
        self._holds_own = wanted and book.trait is not None
        self._version = 0
        self._last: Metrics = {}

    def listen(self, host: str) -> str:
        """Returns where others find this learner, rank 0; ``host``: an address of its machine."""
        return self._ranks.listen(host, self._config.loop.timeout)

    def join(self, rank: int, count: int, address: str) -> None:
        """Learns together with ``count - 1`` others of the same configuration from here on.

        :meth:`update` and :meth:`restore` must then be called on all of them with the same
        arguments; any one of them speaks for all. Raises MachineError if they cannot meet,
        TrainingError if they differ.
        """
        self._ranks.join(rank, count, address, self.policy.device, self._config.loop.timeout)
        self._ranks.agree("the models", self.base_digest())
        self._agree()

    def base_digest(self) -> str:
        """Returns the checksum of the frozen model, to be compared with the rollout actors'."""
        return model_digest(self._config.model)

    def weights(self) -> Weights:
        """Returns the current policy version."""
        return _weights(self._version, self.policy.adapter_state())

    def untouched(self) -> Weights:
        """Returns an adapter that changes nothing, as version 0: the present one with ``lora_B`` at
        zero.

        A run that starts from no other adapter has it as its version 0, bit for bit.
        """
        state = self.policy.adapter_state()
        silent = {n: t.zero_() if ".lora_B." in n else t for n, t in state.items()}
        return _weights(0, silent)

    @memory.enough_for("the learner", memory.LEARNER)
    def make_pool(self, trajectory: Trajectory) -> int:
        """Makes the retention pools from these trajectories of the frozen policy; returns their
        number of states.

        Measures the floor of rounding, too: ConfigError if it leaves a budget no room.
        """
        retained = trajectory[~self._target[trajectory.prompts]]
        states = self._retention.keep(retained, *of_anchors(retained, self._anchors))
        self._floor.measure(retained if len(retained) else trajectory, self._ranks)
        self._floor.check(retains=states > 0)
        return states

    def snapshot(self) -> Snapshot:
        """Returns all but the retention pool, which is made again from the warm-up's images."""
        adapter = under("adapter", self.policy.adapter_state())
        values = {
            "version": self._version,
            "kl_weight": self._retention.weight,
            "kl_floor": self._floor.state(),
            "estimator": self.gradient.objective.state(),
        }
        optimizer = under("optimizer", self._optimizer.tensors())
        return Snapshot(adapter | optimizer, values | self._optimizer.values())

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> int:
        """Goes on where ``snapshot`` was taken; returns the number of states in the retention
        pool."""
        retained = warm_up[~self._target[warm_up.prompts]]
        states = self._retention.keep(retained, *of_anchors(retained, self._anchors))
        values = snapshot.values
        self.policy.load_adapter(snapshot.part("adapter"))
        self._optimizer.load(snapshot.part("optimizer"), values)
        self._version = values["version"]
        self._retention.weight = values["kl_weight"]
        self._floor.load(values["kl_floor"])
        self.gradient.objective.load(values["estimator"])
        self._agree()
        return states

    @memory.enough_for("the learner", memory.LEARNER)
    def update(self, trajectory: Trajectory, scores: Scores, version: int | None = None) -> Metrics:
        """Takes ``learner.minibatches`` optimizer steps on the batch; the policy's version grows by
        one.

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
        scored = Scored.of(trajectory, scores)
        batch = diagnostics.of_batch(scored, self._target[trajectory.prompts], self._version)
        advantages = self.gradient.advantages(scored)
        minibatches = self.gradient.minibatches(scored, self._version)
        steps = [
            self._optimizer_step(scored, advantages, part, number)
            for number, part in enumerate(minibatches)
        ]
        self._version += 1
        # What the last minibatch saw is the policy before its own optimizer step. Where that is not
        # the one that acted, a log-ratio holds the rounding once, however long the way between was.
        rows, last = minibatches[-1].unbind(dim=1)
        way = self._version - trajectory.policy_versions[rows] - 1 / len(minibatches)
        step_kl = update_kl(steps[-1].log_ratios + self._floor.at(last), way)
        self._optimizer.steer(step_kl, self._version)
        ratios = [step.log_ratios for step in steps]
        exponent, clip = self.gradient.objective.exponent, self._config.learner.clip_range
        self._last = {
            "weights": self._agree(),
            "lr": self._optimizer.lr,
            "step_kl": math.nan if step_kl is None else step_kl,
            "policy_version": self._version,
            "kl_weight": self._retention.weight,
            "kl_floor": self._floor.mean,
            **diagnostics.of_steps(steps),
            **batch,
            **diagnostics.of_ratios(ratios, self.policy.dimensions, exponent, clip),
        }
        return self._last

    def _optimizer_step(
        self, scored: Scored, advantages: Advantages, pairs: Pairs, number: int
    ) -> Step:
        self._optimizer.clear()
        asked = scored.trajectory.prompts
        own = scored.trajectory[self._target[asked]] if self._holds_own else None
        held = self._retention.draw(self._version, number, own)
        scaler = self._optimizer.scaler
        seen = self.gradient.backward(scored, advantages, pairs, held, scaler)
        self._ranks.sum(seen.log_ratios, seen.losses, seen.kl)
        norm, finite = self._optimizer.step()
        kl = self._retention.above_floor(seen.kl.cpu(), held)
        apart = self._retention.apart(seen.kl, held)
        if finite:
            self._retention.adjust(kl)
        return Step(seen.log_ratios.cpu(), seen.losses.mean().item(), kl, apart, norm, finite)

    def _agree(self) -> str:
        """Sees to it that what is handed over next, and so the next step, is bit for bit the same
        on all ranks; returns the digest of the weights.
        """
        weights = digest(self.policy.adapter_state())
        state = self._version, self._optimizer.lr, self._retention.weight, self._floor.state()
        self._ranks.agree("the weights", f"{weights} {state}")
        return weights
