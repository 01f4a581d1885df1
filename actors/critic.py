"""The critic actor: values noisy latents at every step, and fits itself on the outcomes it is shown."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_unlearn.config import Config
from rl_unlearn.critic import Critic, action_gradients
from rl_unlearn.noise import generator
from rl_unlearn.policy import device_of, read_shape_and_schedule
from rl_unlearn.prompts import PromptBook
from rl_unlearn.trajectory import Scored, Trajectory
from rl_unlearn.zeroshot import load_open_clip


class CriticActor:
    """Holds the critic, its optimizer and the text embeddings of all prompts."""

    def __init__(self, config: Config):
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._device = device_of(config.model)
        shape, schedule = read_shape_and_schedule(config)
        self._levels = schedule.levels.to(self._device)
        book = PromptBook.from_config(config)
        clip, tokenizer = load_open_clip(config.reward.clip, "reward")
        with torch.no_grad():
            texts = nn.functional.normalize(clip.encode_text(tokenizer([p.text for p in book.prompts])), dim=-1)
            concept = nn.functional.normalize(clip.encode_text(tokenizer([book.concept])), dim=-1)
        target = torch.tensor([[float(p.target)] for p in book.prompts])
        self._conditions = torch.cat([texts, concept.expand_as(texts), target], dim=1).to(self._device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._critic = Critic(clip, shape[0], shape[1], config.critic.grid, self._conditions.shape[1])
        self._critic.to(self._device)
        self._optimizer = torch.optim.Adam(self._critic.parameters(), lr=config.critic.lr)

    def fit(self, trajectory: Trajectory, steps: int, round: int) -> dict[str, float]:
        """Regresses V(x_t, t, c) on the outcome (Monte Carlo, all T + 1 levels); returns the last squared error."""
        draw = generator(self._config.seed, "critic", round)
        loss = torch.zeros(())
        for _ in range(steps):
            rows = torch.randint(len(trajectory), (self._config.critic.minibatch,), generator=draw)
            levels = torch.randint(len(self._levels), (self._config.critic.minibatch,), generator=draw)
            values = self._critic(
                trajectory.latents[rows, levels].to(self._device, torch.float32),
                self._levels[levels.to(self._device)],
                self._conditions[trajectory.prompts[rows].to(self._device)],
            )
            loss = (values - trajectory.rewards[rows].to(self._device)).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._critic.parameters(), 1.0)
            self._optimizer.step()
        return {"critic_loss": loss.item()}

    def score(self, trajectory: Trajectory, with_gradients: bool) -> Scored:
        """Values of all T + 1 states; with ``with_gradients`` also the gradient at each stored action."""
        columns = [self._column(trajectory, k, with_gradients and k > 0) for k in range(len(self._levels))]
        values = torch.stack([v for v, _ in columns], dim=1)
        gradients = torch.stack([g for _, g in columns[1:] if g is not None], dim=1) if with_gradients else None
        return Scored(trajectory, values, gradients)

    def _column(
        self, trajectory: Trajectory, level: int, with_gradients: bool
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch channels height width"] | None]:
        latents = trajectory.latents[:, level].to(self._device, torch.float32)
        timesteps: Int[Tensor, " batch"] = self._levels[level].expand(len(latents))
        condition = self._conditions[trajectory.prompts.to(self._device)]
        if with_gradients:
            values, gradients = action_gradients(self._critic, latents, timesteps, condition)
            return values.cpu(), gradients.cpu()
        with torch.no_grad():
            return self._critic(latents, timesteps, condition).cpu(), None
