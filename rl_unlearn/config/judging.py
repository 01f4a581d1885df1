"""Sections on how a run is judged: evaluation, attacks."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rl_unlearn.config.section import Section

SchedulerName = Literal["ddim", "dpm++", "dpm++-karras", "euler", "euler-a", "unipc"]
Budgets = Annotated[tuple[Annotated[int, Field(strict=False)], ...], Field(strict=False)]


class Evaluation(Section):
    target_images: int = Field(12, ge=1)
    """Images for each combination of object and style that holds the target concept."""
    other_images: int = Field(2, ge=1)
    """Images for each other combination."""
    per_prompt: int | None = Field(None, ge=1)
    """Images for every prompt alike, in place of the two above: UnlearnCanvas's full protocol is
    5."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Names the noise of the images and of the bootstrap; not the run's seed, so that runs compare
    on one noise."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind the 95 % intervals."""
    judge: str = Field("canvas", min_length=1)
    """`canvas` (the shipped judges; `canvas:panel` for three further ones together,
    `canvas:second`, `canvas:outline`, `canvas:patches` for each), a folder with classifiers
    `object/` and `style/`, or an open_clip model other than the reward's and the selection's."""
    image_judge: str | None = Field(None, min_length=1)
    """For `concept=image:NAME`: what judges whether the trait is there, a third one:
    `canvas:TRAIT` or `classifier:FOLDER:LABEL`. None: for a trait of the canvas its network for
    judging."""
    scheduler: SchedulerName | None = None
    """What draws the images, the untouched model's, too, in place of the kernel that training
    samples with (None): diffusers' DDIM without noise, DPM++ 2M (`dpm++`; `dpm++-karras`), Euler,
    Euler a, UniPC; of these `dpm++` and `euler` for models of flow matching. The noise that they
    start from is the kernel's."""
    steps: int | None = Field(None, ge=2, le=1000)
    """Steps of `evaluation.scheduler`. None: as many as training's, `sampler.steps`."""
    batch: int = Field(64, ge=1)
    """Images sampled at once, and kept together in the cache."""
    actors: int = Field(0, ge=0, le=4096)
    """Ray actors that draw the images; 0 draws them in this process."""

    @model_validator(mode="after")
    def _steps_of_a_scheduler(self) -> "Evaluation":
        if self.steps is not None and self.scheduler is None:
            raise ValueError("evaluation.steps are those of evaluation.scheduler: name one, too")
        return self

    def each(self, target: bool) -> int:
        """Returns the images of a prompt that asks for the concept, or does not."""
        return self.per_prompt or (self.target_images if target else self.other_images)


class Attack(Section):
    prompts: int = Field(24, ge=1)
    """Target prompts under attack, evenly spread over all of them."""
    images: int = Field(12, ge=1)
    """Images for each attacked prompt, from the noise that the evaluation draws with."""
    references: int = Field(4, ge=1)
    """Images of the concept for each attacked prompt that the attacker holds, by the untouched
    model."""
    draws: int = Field(16, ge=1)
    """Noisy references in one step of an attack."""
    prefix_tokens: int = Field(3, ge=1, le=64)
    """Vocabulary tokens put before the prompt; together they must fit the text encoder."""
    prefix_restarts: int = Field(4, ge=1)
    """Searches for a prefix, each from its own random tokens; the one of lowest loss counts."""
    prefix_steps: int = Field(30, ge=1)
    """Projected gradient steps of each search."""
    prefix_rate: float = Field(3.0, gt=0)
    """Step of the search, in standard deviations of the vocabulary's vectors."""
    inversion_steps: int = Field(200, ge=1)
    """Gradient steps on the vector of the new token."""
    inversion_rate: float = Field(0.1, gt=0)
    """Step of the inversion, in standard deviations of the vocabulary's vectors."""
    relearn_images: int = Field(16, ge=1)
    """References, evenly spread, that relearning trains on; the control gets as many of unrelated
    concepts."""
    relearn_steps: Budgets = (10, 40, 160)
    """Fine-tuning steps at which relearning is judged, rising."""
    relearn_rank: int = Field(8, ge=1, le=512)
    """Rank of the fresh LoRA, on all attention projections of the UNet, that relearning trains."""
    relearn_rate: float = Field(1e-3, gt=0, lt=1)
    """AdamW step size of relearning."""

    @field_validator("relearn_steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or steps[0] < 1 or list(steps) != sorted(set(steps)):
            raise ValueError(
                "use positive numbers of steps, each larger than the one before, such as [10, 40, "
                "160]"
            )
        return steps
