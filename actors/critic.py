"""The critic actor: it values noisy latents at every step, and learns from the outcomes that it is
shown.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actors.critic_fit import CriticFit
from rl_unlearn import memory
from rl_unlearn.clip.zeroshot import load_open_clip, text_features
from rl_unlearn.config import Config
from rl_unlearn.critic import Critic, valued_gradients, values
from rl_unlearn.critic_file import CriticState, Meaning, load_critic
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.families.pipeline import device_of, products_of, set_products
from rl_unlearn.messages import Snapshot, load_optimizer, optimizer_tensors, under
from rl_unlearn.models.fingerprint import weights_digest
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes, outcome_names, reward_weights
from rl_unlearn.states import States, choose
from rl_unlearn.steps import choose_steps
from rl_unlearn.trajectory import Scores, Trajectory


class CriticActor:
    """Holds the critic, what fits it, the conditions and reward weights of all prompts, and the
    warm-up's images.
    """

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._row = config.estimator.row
        self._device = device_of(config.model)
        set_products(products_of(config.model))
        shape, kernel = read_shape_and_kernel(config)
        levels = kernel.levels.to(self._device)
        self._learned = kernel.learned
        self._levels = levels if self._row.timed else torch.zeros_like(levels)
        book = PromptBook.from_config(config)
        clip, tokenizer = load_open_clip(config.reward.clip, "reward")
        texts = text_features(clip, tokenizer, [p.text for p in book.prompts])
        classes = text_features(clip, tokenizer, book.phrases[book.concept_domain])
        self._conditions = texts.to(self._device)
        anchors = anchor_classes(book, lambda: classes)
        self._weights = reward_weights(book, config.reward, anchors).to(self._device)
        widths = texts.shape[1], self._weights.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._critic = Critic(clip, shape, config.critic.grid, config.critic.layers, *widths)
        self._meaning = Meaning(
            outcome_names(book, config.reward),
            self._row.timed,
            config.reward.bound,
            weights_digest(clip.state_dict()),
            model_digest(config.model.model_copy(update={"adapters": ()})),
        )
        if config.critic.start is not None:
            load_critic(config.critic.start, self._critic, self._meaning)
        self._critic.to(self._device)
        self._fit = CriticFit(config, self._critic, kernel, self._levels, self._conditions)
        # A direction needs no more digits than the latents that it is for, and bf16 has the range
        # of fp32.
        self._gradients_in = torch.float32 if config.model.dtype == "fp32" else torch.bfloat16
        self._rehearsed: Trajectory | None = None
        self._newest_part = -1
        """Of the warm-up."""

    @memory.enough_for("the critic actor", memory.CRITIC)
    def warm_up(self, trajectory: Trajectory, part: int = 0, parts: int = 1) -> dict[str, float]:
        """Takes images of the frozen policy, to be rehearsed later, and one of ``parts`` equal
        shares of the ``critic.warmup_steps`` steps on all that have been given so far.

        ``part`` counts them from 0 and names the call: delivered twice, it only answers twice.
        """
        if not self._row.critic:
            return {}
        config = self._config.critic
        if config.start is None and self._rehearsed is None:
            self._critic.mean.copy_(trajectory.outcomes.mean(dim=0))
        images = self._rehearsed
        if part > self._newest_part:
            images = trajectory if images is None else Trajectory.cat([images, trajectory])
            self._rehearsed, self._newest_part = images, part
        assert images is not None
        steps = config.warmup_steps * (part + 1) // parts - config.warmup_steps * part // parts

        def minibatches(draw: torch.Generator) -> Iterator[States]:
            for _ in range(steps):
                yield choose(images, config.minibatch, config.renoised, draw)

        return self._fit.run(minibatches, part + 1 - parts)

    def state(self) -> CriticState | None:
        """Returns what another run can start from, on the CPU; None without a learned critic."""
        if not self._row.critic:
            return None
        weights = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self._critic.state_dict().items()
        }
        return CriticState(weights, self._meaning)

    def snapshot(self) -> Snapshot:
        """Returns critic and optimizer; the warm-up's images are kept once, by the loop."""
        optimizer = optimizer_tensors(self._fit.optimizer)
        return Snapshot(under("critic", self._critic.state_dict()) | under("optimizer", optimizer))

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> None:
        """Goes on where ``snapshot`` was taken."""
        self._critic.load_state_dict(snapshot.part("critic"))
        load_optimizer(self._fit.optimizer, snapshot.part("optimizer"))
        self._rehearsed = warm_up

    @memory.enough_for("the critic actor", memory.CRITIC)
    def fit(self, states: States, number: int) -> dict[str, float]:
        """Regresses psi(x_t, t, c) on the outcomes of final images (Monte Carlo), in
        ``critic.steps`` steps.

        Each minibatch has the next ``critic.fresh`` states; the rest of it comes from the warm-up,
        so that the critic goes on knowing what the policy no longer draws. ``number`` names the
        random draws and the call: delivered twice, it only answers twice. Returns the last squared
        error, nothing without steps. Raises NonFiniteError if no step had a finite gradient.
        """
        if not self._row.critic:
            return {}
        config, warm_up = self._config.critic, self._rehearsed
        old = config.minibatch - config.fresh

        def minibatches(draw: torch.Generator) -> Iterator[States]:
            for step in range(config.steps):
                part = states[step * config.fresh : (step + 1) * config.fresh]
                if warm_up is not None:
                    part = States.cat([part, choose(warm_up, old, config.renoised, draw)])
                yield part

        return self._fit.run(minibatches, number)

    @torch.no_grad()
    def predict(
        self, latents: Float[Tensor, "batch channels height width"], level: int
    ) -> Float[Tensor, "batch outcomes"]:
        """Returns the outcomes expected of latents at one of the T + 1 levels, the prompt
        withheld.
        """
        withheld = torch.zeros(len(latents), self._conditions.shape[1], device=self._device)
        timesteps = self._levels[level].expand(len(latents))
        outcomes: Tensor = self._critic(
            latents.to(self._device, torch.float32), timesteps, withheld
        ).cpu()
        return outcomes

    @memory.enough_for("the critic actor", memory.CRITIC)
    def score(self, trajectory: Trajectory, version: int) -> Scores:
        """Returns which steps the update of policy ``version`` learns from, and what the estimator
        asks for: values of all T + 1 states, action gradients of these steps, or both.
        """
        learner, seed = self._config.learner, self._config.seed
        steps = choose_steps(len(trajectory), self._learned, learner.steps_share, seed, version)
        if trajectory.predicted is not None:
            known = torch.cat([trajectory.predicted, trajectory.rewards[:, None]], dim=1)
            return Scores(steps, known, None)
        if trajectory.slopes is not None:
            rows = torch.arange(len(steps))[:, None]
            return Scores(steps, None, trajectory.slopes[rows, steps].to(self._gradients_in))
        if not self._row.critic:
            return Scores(steps, None, None)
        if self._row.gradients is None:
            return Scores(steps, self._values(trajectory), None)
        valued, gradients = self._gradients(trajectory, steps)
        if self._row.gradients == "means":
            valued = self._values(trajectory)
        return Scores(steps, valued, gradients)

    @torch.no_grad()
    def _values(self, trajectory: Trajectory) -> Float[Tensor, "batch levels"]:
        """Returns the values of all states."""
        count, levels = trajectory.latents.shape[:2]
        rows = torch.arange(count).repeat_interleave(levels)
        at = torch.arange(levels).repeat(count)
        valued = []
        for part in torch.arange(count * levels).split(self._config.critic.minibatch):
            latents = trajectory.latents[rows[part], at[part]].to(self._device, torch.float32)
            prompts = trajectory.prompts[rows[part]].to(self._device)
            timesteps = self._levels[at[part]]
            condition, weights = self._conditions[prompts], self._weights[prompts]
            valued.append(values(self._critic, latents, timesteps, condition, weights).cpu())
        return torch.cat(valued).view(count, levels)

    def _gradients(
        self, trajectory: Trajectory, steps: Int[Tensor, "batch chosen"]
    ) -> tuple[Float[Tensor, "batch levels"], Float[Tensor, "batch chosen channels height width"]]:
        """Returns the action gradients of some steps, and what their pass says of the values, the
        prompt withheld: those of the actions, not a number for other states.
        """
        count, chosen = steps.shape
        rows, at = torch.arange(count).repeat_interleave(chosen), steps.flatten()
        valued = torch.full(trajectory.latents.shape[:2], torch.nan)
        gradients = []
        for part in torch.arange(len(at)).split(self._config.critic.minibatch):
            row, level = rows[part], at[part] + 1
            if trajectory.means is None:
                actions = trajectory.latents[row, level]
            else:
                actions = trajectory.means[row, at[part]]
            actions = actions.to(self._device, torch.float32)
            weights = self._weights[trajectory.prompts[row].to(self._device)]
            value, slope = valued_gradients(self._critic, actions, self._levels[level], weights)
            valued[row, level] = value.cpu()
            gradients.append(slope.to(self._gradients_in).cpu())
        return valued, torch.cat(gradients).unflatten(0, (count, chosen))
