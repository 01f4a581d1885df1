"""The contract between the loop and the actors, on one page.

The loop calls ``actor.method.remote(...)``, which returns at once, and awaits the answer where it
needs it. An argument may be the reference to an answer that is still to come: the loop passes
trajectories from one actor to another and never sees one. Whether the actors live on Ray or in
this process, it cannot tell. Only the replay actor waits inside a call; every other actor works on
one call at a time, in the order in which they were made.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, Union, runtime_checkable

from learner.diagnostics import Metrics
from rl_unlearn.critic_file import CriticState
from rl_unlearn.messages import Request, Snapshot, Weights
from rl_unlearn.states import States
from rl_unlearn.trajectory import Scores, Trajectory
from rl_unlearn.validation import Sightings

P = ParamSpec("P")
V = TypeVar("V")
Answer = TypeVar("Answer", covariant=True)

Ref = Union[V, Awaitable[V]]  # noqa: UP007 (mypy reads no other generic alias)
"""A value, or the reference to one that is still to come."""
Seed = tuple[int | str, ...]
"""Names a random draw."""


@runtime_checkable
class Method(Protocol[P, Answer]):
    """A method of an actor, called from elsewhere."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Answer]:
        """Makes the call; the answer is awaited."""


@runtime_checkable
class RolloutHandle(Protocol):
    """Generates trajectories. Its answers are functions of the arguments: a call may be repeated,
    and any other rollout actor would answer the same.
    """

    base_digest: Method[[], str]
    """Checksum of the frozen model."""
    anchor: Method[[], str]
    """Names of the classes that shall stand in the concepts' places."""
    sample: Method[[Request, Ref[Weights]], Trajectory]
    """Trajectories of some prompts by a policy version, with log-probs and rewards."""
    validate: Method[[tuple[int, ...], int, Ref[Weights]], Sightings]
    """What the CLIPs see of a policy version on a part of a validation's prompts; the number is
    the place of the first one."""


@runtime_checkable
class CriticHandle(Protocol):
    """Values noisy latents at every step."""

    warm_up: Method[[Ref[Trajectory], int, int], dict[str, float]]
    """Fits it on one part after the other of the images of the frozen policy, which it keeps to
    rehearse; takes the part's number and how many there are, returns the loss."""
    fit: Method[[Ref[States], int], dict[str, float]]
    """Fits it on states from the store; the number names the random draws."""
    score: Method[[Ref[Trajectory], int], Scores]
    """The steps that the update of a policy version learns from, with the values and action
    gradients that the estimator asks for."""
    snapshot: Method[[], Snapshot]
    restore: Method[[Snapshot, Trajectory], None]
    state: Method[[], CriticState | None]
    """What another run can start from; None if the estimator needs no critic."""


@runtime_checkable
class ReplayHandle(Protocol):
    """Keeps trajectories and waits where rollouts or training are too far ahead."""

    add: Method[[Ref[Trajectory], bool], int]
    """Commits trajectories, to be learned from or not; returns how many were new and finite."""
    sample: Method[[int, int, int | None, int, Seed], Trajectory]
    """The batch for the update of a policy version, from rounds up to a newest one."""
    states: Method[[int, int, float, int, Seed], States]
    """Noisy latents for the critic, from the rounds that the batch of a version could hold."""
    warm_up: Method[[int, int], Trajectory]
    """The warm-up's trajectories, from one position up to another."""
    newest_round: Method[[int], int]
    """Newest round that the batch of a policy version could hold."""
    refused: Method[[int], Trajectory]
    """Trajectories of a round that were not finite."""
    counts: Method[[], dict[str, int]]
    snapshot: Method[[int], Snapshot]
    """The store as the batch of a policy version left it."""
    restore: Method[[Snapshot], None]


@runtime_checkable
class LearnerHandle(Protocol):
    """Updates the policy."""

    base_digest: Method[[], str]
    """Checksum of the frozen model."""
    weights: Method[[], Weights]
    """The present policy version."""
    untouched: Method[[], Weights]
    """An adapter that changes nothing, for the warm-up."""
    make_pool: Method[[Ref[Trajectory]], int]
    """Makes the retention pool from the warm-up; returns its number of states."""
    update: Method[[Ref[Trajectory], Ref[Scores], int], Metrics]
    """One update of the policy version that is named; called once more, it only answers again."""
    snapshot: Method[[], Snapshot]
    restore: Method[[Snapshot, Trajectory], int]


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class Actors:
    """The actors of a run."""

    rollouts: Sequence[RolloutHandle]
    """May become more or fewer during a run."""
    critic: CriticHandle
    replay: ReplayHandle
    learner: LearnerHandle
    left: Callable[[RolloutHandle, Exception], bool] = _never
    """Whether the error of a call says that the rollout actor has left, so that another one should
    be asked."""


@dataclass(frozen=True)
class Resumption:
    """What a resumed run starts from: the warm-up's trajectories and the parts of a checkpoint."""

    warm_up: Trajectory
    parts: dict[str, Snapshot]
    """``learner``, ``critic``, ``replay`` and ``loop``."""

    @property
    def newest_round(self) -> int:
        """Newest round of rollouts that it knows; in asynchronous mode these may be ahead of the
        training's.
        """
        return int(self.parts["loop"].values["newest_round"])


@runtime_checkable
class CheckpointStore(Protocol):
    """Where checkpoints go; called on the driver. Without one nothing is kept."""

    def due(self, round: int) -> bool:
        """Whether a checkpoint shall be made after this round."""

    def keep_warm_up(self, warm_up: Snapshot) -> None:
        """Writes the warm-up's trajectories: once, every checkpoint needs them."""

    def commit(self, round: int, parts: dict[str, Snapshot]) -> None:
        """Keeps the parts `learner`, `critic`, `replay` and `loop` as one, or nothing of them."""

    def keep_refused(self, round: int, trajectories: Snapshot) -> str:
        """Puts trajectories that are not finite where a person can look at them; returns where."""

    def newest(self, warn: Callable[[str], None]) -> tuple[int, Resumption] | None:
        """The newest valid checkpoint and its round, None if none was made yet; names damaged ones
        through ``warn``.
        """
