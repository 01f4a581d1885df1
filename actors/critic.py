"""The critic actor: values noisy latents at every step, and fits itself on the outcomes it is
shown.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_unlearn import memory
from rl_unlearn.clip.zeroshot import load_open_clip, text_features
from rl_unlearn.config import Config
from rl_unlearn.critic import Critic, action_gradients, values
from rl_unlearn.critic_file import CriticState, Meaning, load_critic
from rl_unlearn.errors import NonFiniteError
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.models.fingerprint import weights_digest
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.noise import generator
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes, outcome_names, reward_weights
from rl_unlearn.snapshot import Snapshot, load_optimizer, optimizer_tensors, under
from rl_unlearn.states import States, choose
from rl_unlearn.trajectory import Scored, Trajectory


class CriticActor:
    """Holds the critic, its optimizer, the conditions and reward weights of all prompts, and the
    warm-up's images.
    """

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._device = device_of(config.model)
        shape, self._kernel = read_shape_and_kernel(config)
        levels = self._kernel.levels.to(self._device)
        self._levels = levels if config.estimator.row.timed else torch.zeros_like(levels)
        book = PromptBook.from_config(config)
        clip, tokenizer = load_open_clip(config.reward.clip, "reward")
        texts = text_features(clip, tokenizer, [p.text for p in book.prompts])
        classes = text_features(clip, tokenizer, book.phrases[book.concept_domain])
        self._conditions = texts.to(self._device)
        self._weights = reward_weights(book, config.reward, anchor_classes(book, classes)).to(
            self._device
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._critic = Critic(
                clip,
                shape,
                config.critic.grid,
                config.critic.layers,
                self._conditions.shape[1],
                self._weights.shape[1],
            )
        self._meaning = Meaning(
            outcome_names(book, config.reward),
            config.estimator.row.timed,
            config.reward.bound,
            weights_digest(clip.state_dict()),
            model_digest(config.model.model_copy(update={"adapters": ()})),
        )
        if config.critic.start is not None:
            load_critic(config.critic.start, self._critic, self._meaning)
        self._critic.to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._critic.parameters(), lr=config.critic.lr, weight_decay=0.01
        )
        # A direction needs no more digits than the latents that it is for, and bf16 has the range
        # of fp32.
        self._gradients_in = torch.float32 if config.model.dtype == "fp32" else torch.bfloat16
        self._rehearsed: Trajectory | None = None
        self._fitted = -1
        self._last: dict[str, float] = {}

    def warm_up(self, trajectory: Trajectory) -> dict[str, float]:
        """Fits ``critic.warmup_steps`` steps on images of the frozen policy, and keeps them to
        rehearse later.
        """
        if not self._config.estimator.row.critic:
            return {}
        if self._config.critic.start is None:
            self._critic.mean.copy_(trajectory.outcomes.mean(dim=0))
        config = self._config.critic
        loss = self._regress(
            lambda draw: (
                choose(trajectory, config.minibatch, config.renoised, draw)
                for _ in range(config.warmup_steps)
            ),
            0,
        )
        self._rehearsed = trajectory
        return loss

    def state(self) -> CriticState | None:
        """What another run can start from, on the CPU; None if the estimator needs no critic."""
        if not self._config.estimator.row.critic:
            return None
        weights = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self._critic.state_dict().items()
        }
        return CriticState(weights, self._meaning)

    def snapshot(self) -> Snapshot:
        """Critic and optimizer; the warm-up's images are kept once, by the loop."""
        optimizer = optimizer_tensors(self._optimizer)
        return Snapshot(under("critic", self._critic.state_dict()) | under("optimizer", optimizer))

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> None:
        """Goes on where ``snapshot`` was taken."""
        self._critic.load_state_dict(snapshot.part("critic"))
        load_optimizer(self._optimizer, snapshot.part("optimizer"))
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
        config = self._config.critic

        def minibatches(draw: torch.Generator) -> Iterator[States]:
            for step in range(config.steps):
                part = states[step * config.fresh : (step + 1) * config.fresh]
                yield part if self._rehearsed is None else States.cat([part, self._rehearse(draw)])

        return self._regress(minibatches, number)

    def _rehearse(self, draw: torch.Generator) -> States:
        assert self._rehearsed is not None
        config = self._config.critic
        return choose(self._rehearsed, config.minibatch - config.fresh, config.renoised, draw)

    def _regress(
        self, minibatches: Callable[[torch.Generator], Iterator[States]], number: int
    ) -> dict[str, float]:
        if not self._config.estimator.row.critic:
            return {}
        if number == self._fitted:
            return self._last
        draw = generator(self._config.seed, "critic", number)
        loss, steps, skipped = torch.zeros(()), 0, 0
        for states in minibatches(draw):
            steps += 1
            noise = torch.randn(states.latents.shape, generator=draw)
            told = torch.rand(len(states), 1, generator=draw) >= self._config.critic.withheld
            condition = self._conditions[states.prompts] * told.to(self._device)
            latents = self._noisy(states, noise).to(self._device)
            found = self._critic(latents, self._levels[states.levels], condition)
            loss = (found - states.outcomes.to(self._device)).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if nn.utils.clip_grad_norm_(self._critic.parameters(), 1.0).isfinite():
                self._optimizer.step()
            else:
                skipped += 1
        if steps and skipped == steps:
            raise NonFiniteError(
                f"no gradient of the critic was finite in {steps} steps: lower critic.lr"
            )
        self._fitted, self._last = number, {"critic_loss": loss.item()} if steps else {}
        return self._last

    def _noisy(
        self, states: States, noise: Float[Tensor, "count channels height width"]
    ) -> Float[Tensor, "count channels height width"]:
        """The latents in fp32, the final ones among them under this noise."""
        latents = states.latents.float()
        fresh = self._kernel.renoised(latents, noise, states.levels)
        return torch.where(states.final[:, None, None, None], fresh, latents)

    @memory.enough_for("the critic actor", memory.CRITIC)
    def score(self, trajectory: Trajectory) -> Scored:
        """What the estimator asks for: values of all T + 1 states, and action gradients."""
        estimator = self._config.estimator.row
        if trajectory.predicted is not None:
            return Scored(
                trajectory,
                torch.cat([trajectory.predicted, trajectory.rewards[:, None]], dim=1),
                None,
            )
        if not estimator.critic:
            return Scored(trajectory, None, None)
        prompts = trajectory.prompts.to(self._device)
        condition, weights = self._conditions[prompts], self._weights[prompts]
        found: list[Float[Tensor, " batch"]] = []
        gradients: list[Float[Tensor, "batch channels height width"]] = []
        for level in range(len(self._levels)):
            latents = trajectory.latents[:, level].to(self._device, torch.float32)
            timesteps = self._levels[level].expand(len(latents))
            with torch.no_grad():
                found.append(values(self._critic, latents, timesteps, condition, weights).cpu())
            if estimator.gradients and level > 0:
                if trajectory.means is not None:
                    latents = trajectory.means[:, level - 1].to(self._device)
                slope = action_gradients(self._critic, latents, timesteps, weights)
                gradients.append(slope.to(self._gradients_in).cpu())
        return Scored(
            trajectory,
            torch.stack(found, dim=1),
            torch.stack(gradients, dim=1) if gradients else None,
        )
