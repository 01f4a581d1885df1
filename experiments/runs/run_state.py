"""`run_state.json`: what a run says of itself, read as what it should be or refused."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object

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
    """Of which sweep the run is one, and with which settings."""

    sweep: StrictStr = ""
    label: StrictStr
    settings: dict[str, Any] = {}


class RunState(_Part):
    """The file's content; further keys are for people."""

    state: StrictStr | None = None
    """starting, running, finished, failed or stopped."""
    reason: StrictStr | None = None
    begun: StrictBool | None = None
    """Whether the run came as far as to count; earlier versions did not say so."""
    configs: list[StrictStr] = []
    """Digests of what `config.yaml` may be."""
    argv: list[StrictStr] = []
    packages: dict[StrictStr, StrictStr] = {}
    stands_on: dict[StrictStr, StrictStr] = {}
    """SHA-256 of what lies below the run (`rl_unlearn.models.foundation`)."""
    revision_asked: StrictStr | None = None
    """The hub's branch or tag that was asked for; `config.yaml` has the commit that it was then."""
    training: Training = Training()
    trial: Trial | None = None

    @property
    def finished(self) -> bool:
        """Whether the run ended as it should."""
        return self.state == "finished"


def read_state(folder: Path) -> RunState:
    """What a run folder says, nothing if it has no such file; DataError, which names it, if it is
    damaged.
    """
    path = folder / NAME
    if not path.exists():
        return RunState()
    found = read_object(path, REMEDY)
    try:
        return RunState.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is damaged ({where}: {first['msg'].lower()}): {REMEDY}") from error
