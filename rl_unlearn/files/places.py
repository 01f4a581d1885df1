"""Where things are read and written: folders of this machine, or mounted into it."""

import re
from collections.abc import Iterable

from rl_unlearn.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(given: Iterable[object], what: str) -> None:
    """Raises ConfigError if one of these paths is an address such as s3://: it would be taken for a
    folder called `s3:`.
    """
    for path in given:
        if isinstance(path, str) and _ADDRESS.match(path):
            raise ConfigError(
                f"{what}{path!r}: only local or mounted folders work: mount it, or copy it here"
            )
