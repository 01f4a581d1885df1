"""What a run says while it works, one type for each kind of event.

`row` is an event as it stands in a line of metrics.jsonl or ledger.jsonl.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """Something that happened; says which kind by `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]

    def row(self) -> dict[str, Any]:
        """Its fields that were given, in the order in which they were given."""
        return self.model_dump(exclude_unset=True)


Emit = Callable[[Event], None]
"""Takes an event, on the driver."""


class Phase(Event):
    """What the run is about to do."""

    name = "phase"
    phase: str


class Dashboard(Event):
    """Where Ray's dashboard is."""

    name = "dashboard"
    url: str


class WarmingUp(Event):
    """A part of the warm-up is done."""

    name = "warming-up"
    step: str
    """What is at work: the drawing, or the critic's fit, which goes on after it."""
    done: int
    """Images drawn, or shares of the fit."""
    total: int


class WarmUp(Event):
    """The warm-up is done."""

    name = "warm-up"
    images: int
    pool_states: int
    """Size of the retention pool."""
    critic_loss: float | None = None


class Update(Event):
    """One update: which policy became which one, by which trajectories, and who drew them.

    ``newest_round`` and ``drawn_by``, of the rounds that are new since the update before, are what
    `timeline.Timeline` reads. It goes to the ledger.
    """

    name = "update"
    update: int
    round: int
    version_in: int
    version_out: int
    policy_lag_max: int
    newest_round: int
    drawn_by: dict[int, int]
    """Policy version that drew each round."""
    trajectories: int
    batch: str
    """Digest of the trajectories' ids."""
    weights: str
    """Digest of the weights after the update."""


class Round(Event):
    """A round of rollouts and its updates are done; holds all metrics of `diagnostics`, too."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name = "round"
    round: int
    rounds: int
    """Rounds of the whole run."""
    images: int
    seconds: float
    """Since the run began, earlier sittings included."""
    images_per_second: float


class Selection(Event):
    """The selection CLIP has validated a policy version; the shares are `messages.Validation`'s."""

    name = "selection"
    round: int
    policy_version: int
    images: int
    seconds: float
    score: float
    allowed: bool
    """Whether it lost no more of the rest than `selection.may_lose`."""
    final: bool
    forgotten: float
    retained: float
    coherence: float
    other: float
    presence: float
    trace: float
    rewarded: float
    best: bool
    """Whether it was better than all before it."""


class Warning(Event):
    """Something that a person should know, and that does not end the run."""

    name = "warning"
    round: int | None = None
    message: str


class Restart(Event):
    """Actors were lost and will be made anew: later rounds than these are told again."""

    name = "restart"
    round: int
    """Round of the checkpoint; 0 is the start."""
    newest_round: int
    """Newest round of rollouts in it."""
    cause: str
    message: str
