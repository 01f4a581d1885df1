"""TRL's trainer of DDPO as a process that takes turns.

TRL 0.23.1 is the last one that has it. It is written for its users' subclasses, and three of its
habits are bent here, none of which makes it slower: `accelerate` must be set up before its pipeline
logs something; without guidance, diffusers of today appends the empty prompts that it is given all
the same; and its adapter has rank 4 on all attention layers, where ours may have another one.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from trl.models.modeling_sd_base import DefaultDDPOStableDiffusionPipeline
from trl.trainer.ddpo_config import DDPOConfig
from trl.trainer.ddpo_trainer import DDPOTrainer

from experiments.benchmarks import equal_work
from experiments.benchmarks.cost import Cost, measured
from experiments.benchmarks.workers import serve
from rl_unlearn.config import Config
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.models.location import fetched_folder

_PRECISION = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
_NEVER = 10**9


def _pipeline(config: Config) -> DefaultDDPOStableDiffusionPipeline:
    class Pipeline(DefaultDDPOStableDiffusionPipeline):  # type: ignore[misc]
        """With an adapter of our rank, on our layers."""

        def get_trainable_layers(self) -> Any:
            adapter = LoraConfig(
                r=config.lora.rank, lora_alpha=config.lora.rank,
                target_modules=equal_work.layers(config),
            )  # fmt: skip
            self.unet.add_adapter(adapter)
            for parameter in self.unet.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            return self.unet

    pipeline = Pipeline(str(fetched_folder(config.model)))
    if config.sampler.guidance == 1:
        pipeline.sd_pipeline._encode_prompt = lambda *_, prompt_embeds, **__: prompt_embeds
    return pipeline


class _Trainer(DDPOTrainer):  # type: ignore[misc]
    """Notes what training costs."""

    training: Cost

    def _train_batched_samples(self, *arguments: Any) -> Any:
        images = self.config.sample_batch_size * self.config.sample_num_batches_per_epoch
        steps: list[Any] = []
        train = super()._train_batched_samples
        self.training = measured(lambda: steps.append(train(*arguments)), images)
        return steps[0]


class TrlTurns:
    """Holds one trainer: `accelerate` counts steps for a whole process."""

    def __init__(self, config: Config):
        PartialState(cpu=not torch.cuda.is_available() or config.model.device == "cpu")
        self._config, self._images = config, config.rollout.images
        self._rounds = itertools.count(1)
        self._texts: list[str] = []
        self._trainer = self._made()

    def rollout(self) -> Cost:
        """Draws and rewards a round's images."""
        self._texts = equal_work.texts(self._config, next(self._rounds))

        def work() -> None:
            _, drawn = self._trainer._generate_samples(iterations=1, batch_size=self._images)
            self._trainer.compute_rewards(drawn)

        return measured(work, self._images)

    def epoch(self, size: int, threads: int) -> Cost:
        """Draws and rewards a round's images, and learns from them, so many states in a pass."""
        trainer, passes, round = self._trainer, self._images // size, next(self._rounds)
        trainer.config.train_batch_size = size
        trainer.config.train_gradient_accumulation_steps = passes
        trainer.accelerator.gradient_accumulation_steps = passes * trainer.num_train_timesteps
        trainer.accelerator.step = 0  # it counts on from epochs of another size
        self._texts = equal_work.texts(self._config, round)
        torch.set_num_threads(threads)
        cost = measured(lambda: trainer.step(round, 0), self._images)
        torch.set_num_threads(1)
        return cost

    def learn(self, size: int) -> Cost:
        """Does the same, and counts the learning alone."""
        self.epoch(size, threads=1)
        return self._trainer.training

    def _made(self) -> _Trainer:
        config, images = self._config, self._images
        reward = equal_work.reward(config)

        def rewarded(images: Any, asked: Sequence[str], _: Any) -> tuple[Any, dict[str, Any]]:
            return reward(images, asked), {}

        settings = DDPOConfig(
            mixed_precision=_PRECISION[config.model.dtype], sample_num_steps=config.sampler.steps,
            sample_eta=config.sampler.eta, sample_guidance_scale=config.sampler.guidance,
            sample_batch_size=images, sample_num_batches_per_epoch=1, train_batch_size=images,
            train_cfg=config.sampler.guidance > 1, train_learning_rate=equal_work.NOT_FAR,
            train_timestep_fraction=self._learned(), save_freq=_NEVER,
        )  # fmt: skip
        return _Trainer(settings, rewarded, lambda: (self._texts.pop(), {}), _pipeline(config))

    def _learned(self) -> float:
        """Returns the share of the steps that we learn from: it shall learn from as many."""
        _, kernel = read_shape_and_kernel(self._config)
        return (len(kernel.learned) + 0.5) / len(kernel)  # it rounds down


if __name__ == "__main__":
    torch.set_num_threads(1)
    turns = TrlTurns(equal_work.configuration())
    serve({"rollout": turns.rollout, "learn": turns.learn, "epoch": turns.epoch})
