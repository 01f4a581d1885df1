"""`run_state.json`: what a run says of itself, written and read by one type."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from rl_unlearn.config.erasing import Method
from rl_unlearn.files.versioned import Versioned, read_versioned

NAME = "run_state.json"
REMEDY = "put it back as it was, or start another run"
Count = Field(None, ge=0, le=2**63, allow_inf_nan=False)


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Training(_Part):
    """What the training took."""

    images_used: int | None = Count
    updates: int | None = Count
    wall_seconds: float | None = Count


class Trial(_Part):
    """The sweep that the run is part of, and its settings there."""

    sweep: StrictStr = ""
    label: StrictStr
    settings: dict[str, Any] = {}


class Mirrored(_Part):
    """Where the run stands in the store that it is copied to."""

    run: StrictStr
    """What its copies are kept under."""
    sessions: list[StrictStr] = []
    """All that have gone on with it up to here; a folder is as new as any copy that one of them has
    made."""
    replaces: StrictStr | None = None
    """The run whose copies count until this one has its first."""


class RunState(_Part, Versioned):
    """The file's content; further keys are for people."""

    state: StrictStr | None = None
    """starting, running, finished, failed or stopped."""
    reason: StrictStr | None = None
    """Why it failed or was stopped."""
    traceback: StrictStr | None = None
    begun: StrictBool | None = None
    """Whether the run came as far as to count; earlier versions did not say so."""
    configs: list[StrictStr] = []
    """Digests of what `config.yaml` may be."""
    argv: list[StrictStr] = []
    started: StrictStr | None = None
    ended: StrictStr | None = Field(None, alias="finished")
    updated: StrictStr | None = None
    host: StrictStr | None = None
    pid: StrictInt | None = None
    python: StrictStr | None = None
    packages: dict[StrictStr, StrictStr] = {}
    commit: StrictStr | None = None
    """Of the checkout with this code, `-dirty` where that was changed; None: it was installed."""
    device: StrictStr | None = None
    """What the driver's machine computes with."""
    stands_on: dict[StrictStr, StrictStr] = {}
    """SHA-256 of what lies below the run (`rl_unlearn.models.foundation`)."""
    revision_asked: StrictStr | None = None
    """The hub's branch or tag that was asked for; `config.yaml` has the commit that it was then."""
    dashboard: StrictStr | None = None
    """Where Ray shows the run."""
    eraser: Method | None = None
    """The supervised method that made it; None: reinforcement learning."""
    mirrored: Mirrored | None = None
    """None: it is copied nowhere."""
    training: Training = Training()
    trial: Trial | None = None

    @property
    def finished(self) -> bool:
        """Whether the run ended as it should."""
        return self.state == "finished"

    def changed(self, **changes: Any) -> "RunState":
        """Returns the same with some keys of the file set anew."""
        return RunState.model_validate(self.content() | changes)


def read_state(folder: Path) -> RunState:
    """Returns what a run folder says, nothing if it has no such file; DataError, which names the
    file, if it is damaged or newer.
    """
    return read_versioned(folder / NAME, RunState, REMEDY) or RunState()
