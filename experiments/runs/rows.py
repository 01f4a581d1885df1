"""Files of JSON lines, `metrics.jsonl` and `ledger.jsonl`: the one reader of them, and what a line
must hold.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

from experiments.files import to_json, write_text
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object

REMEDY = "put the file back as it was, or start the run anew with --overwrite"


class Line(BaseModel):
    """Any object; a kind of its own names what its readers rely on. Further keys are left alone."""

    model_config = ConfigDict(extra="allow", frozen=True)


class EventRow(Line):
    """A line of `metrics.jsonl`."""

    event: StrictStr
    round: StrictInt = 0


class UpdateRow(Line):
    """A line of `ledger.jsonl`."""

    update: StrictInt
    version_in: StrictInt
    version_out: StrictInt
    round: StrictInt = 0
    newest_round: StrictInt = 0
    drawn_by: dict[StrictStr, StrictInt] = {}
    weights: StrictStr = ""


def read_rows(path: Path, kind: type[Line] = Line) -> list[dict[str, Any]]:
    """All lines as objects; none without a file.

    A last line that is cut short, as a crash leaves it, is left out.

    Raises DataError, which names file and line, for any other that is no object of this kind.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}: {REMEDY}") from error
    *whole, last = content.split(b"\n")
    rows = [
        _parsed(line, f"{path}, line {number},", kind) for number, line in enumerate(whole, start=1)
    ]
    with suppress(DataError):  # its writer was killed before the line's end
        rows += [_parsed(last, f"{path}, line {len(rows) + 1},", kind)] if last else []
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts lines that were read into a file, in one step."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def _parsed(line: bytes, source: str, kind: type[Line]) -> dict[str, Any]:
    row = parse_object(line, source, REMEDY)
    try:
        kind.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{source} is damaged ({where}: {first['msg'].lower()}): {REMEDY}"
        ) from error
    return row
