"""One trial: an ordinary run in the sweep's folder, each look at the policy told to the
searcher."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster import placement
from cluster.placement import Place
from cluster.tuning import EXPERIMENT, Report
from experiments.evaluation.measures import HEADLINE
from experiments.files import write_json
from experiments.runs import replacing, resuming
from experiments.runs.run_folder import RunFolder, now
from experiments.runs.run_state import NAME, read_state
from experiments.sweep.folder import turn
from experiments.sweep.naming import Namer
from experiments.sweep.results import chosen, figures, looks
from experiments.sweep.space import Settings, Space, configured
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError

LOOK = ("forgotten", "retained", "coherence", "other", "score", "images", "round")


@dataclass(frozen=True)
class Trials:
    """Everything about the trials of a sweep that their settings do not say; travels to their
    processes.
    """

    root: Path
    """The sweep's folder, absolute."""
    base: Config
    space: Space

    def name(self, drawn: Mapping[str, Any]) -> str:
        """The folder of the trial that Tune drew."""
        return Namer(self.space).name(self.space.settings(drawn))

    def config(self, drawn: Mapping[str, Any]) -> Config:
        """Its whole configuration."""
        found = self.space.settings(drawn) | {"name": self.name(drawn), "output": str(self.root)}
        return configured(self.base, found, "space")

    def places(self, drawn: Mapping[str, Any]) -> list[Place]:
        """What the trial that Tune drew reserves."""
        return self.needs(configured(self.base, self.space.settings(drawn), "space"))

    def needs(self, config: Config) -> list[Place]:
        """A place for the trial's own process, its actors', then those of drawing actors beyond its
        rollout actors.
        """
        own = self.space.file.per_trial
        found = [Place({"CPU": own.cpus, **({"GPU": own.gpus} if own.gpus else {})}, {})]
        if not config.cluster.inline:
            actors = placement.places(config)
            found += actors.all + [actors.rollouts[0]] * max(
                0, config.evaluation.actors - len(actors.rollouts)
            )
        return found

    def __call__(self, drawn: Settings, report: Report) -> None:
        """Carry it out, from its newest checkpoint if there is one, unless its run folder says that
        this is done.
        """
        found, name = self.space.settings(drawn), self.name(drawn)
        folder = RunFolder(self.root / name, self.about(drawn))
        with turn(self.root / EXPERIMENT / f"{name}.lock"):
            replacing.restore(folder.path)
            if not read_state(folder.path).finished:
                try:
                    self._run(self.config(drawn), folder, found, report)
                except Exception as error:
                    note(folder.path, folder.state, "failed", str(error) or type(error).__name__)
                    raise
            report(final(folder.path))

    def about(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """What `run_state.json` says of it from the start: tables are made from that."""
        found = self.space.settings(drawn)
        return {
            "trial": {
                "sweep": self.root.name,
                "label": Namer(self.space).label(found),
                "settings": found,
            }
        }

    def _run(self, config: Config, folder: RunFolder, found: Settings, report: Report) -> None:
        from experiments.run import run

        told = (0, -1)

        def listen(event: str, row: dict[str, Any]) -> None:
            nonlocal told
            # After a restart looks are taken again; the searcher has heard of them.
            if event == "selection" and (look := (row["round"], row["policy_version"])) > told:
                told = look
                report({key: row[key] for key in LOOK})

        overrides = [f"{key}={_text(value)}" for key, value in found.items()]
        argv = [
            "python",
            "-m",
            "experiments",
            "train",
            "--config",
            str(self.root / "base.yaml"),
            *overrides,
        ]
        argv.append(f"name={folder.path.name}")
        if begun := resuming.is_run(folder.path):
            config = resuming.as_begun(folder.path, config)
            resuming.check(folder.path, config)
        run(config, folder, argv, True, Console(quiet=True), begun, listen)


def final(folder: Path) -> dict[str, Any]:
    """The last row of a finished trial: its best look, and the judges' figures as `judge_*`."""
    taken = looks(folder)
    best, judged = chosen(taken), figures(folder)
    if best is None or not judged or any(best.get(key) is None for key in LOOK):
        raise DataError(
            f"{folder} is finished, but lacks looks or figures: remove it, and --resume makes it "
            "anew"
        )
    return (
        {key: best[key] for key in LOOK}
        | {f"judge_{key}": judged[key] for key in HEADLINE}
        | {"images": int(judged["images"]), "round": taken[-1]["round"]}
        | {"updates": int(judged["updates"]), "wall_seconds": judged["seconds"]}
    )


def note(folder: Path, state: dict[str, Any], verdict: str, reason: str) -> None:
    """Writes the end of a trial that could not write it itself; what its run folder says already is
    kept.
    """
    there = read_state(folder)
    if there.state not in ("failed", "finished", "stopped"):
        folder.mkdir(parents=True, exist_ok=True)
        known = state | there.model_dump(exclude_unset=True)
        write_json(folder / NAME, known | {"state": verdict, "reason": reason, "finished": now()})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
