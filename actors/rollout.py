"""The rollout actor: generates denoising trajectories with the newest policy it is given, and
scores the images.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn import image_rewards, memory, traits
from rl_unlearn.backprop import by_actions
from rl_unlearn.canvas import TraitRole
from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.config import Config
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.image_rewards import ImageReward
from rl_unlearn.messages import Request, Weights
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.noise import seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import (
    Evidence,
    anchor_classes,
    concept_probability,
    outcomes,
    reward_weights,
)
from rl_unlearn.trajectory import PER_ROUND, Trajectory
from rl_unlearn.validation import Sightings, sight


class RolloutActor:
    """Holds a policy, the reward CLIP and the selection CLIP.

    It loads what it is given where that is not what it has: the digest tells them apart.
    """

    def __init__(self, config: Config, given: Mapping[str, ImageReward] | None = None):
        """``given``: functions for names in ``reward.images``, or of a trait, that are not built
        in.
        """
        torch.set_num_threads(config.cluster.threads)
        self._config = config
        self._book = PromptBook.from_config(config)
        self._policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
        self._conditions = self._policy.encode([p.text for p in self._book.prompts])
        self._policy.free_text_encoders()
        self._reward = self._zero_shot(config.reward.clip, "reward")
        texts = self._reward.classes[self._book.concept_domain]
        self._anchors = anchor_classes(self._book, lambda: texts)
        self._weights = reward_weights(self._book, config.reward, self._anchors)
        self._image_rewards = image_rewards.find(config, given or {})
        self._trait = self._told_by("reward", given or {})
        self._trait_selection = self._told_by("selection", given or {})
        self._selection = self._zero_shot(config.selection.clip, "selection")
        self._digest = ""

    @property
    def policy(self) -> DiffusionPolicy:
        """The policy that draws."""
        return self._policy

    @property
    def conditions(self) -> Condition:
        """What the network is told of all prompts, a row for each."""
        return self._conditions

    def share_frozen(self, policy: DiffusionPolicy) -> None:
        """Keeps no second copy of the frozen weights beside another policy of this process."""
        self._policy.share_frozen(policy)

    def base_digest(self) -> str:
        """Checksum of the frozen model, to be compared with the learner's."""
        return model_digest(self._config.model)

    def anchor(self) -> str:
        """Names of the classes that shall stand in the concepts' places."""
        if self._book.trait is not None:
            return "the same without it"
        return ", ".join(
            self._book.names[self._book.concept_domain][anchor] for anchor in self._anchors
        )

    def _told_by(self, role: TraitRole, given: Mapping[str, ImageReward]) -> ImageReward | None:
        """Returns what tells the trait to forget, in that role; None for a concept with a word."""
        if self._book.trait is None:
            return None
        return traits.function_of(self._config, role, given)

    def _zero_shot(self, spec: str, name: Literal["reward", "selection"]) -> ZeroShot:
        return ZeroShot(*load_open_clip(spec, name), self._book.phrases, self._policy.device)

    def _load(self, weights: Weights) -> None:
        if weights.digest != self._digest:
            self._digest = ""  # should the next line fail half way
            self._policy.load_adapter(weights.state)
            weights.verify(self._policy.adapter_state())
            self._digest = weights.digest

    @memory.enough_for("the rollout actor", memory.ROLLOUT)
    @torch.no_grad()
    def sample(self, request: Request, weights: Weights) -> Trajectory:
        """Trajectories of the request's prompts under these weights, with behaviour log-probs and
        rewards.
        """
        self._load(weights)
        prompts = torch.tensor(request.prompts)
        count = len(prompts)
        positions = range(request.offset, request.offset + count)
        seeds = [
            seed_of(self._config.seed, "rollout", request.round, prompt, position)
            for prompt, position in zip(request.prompts, positions, strict=True)
        ]
        latents, log_probs, means = self._policy.rollout(self._conditions[prompts], seeds)
        seen, evidence = self._see(latents[:, -1])
        asked = prompts.to(self._policy.device)
        estimator = self._config.estimator.row
        return Trajectory(
            ids=torch.tensor(positions) + request.round * PER_ROUND,
            rounds=torch.full((count,), request.round),
            policy_versions=torch.full((count,), weights.version),
            prompts=prompts,
            latents=latents.cpu(),
            log_probs=log_probs.cpu(),
            outcomes=seen,
            rewards=self._rewards(seen, prompts),
            evidence=concept_probability(evidence, asked, self._book, seen).cpu(),
            means=means.cpu() if estimator.gradients == "means" else None,
            predicted=self._predicted(latents, means, prompts) if estimator.predicts else None,
            slopes=self._slopes(latents, prompts).cpu() if estimator.backprop else None,
        )

    def _rewards(
        self, seen: Float[Tensor, "batch outcomes"], prompts: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        return (seen * self._weights[prompts]).sum(dim=1)

    def _slopes(
        self,
        latents: Float[Tensor, "batch levels channels height width"],
        prompts: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch steps channels height width"]:
        """The reward's own gradients; what one part needs is kept at a time."""
        slopes = []
        for part in torch.arange(len(prompts)).split(self._config.learner.microbatch):
            asked = prompts[part]

            def reward(
                final: Float[Tensor, "batch channels height width"],
                asked: Int[Tensor, " batch"] = asked,
            ) -> Float[Tensor, " batch"]:
                return self._rewards(self._see(final)[0], asked)

            told = self._conditions[asked]
            slopes.append(by_actions(self._policy, latents[part], told, reward))
        return torch.cat(slopes)

    def _see(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch outcomes"], Evidence]:
        images = self._policy.decode(latents)
        evidence = self._reward(images)
        seen = image_rewards.evaluate(self._image_rewards, images)
        if self._trait is not None and self._book.trait is not None:
            shown = traits.sight(self._trait, self._book.trait, images)
            shown = traits.log_odds(shown, self._config.reward.bound)
            seen = torch.cat([seen, shown[:, None]], dim=1)
        return outcomes(evidence, self._config.reward.bound, seen), evidence

    def _predicted(
        self,
        latents: Float[Tensor, "batch levels channels height width"],
        means: Float[Tensor, "batch steps channels height width"],
        prompts: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch steps"]:
        """Rewards of the final images that the policy expected at each step."""
        rewards = []
        for step in range(means.shape[1]):
            x0 = self._policy.kernel.predicted_x0(means[:, step], latents[:, step], step)
            seen, _ = self._see(x0)
            rewards.append(self._rewards(seen, prompts))
        return torch.stack(rewards, dim=1)

    @memory.enough_for("the rollout actor", memory.ROLLOUT)
    @torch.no_grad()
    def validate(self, prompts: tuple[int, ...], offset: int, weights: Weights) -> Sightings:
        """Draws a part of a validation, the images from ``offset`` on, each with noise of its own,
        and shows them to both CLIPs, and to the function that selects by a trait.

        Image rewards and judges play no part.
        """
        self._load(weights)
        places = range(offset, offset + len(prompts))
        seeds = [seed_of(self._config.seed, "selection", place) for place in places]
        latents, *_ = self._policy.rollout(self._conditions[torch.tensor(prompts)], seeds)
        images = self._policy.decode(latents[:, -1])
        shown = None
        if self._trait_selection is not None:
            shown = traits.sight(self._trait_selection, "selection.image", images)
        return sight(self._book, prompts, self._selection(images), self._reward(images), shown)
