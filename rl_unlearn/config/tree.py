"""The whole configuration."""

import hashlib
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rl_unlearn.config.erasing import Erase
from rl_unlearn.config.judging import Attack, Evaluation
from rl_unlearn.config.learning import Critic, EstimatorConfig, Learner
from rl_unlearn.config.model import Lora, Model, Prompts, Reward, Sampler
from rl_unlearn.config.running import Cluster, Loop, Replay, Rollout, Selection
from rl_unlearn.config.section import Section, each_once
from rl_unlearn.files.text import cleaned, plain_name
from rl_unlearn.reward_names import trait

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""To be matched as a whole: `$` would let a line break through."""
LONGEST_CONCEPT = 64
MAX_CONCEPT_CHARACTERS = 100_000
Trackers = Annotated[tuple[Literal["wandb", "mlflow"], ...], Field(strict=False)]


class Config(Section):
    name: str | None = None
    """Run name, folder inside `output`; None means `<concept>-seed<seed>`."""
    output: str = Field("outputs", min_length=1)
    """Folder of all runs. An address, such as `s3://bucket/runs`, is taken as `mirror`, and the
    folder stays `outputs`."""
    mirror: str | None = Field(None, min_length=1)
    """Where each committed checkpoint and the finished run are copied to while the run itself stays
    in `output`: `s3://`, `gs://`, `abfs://` or `file://`. Credentials come from the environment."""
    concept: str = Field("cat", max_length=MAX_CONCEPT_CHARACTERS)
    """What to forget: an object, `style:<style>`, several of one kind with commas between them, or
    with prompt files a phrase; in any script, each up to 64 characters. Or `image:NAME`, a trait
    that no word names: what a function of the image sees (`canvas:TRAIT`,
    `classifier:FOLDER:LABEL`, or the caller's own, which gives 0 to 1: how surely it is there), on
    the images of `prompts.targets`."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Source of every random number."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run folder."""
    trackers: Trackers = ()
    """Experiment trackers that hear of the run, too: `wandb`, `mlflow`. Where they are and who may
    write there comes from their own environment variables; without these they write below
    `output`."""
    model: Model = Model()
    sampler: Sampler = Sampler()
    lora: Lora = Lora()
    prompts: Prompts = Prompts()
    reward: Reward = Reward()
    critic: Critic = Critic()
    estimator: EstimatorConfig = EstimatorConfig()
    learner: Learner = Learner()
    rollout: Rollout = Rollout()
    replay: Replay = Replay()
    loop: Loop = Loop()
    selection: Selection = Selection()
    erase: Erase = Erase()
    evaluation: Evaluation = Evaluation()
    attack: Attack = Attack()
    cluster: Cluster = Cluster()

    @field_validator("concept")
    @classmethod
    def _one_line(cls, concept: str) -> str:
        seen_by = trait(concept)
        if seen_by is not None:
            if not cleaned(seen_by):
                raise ValueError("name the function after image:, such as image:canvas:mirrored")
            return cleaned(concept)
        parts = [cleaned(part) for part in concept.split(",")]
        names = [part.removeprefix("object:").removeprefix("style:").strip() for part in parts]
        if not all(0 < len(name) <= LONGEST_CONCEPT for name in names):
            raise ValueError(
                f"name what to forget, with commas between, each in up to {LONGEST_CONCEPT} "
                "characters"
            )
        return cleaned(concept)

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        return each_once(trackers)

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(NAME, name):
            raise ValueError(
                "use up to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
            )
        return name

    @property
    def run_name(self) -> str:
        """`name`, or one made of concept and seed; a long list of concepts is cut off: it names a
        folder.

        What is not in ASCII cannot be told apart by its letters alone: a few digits of its SHA-256
        follow.
        """
        end = f"-seed{self.seed}"
        if not self.concept.isascii():
            end = f"-{hashlib.sha256(self.concept.encode()).hexdigest()[:6]}{end}"
        plain = plain_name(self.concept).lstrip("._-")[: 64 - len(end)]
        return self.name or (plain or "concept") + end
