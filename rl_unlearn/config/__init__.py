"""The whole configuration as one frozen tree; every field carries its own description, unknown keys
are errors.
"""

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rl_unlearn.estimators import ESTIMATORS, KNOWN_AS, NAMES, Estimator, described
from rl_unlearn.files.text import cleaned, plain_name, twice

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""To be matched as a whole: `$` would let a line break through."""
LONGEST_CONCEPT = 64
MAX_CONCEPT_CHARACTERS = 100_000
Strings = Annotated[tuple[str, ...], Field(strict=False)]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
Labels = dict[
    Annotated[str, Field(pattern=rf"^([A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}$")],
    Annotated[str, Field(pattern=rf"^!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))$")],
]
_Pixels = Annotated[int, Field(ge=8, le=8192, strict=True)]
Size = Annotated[tuple[_Pixels, _Pixels], Field(strict=False)]
Trackers = Annotated[tuple[Literal["wandb", "mlflow"], ...], Field(strict=False)]
Budgets = Annotated[tuple[Annotated[int, Field(strict=False)], ...], Field(strict=False)]


class Section(BaseModel):
    """Strict and frozen: no silent conversion, no unknown key, no change after start."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


def _each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    double = twice(texts)
    if double is not None:
        raise ValueError(f"{double!r} stands there twice: keep one")
    if not all(map(cleaned, texts)):
        raise ValueError("an empty word stands there: remove it")
    return texts


class Model(Section):
    path: str = Field("canvas", min_length=1)
    """Pipeline to unlearn from: `canvas` (shipped), a diffusers folder, a hub id, or a checkpoint
    in one safetensors file, which needs `model.config`."""
    config: str | None = Field(None, min_length=1)
    """For a checkpoint in one file: a folder or hub id of the same kind of model, whose
    configurations it takes."""
    adapters: Strings = ()
    """Earlier erasures that are part of the model: run folders, adapter folders or files, fused
    into its UNet in this order. What they forgot stays out of the reward for keeping and out of
    IRA."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None takes the default branch. A run records the commit
    that it was."""
    variant: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Weights to read where there are several, such as `fp16`; None takes the plain ones, or `fp16`
    if these alone are there. A component that has no such variant gives its plain weights."""
    size: Size | None = None
    """Height and width of images in pixels, `[768, 512]`, or one number for a square; None takes
    the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where actors compute; `auto` takes a GPU if there is one."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Storage type of latents and compute type of the frozen weights; LoRA masters are always fp32.
    fp16 rounds eight times finer than bf16, whose rounding alone moves a step of Stable Diffusion
    by more than any budget: a run measures it after the warm-up and refuses budgets that it would
    use up."""

    @field_validator("size", mode="before")
    @classmethod
    def _one_number_is_a_square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) else size

    @field_validator("adapters")
    @classmethod
    def _each_adapter_once(cls, adapters: tuple[str, ...]) -> tuple[str, ...]:
        return _each_once(adapters)


class Sampler(Section):
    steps: int = Field(10, ge=2, le=1000)
    """Denoising steps of a trajectory, T."""
    eta: float = Field(1.0, gt=0, le=1)
    """Scale of a step's noise, as in DDIM; 0 would make the policy deterministic and is refused."""
    guidance: float = Field(1.0, ge=1, le=30)
    """Classifier-free guidance scale, the same in rollout and learner; 1 skips the second forward
    pass."""


class Lora(Section):
    rank: int = Field(32, ge=1, le=512)
    """Rank of the adapter; alpha equals the rank, so that scale 1 is the trained adapter."""
    layers: Literal["cross", "self", "attention"] = "cross"
    """Which attention projections of the UNet get an adapter."""


class Prompts(Section):
    template: str = Field("A {object} image in {style} style.", max_length=500)
    """Prompt with the fields {object} and {style}."""
    object_template: str = Field("A {object} image.", max_length=500)
    """Phrase that stands for an object alone in the zero-shot reward."""
    style_template: str = Field("An image in {style} style.", max_length=500)
    """Phrase that stands for a style alone in the zero-shot reward."""
    objects: Strings = ()
    """Objects of the world; empty means the canvas's twenty."""
    styles: Strings = ()
    """Styles of the world; empty means the canvas's eight."""
    target_file: str | None = None
    """Text file, one prompt a line, whose images must lose the concept (with retain_file: replaces
    the grid of objects and styles)."""
    retain_file: str | None = None
    """Text file, one prompt a line, to be kept as it is."""
    target_fraction: float = Field(0.875, gt=0, le=1)
    """Share of a round's images drawn for target prompts; the rest watches retained ones."""

    @field_validator("objects", "styles")
    @classmethod
    def _each_class_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(cleaned, _each_once(names)))


