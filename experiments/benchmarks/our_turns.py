"""Our side, and a bare diffusers pipeline, as a process that takes turns."""

import functools
import itertools
from typing import Any

import diffusers
import torch

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from experiments.benchmarks import equal_work, loop
from experiments.benchmarks.cost import Cost, measured
from experiments.benchmarks.workers import serve
from learner.learner import Learner
from rl_unlearn.config import Config
from rl_unlearn.families.pipeline import DTYPES, device_of
from rl_unlearn.messages import Request, Weights
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.trajectory import Scores, Trajectory


class OurTurns:
    """Makes what a task needs when it is first asked for, and keeps it."""

    def __init__(self, config: Config):
        self._config, self._rounds = config, itertools.count(1)
        self._images = config.rollout.images
        self._learners: dict[int, Learner] = {}
        """By states in a pass."""

    def rollout(self) -> Cost:
        """Draws and rewards a round's images with the adapter."""
        actor, weights, round = self._actor, self._weights, next(self._rounds)
        return measured(lambda: self._sample(actor, weights, round), self._images)

    def diffusers(self) -> Cost:
        """Draws and rewards them with diffusers' own pipeline, without adapter and log-probs."""
        pipeline, reward, sampler = self._pipeline, self._reward, self._config.sampler
        asked = equal_work.texts(self._config, next(self._rounds))

        def work() -> None:
            images = pipeline(
                asked, num_inference_steps=sampler.steps, eta=sampler.eta,
                guidance_scale=sampler.guidance, output_type="pt",
            ).images  # fmt: skip
            reward(images, asked)

        return measured(work, self._images)

    def learn(self, size: int) -> Cost:
        """Learns from all steps of a round's images in one optimizer step, without retention."""
        learner, (trajectory, scores) = self._learner(size), self._batch
        return measured(lambda: learner.update(trajectory, scores), self._images)

    def round(self) -> Cost:
        """Runs the loop as it is shipped."""
        return loop.turn(self._config)

    def _sample(self, actor: RolloutActor, weights: Weights, round: int) -> Any:
        asked = equal_work.prompts(self._config, round)
        size = self._config.rollout.batch
        return [
            actor.sample(Request(round, tuple(asked[at : at + size]), at), weights)
            for at in range(0, len(asked), size)
        ]

    def _learner(self, size: int) -> Learner:
        if size not in self._learners:
            changed = {
                "microbatch": size, "minibatches": 1, "batch": self._images,
                "lr": equal_work.NOT_FAR, "checkpointing": "off", "steps_share": 1.0,
            }  # fmt: skip
            self._learners[size] = Learner(self._learning(changed))
        return self._learners[size]

    @functools.cached_property
    def _actor(self) -> RolloutActor:
        return RolloutActor(self._config)

    @functools.cached_property
    def _weights(self) -> Weights:
        return Learner(self._config).weights()

    def _learning(self, changed: dict[str, Any]) -> Config:
        learner = self._config.learner.model_copy(update=changed)
        return self._config.model_copy(update={"learner": learner})

    @functools.cached_property
    def _batch(self) -> tuple[Trajectory, Scores]:
        trajectory = Trajectory.cat(self._sample(self._actor, self._weights, 0))
        return trajectory, CriticActor(self._learning({"steps_share": 1.0})).score(trajectory, 0)

    @functools.cached_property
    def _pipeline(self) -> Any:
        torch.set_num_threads(self._config.cluster.threads)
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            fetched_folder(self._config.model), safety_checker=None,
            torch_dtype=DTYPES[self._config.model.dtype],
            use_safetensors=True, local_files_only=True, trust_remote_code=False,
        )  # fmt: skip
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device_of(self._config.model))

    @functools.cached_property
    def _reward(self) -> Any:
        return equal_work.reward(self._config)


if __name__ == "__main__":
    ours = OurTurns(equal_work.configuration())
    serve({
        "rollout": ours.rollout, "diffusers": ours.diffusers, "learn": ours.learn,
        "round": ours.round,
    })  # fmt: skip
