"""Names of trials: readable, safe as a folder, and one name for one setting."""

import hashlib
import json
import re
from collections import Counter
from typing import Any

from experiments.sweep.space import Settings, Space

LONGEST = 64
RESERVED = ("front",)
"""Other folders of a sweep."""


def safe(text: str) -> str:
    """Returns a text with a dash for all that a folder's name had better not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


class Namer:
    """Names every trial of a space from its settings alone, so that a resumed sweep finds its
    folders again.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        known = [self._plain(settings) for settings in space.enumerated()]
        self._twice = {
            name for name, count in Counter(name.lower() for name in known).items() if count > 1
        }

    def name(self, settings: Settings) -> str:
        """Returns the trial's folder.

        Drawn settings carry a checksum, since the numbers in a name are rounded.
        """
        plain = self._plain(settings)
        if (
            not self._space.drawn
            and plain.lower() not in {*self._twice, *RESERVED}
            and len(plain) <= LONGEST
        ):
            return plain
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
        return f"{plain[: LONGEST - 7].rstrip('-')}-{mark}"

    def label(self, settings: Settings) -> str:
        """Returns the setting without its seed, for tables and pictures; two settings may share
        one.
        """
        rest = {key: value for key, value in settings.items() if key != "seed"}
        return self._plain(rest) if rest or self._space.mix(rest) else "base"

    def _plain(self, settings: Settings) -> str:
        mix = self._space.mix(settings)
        named = (
            {key for known in self._space.mixes if known.name == mix for key in known.settings}
            if mix
            else set()
        )
        parts = [mix] if mix else []
        last = sorted(
            settings.items(), key=lambda setting: setting[0] == "seed"
        )  # as in the names of single runs
        parts += [self._part(key, value) for key, value in last if key not in named]
        return safe("-".join(part for part in parts if part)).strip("-._") or "trial"

    def _part(self, key: str, value: Any) -> str:
        """Returns a part of a name: words speak for themselves, numbers take along the end of their
        key.
        """
        if isinstance(value, str):
            return value
        leaf = key.rpartition(".")[2]
        alike = sum(other.rpartition(".")[2] == leaf for other in self._space.keys)
        return f"{leaf if alike == 1 else key.replace('.', '-')}{_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"-{str(value).lower()}"
    if isinstance(value, float):
        return f"{value:.4g}".replace("+", "")
    if isinstance(value, dict | list):
        words = (
            [f"{key}{value[key]}" for key in value]
            if isinstance(value, dict)
            else [str(entry) for entry in value]
        )
        return "-" + "-".join(words or ["none"])
    return str(value)