class Reward(Section):
    clip: str = Field("canvas", min_length=1)
    """Reward CLIP: `canvas`, a folder, or an open_clip `arch/pretrained`; never a judge."""
    forget: float = Field(1.0, ge=0)
    """Weight of the concept's negative log-odds on target prompts."""
    coherence: float = Field(3.0, ge=0)
    """Weight of the log-probability of the rest of the prompt (its style, or its object) on target
    prompts."""
    presence: float = Field(4.0, ge=0)
    """Weight of the anchor's log-probability on target prompts: something must be there instead."""
    anchor: Strings = ()
    """What should be there instead, in order of preference: the first that is another class of the
    concept's domain. `nearest` is the one whose phrase the reward CLIP finds most similar. Empty
    means the canvas's own (a dog; for a dog, a rabbit), elsewhere the nearest."""
    retain: float = Field(1.0, ge=0)
    """Weight of the log-probability of what was asked on retain prompts."""
    images: dict[str, float] = {}
    """Further rewards that see nothing but the image, with their weights, for every prompt:
    `jpeg_kilobytes`, `classifier:FOLDER:LABEL` (log-probability of a transformers or timm folder's
    label), or a name that the program's own API was given a function for."""
    bound: float = Field(8.0, gt=0)
    """Log-odds and log-probabilities are clipped at +-bound nats, so that no image is worth
    exploiting."""

    @field_validator("anchor", mode="before")
    @classmethod
    def _one_anchor_is_a_list_of_one(cls, anchor: object) -> object:
        return (anchor,) if isinstance(anchor, str) else anchor


class Critic(Section):
    lr: float = Field(1e-3, gt=0, lt=1)
    """AdamW step size."""
    grid: int = Field(4, ge=1, le=64)
    """Latents are cut into grid x grid tokens for the CLIP trunk."""
    layers: int = Field(1, ge=0)
    """Blocks of the reward CLIP's image tower in the trunk, from the first; 0 leaves a
    convolutional critic."""
    minibatch: int = Field(64, ge=1)
    """Noisy latents in a critic step."""
    steps: int = Field(16, ge=0)
    """Critic steps before each update."""
    window: int = Field(192, ge=1)
    """Replay rows, uniformly drawn, that these steps see; the warm-up's are among them until they
    are too old."""
    renoised: float = Field(0.5, ge=0, le=1)
    """Share of the critic's states that are final latents under fresh noise rather than states of
    the trajectory."""
    rehearsal: float = Field(0.5, ge=0, lt=1)
    """Share of a minibatch that comes from the warm-up images."""
    withheld: float = Field(0.8, ge=0, le=1)
    """Share of states whose prompt the critic is not told: it must look at the latents."""
    start: str | None = None
    """Run folder whose critic this one starts from; None: the reward CLIP's blocks and random
    convolutions."""
    warmup_images: int = Field(512, ge=2)
    """Images of the frozen policy made before the first update: they warm the critic up and are the
    retention pool."""
    warmup_target_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the warm-up images drawn for target prompts: what there is besides is most of what
    must be learned."""
    warmup_steps: int = Field(400, ge=0)
    """Critic steps on the warm-up images."""

    @property
    def fresh(self) -> int:
        """States of a minibatch that come from the replay store; the others are the warm-up's."""
        return self.minibatch - round(self.minibatch * self.rehearsal)


if TYPE_CHECKING:
    EstimatorName = str
else:
    EstimatorName = Literal[NAMES]


