"""JSON of any origin, read as an object of bounded size, or refused by one error that names it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from rl_unlearn.errors import DataError

MAX_BYTES = 2**24


def parse_object(
    content: str | bytes,
    source: object,
    remedy: str = "put it back or make it again",
    infinite: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the object that ``content`` is; raises DataError, which names ``source`` and
    ``remedy``, for anything else.

    NaN and infinity are no JSON, but Python writes them: only the keys in ``infinite`` may have
    them. Half of a surrogate pair could not be written again.
    """
    try:
        parsed = json.loads(content, parse_constant=float if infinite else _refuse)
        if isinstance(parsed, dict):
            finite = {key: value for key, value in parsed.items() if key not in infinite}
            json.dumps(finite, ensure_ascii=False, allow_nan=not infinite).encode()
            return parsed
        reason = f"it is a {type(parsed).__name__}"
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{source} holds no JSON object ({reason}): {remedy}")


def read_object(
    path: Path,
    remedy: str = "put it back or make it again",
    limit: int = MAX_BYTES,
    infinite: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the object in a file; raises DataError if the file is absent, cannot be read, is
    larger than ``limit`` or damaged.

    ``infinite``: see :func:`parse_object`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}: {remedy}") from error
    if len(content) > limit:
        raise DataError(f"{path} is larger than {limit} bytes: {remedy}")
    return parse_object(content, path, remedy, infinite)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
