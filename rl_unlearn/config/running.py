"""Sections on how a run goes and where: rollouts, replay, loop, selection, cluster."""

from typing import Annotated, Literal

from pydantic import Field

from rl_unlearn.config.section import Section

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
Labels = dict[
    Annotated[str, Field(pattern=rf"^([A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}$")],
    Annotated[str, Field(pattern=rf"^!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))$")],
]


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
    image: str | None = Field(None, min_length=1)
    """For `concept=image:NAME`: the function that chooses, another one than the concept's, of the
    same kinds. None: for a trait of the canvas its network for selection."""
    every: int = Field(4, ge=1)
    """Rounds between two validations of the current policy by the selection CLIP."""
    may_lose: float = Field(0.04, ge=0, le=1)
    """How much of the rest may be lost: share of retained images on which the selection CLIP no
    longer sees what was asked, or no longer the rest of the prompt, against the untouched model. A
    version that loses more is not chosen. Half of `images` are looked at for it: of 32, 0.04 is one
    image, and below 1/32 it is none."""
    floor: float = Field(0.5, ge=0, le=1)
    """Share of images of the untouched model on which the CLIPs must see what was asked: less is a
    warning, none at all ends the run before it learns anything. 0: neither."""
    images: int = Field(64, ge=2)
    """Images of a validation, the same prompts and noise each time, half of them on target
    prompts."""
    batch: int | None = Field(None, ge=1)
    """Images of one call of a validation, which all rollout actors share; fixes the batch shape, so
    results do not depend on the number of actors. None: half of `rollout.batch`, so that a
    validation fits between the calls of the rounds. At most `rollout.batch`."""


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
    rollout_labels: Labels = Field({})
    """Labels of the nodes for rollout actors, with Ray's selectors as values: `a`, `!a`, `in(a,
    b)`, `!in(a, b)`."""
    critic_labels: Labels = Field({})
    """Labels of the nodes for the critic actor."""
    learner_labels: Labels = Field({})
    """Labels of the nodes for learner actors."""