class EstimatorConfig(Section):
    name: EstimatorName = Field("pathwise", description=described())
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """GAE lambda of `critic`, `x0hat` and `qprop`; 1 is reward minus value."""
    truncation: float = Field(1.0, gt=0)
    """Truncation of `vtrace`'s ratios, which are tempered by ratio_exponent, in its value targets;
    the weight of the step itself is truncated by learner.clip_range."""
    nu: float = Field(1.0, ge=0)
    """Share of the control variate in `qprop`; 0 is `critic`."""
    ratio_exponent: float | None = Field(None, ge=0, le=1)
    """Exponent of a step's joint importance ratio where it weighs the step: 1 is exact, null stands
    for 1/D (the D-th root, practically no weight), 0 leaves the weights out."""

    @field_validator("name", mode="before")
    @classmethod
    def _known_as(cls, name: object) -> object:
        return KNOWN_AS.get(name.lower(), name) if isinstance(name, str) else name

    @property
    def row(self) -> Estimator:
        """The estimator of that name."""
        return ESTIMATORS[self.name]


class Learner(Section):
    ranks: int = Field(1, ge=1, le=64)
    """Learner actors that share every optimizer step: each computes its part of a minibatch, the
    gradients are summed, the weights stay bit-equal. The sum's rounding depends on it; otherwise an
    update does not."""
    lr: float = Field(3e-3, gt=0, lt=1)
    """Largest AdamW step size of the adapter, and the first one; it follows step_kl."""
    lr_floor: float = Field(0.02, gt=0, le=1)
    """Smallest step size, as a share of lr; 1 keeps the step size fixed."""
    lr_constant: float = Field(0.6, ge=0, le=1)
    """Share of the run after which the largest step size falls linearly to lr_floor; 1 never."""
    step_kl: float = Field(4 / 3, gt=0)
    """How far one update should move the policy: joint KL in nats per denoising step, above what
    rounding alone brings about in half precision. The critic is only right near the data it was
    fitted on. With one minibatch and loop.pipeline=0 nothing has moved when the step is taken, and
    lr is only annealed."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay."""
    batch: int = Field(24, ge=1)
    """Trajectories drawn from replay for one update."""
    updates_per_round: int = Field(1, ge=1)
    """Updates for each round of rollouts; batch * updates_per_round / rollout.images is how often a
    trajectory is reused."""
    minibatches: int = Field(2, ge=1)
    """Optimizer steps in an update; each sees its own part of the batch."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass in place of keeping them: a seventh of the
    memory, a third slower. auto: on a GPU where a microbatch would not fit."""
    microbatch: int = Field(64, ge=1)
    """Latents in one forward pass; gradients are accumulated over microbatches."""
    clip_range: float = Field(1.6, gt=0)
    """Clip of the joint log-ratio of one step, in nats: beyond it importance weights are truncated,
    and the likelihood-ratio estimators learn nothing more from the step."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient norm clip."""
    kl_budget: float = Field(0.5, gt=0)
    """How far retained prompts may drift: mean KL to the frozen model in nats per denoising step,
    above what rounding alone brings about in half precision."""
    kl_weight: float = Field(1.0, ge=0)
    """Lagrange multiplier of the budget at the start."""
    kl_rate: float = Field(0.05, ge=0, le=1)
    """Speed of the multiplier; 0 keeps kl_weight fixed."""
    kl_states: int = Field(32, ge=1)
    """Retained states of the pool seen by each optimizer step."""
    pool: int = Field(4096, ge=1)
    """Retained states that are kept, at most, each with the frozen model's mean: that takes a pass
    of the network after the warm-up, and 6 bytes of host memory for each latent number in half
    precision."""


class Rollout(Section):
    actors: int = Field(1, ge=1, le=4096)
    """Rollout actors, at most."""
    actors_min: int | None = Field(None, ge=1)
    """Rollout actors without which the run does not start; the others come and go with room on the
    cluster. None: all of them."""
    images: int = Field(24, ge=1)
    """Images of a round, all actors together."""
    batch: int = Field(64, ge=1)
    """Images of one sample call; fixes the batch shape, so results do not depend on the number of
    actors."""


class Replay(Section):
    capacity: int = Field(2048, ge=1)
    """Trajectories kept when a batch is drawn; the oldest leave first, and are counted."""
    max_lag: int = Field(8, ge=0)
    """Trajectories whose policy is more than this many updates old are evicted and never trained
    on."""
    spill: bool = False
    """Also write committed batches to the run folder as Arrow files."""


