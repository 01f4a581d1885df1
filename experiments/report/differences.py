"""What sets configurations apart: from each other, or from the defaults."""

from collections.abc import Sequence
from typing import Any

from experiments import settings
from rl_unlearn.config import Config


def differences(configs: Sequence[Config]) -> list[tuple[str, str, list[str]]]:
    """Returns `(key, default, value of each configuration)` where they differ.

    A single configuration is compared with the defaults.
    """
    rows = []
    for key, field in settings.fields().items():
        if settings.is_section(field) or key in ("name", "output", "mirror"):
            continue
        default, given = (
            settings.value(Config(), key),
            [settings.value(config, key) for config in configs],
        )
        if len({shown(value) for value in given}) > 1 or (len(given) == 1 and given[0] != default):
            rows.append((key, shown(default), [shown(value) for value in given]))
    return rows


def shown(value: Any) -> str:
    """Returns a setting's value for people."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(the canvas's)"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
