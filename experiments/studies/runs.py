"""The judged trials of a sweep as runs with their validations, and the settings that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import settings, strict_yaml
from experiments.sweep.naming import safe
from experiments.sweep.results import validations
from experiments.sweep.table import FORGOTTEN, Trial, read_trials


@dataclass(frozen=True)
class Run:
    """One finished trial and its validations."""

    setting: str
    """Its label without the concept."""
    concept: str
    trial: Trial
    warmup: int
    """Images of the warm-up."""
    per_round: int
    """Images of a round."""
    validations: tuple[dict[str, Any], ...]

    def images(self, validation: dict[str, Any]) -> int:
        """Returns the images of warm-up and rounds by the time of a validation; its policy is that
        of a round or two before.
        """
        return self.warmup + self.per_round * int(validation["round"])

    @property
    def reached(self) -> dict[str, Any] | None:
        """The first validation that finds the concept forgotten."""
        return next(
            (validation for validation in self.validations if validation["forgotten"] >= FORGOTTEN),
            None,
        )


def read_runs(root: Path) -> list[Run]:
    """Returns all judged trials of a sweep."""
    return [_run(trial) for trial in read_trials(root) if trial.finished]


def _run(trial: Trial) -> Run:
    config = settings.recorded(trial.path / "config.yaml")
    concept = safe(config.concept)
    seen = validations(trial.path)
    label = trial.label.replace(f"-{concept}", "").replace(concept, "") or "base"
    return Run(
        label,
        config.concept,
        trial,
        config.critic.warmup_images,
        config.rollout.images,
        tuple(seen),
    )


def setting_names(sweep: Path, runs: Sequence[Run]) -> list[str]:
    """Returns settings in the order of the sweep's file, where it names them; others by name after
    them.
    """
    listed = strict_yaml.read(sweep / "space.yaml").get("together") or []
    places = {safe(str(entry.get("name", ""))): place for place, entry in enumerate(listed)}
    return sorted(
        {run.setting for run in runs}, key=lambda name: (places.get(name, len(places)), name)
    )