class Loop(Section):
    rounds: int = Field(32, ge=1)
    """Rounds of rollouts and updates after the warm-up."""
    mode: Literal["sync", "async"] = "sync"
    """sync: bit-reproducible on CPUs, round k is drawn by the policy of round k - 1 - pipeline.
    async: rollouts run freely inside the rate limit, and the ledger holds what timing decided, so
    that lost updates can be repeated."""
    pipeline: int = Field(1, ge=0, le=64)
    """Rounds of rollouts made ahead while the learner works (0: strictly in turn)."""
    checkpoint_every: int = Field(4, ge=0)
    """Rounds between two checkpoints, which `resume` goes on from; 0 makes none."""
    checkpoints: int = Field(2, ge=1)
    """Checkpoints kept, the newest ones."""
    timeout: float = Field(600.0, gt=0)
    """Seconds in which no actor has answered any call, after which one counts as lost."""
    heartbeat: float = Field(30.0, gt=0)
    """Seconds without a sign of life after which an actor counts as hung. A long call is no
    silence."""
    restarts: int = Field(5, ge=0)
    """Times in a row, with no new checkpoint between them, that a run goes on from its newest
    checkpoint after critic, replay store or learner were lost; then it fails."""


class Selection(Section):
    clip: str = Field("canvas", min_length=1)
    """Selection CLIP, another seed than the reward's: `canvas`, a folder, or an open_clip
    `arch/pretrained`."""
    every: int = Field(3, ge=1)
    """Rounds between two looks at the current policy."""
    may_lose: float = Field(0.02, ge=0, le=1)
    """How much of the rest may be lost: share of retained images on which the selection CLIP no
    longer sees what was asked, or no longer the rest of the prompt, against the untouched model. A
    version that loses more is not chosen. Half of `images` are looked at for it: of 64, 0.02 is one
    image, and below 1/64 it is none."""
    floor: float = Field(0.5, ge=0, le=1)
    """Share of images of the untouched model on which the CLIPs must see what was asked: less is a
    warning, none at all ends the run before it learns anything. 0: neither."""
    images: int = Field(128, ge=2)
    """Images of a look, the same prompts and noise each time, half of them on target prompts."""


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
    batch: int = Field(64, ge=1)
    """Images sampled at once, and kept together in the cache."""
    actors: int = Field(0, ge=0, le=4096)
    """Ray actors that draw the images; 0 draws them in this process."""


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
                "use positive numbers of steps, each larger than the one before, such as [10, "
                "40, 160]"
            )
        return steps


class Cluster(Section):
    inline: bool = False
    """Run every actor in this process, without Ray."""
    address: str | None = None
    """Ray address of an existing cluster (`auto` inside a job); None starts a private local one."""
    dashboard: bool = False
    """Give the private local cluster a dashboard, on the loopback interface; an existing cluster
    has its own."""
    threads: int = Field(1, ge=1)
    """CPU threads of each actor (the same inline, so that results agree)."""
    actor_cpus: float = Field(0.4, gt=0)
    """CPUs that Ray reserves for each actor; a fraction lets the four actors of a small run share
    two cores."""
    rollout_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each rollout actor. 0: none; with model.device=auto it still uses
    the one it finds."""
    critic_gpus: float = Field(0.0, ge=0)
    """GPUs of the critic actor, likewise."""
    learner_gpus: float = Field(0.0, ge=0)
    """GPUs of each learner rank, likewise."""
    rollout_labels: Labels = {}
    """Labels of the nodes for rollout actors, with Ray's selectors as values: `a`, `!a`, `in(a,
    b)`, `!in(a, b)`."""
    critic_labels: Labels = {}
    """Labels of the nodes for the critic actor."""
    learner_labels: Labels = {}
    """Labels of the nodes for learner actors."""


class Config(Section):
    name: str | None = None
    """Run name, folder inside `output`; None means `<concept>-seed<seed>`."""
    output: str = Field("outputs", min_length=1)
    """Folder of all runs."""
    concept: str = Field("cat", max_length=MAX_CONCEPT_CHARACTERS)
    """What to forget: an object, `style:<style>`, several of one kind with commas between them, or
    with prompt files a phrase; in any script, each up to 64 characters."""
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
    evaluation: Evaluation = Evaluation()
    attack: Attack = Attack()
    cluster: Cluster = Cluster()

    @field_validator("concept")
    @classmethod
    def _one_line(cls, concept: str) -> str:
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
        return _each_once(trackers)

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
