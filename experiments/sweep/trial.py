"""One trial: an ordinary run in the sweep's folder, each validation of the policy told to the
searcher."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster import placement
from cluster.placement import Place
from cluster.tuning import EXPERIMENT, Report
from experiments import COMMAND
from experiments.evaluation.headline import HEADLINE
from experiments.files import write_json
from experiments.runs import replacing, resuming
from experiments.runs.run_folder import RunFolder, now
from experiments.runs.run_state import NAME, RunState, Trial, read_state
from experiments.settings import to_override
from experiments.sweep.folder import turn
from experiments.sweep.naming import Namer
from experiments.sweep.results import chosen, figures, validations
from experiments.sweep.space import Settings, Space, configured
from learner.events import Event, Selection
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError

VALIDATED = ("forgotten", "retained", "coherence", "other", "score", "images", "round")


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep share beside their settings; travels to their processes."""

    root: Path
    """The sweep's folder, absolute."""
    base: Config
    space: Space

    def name(self, drawn: Mapping[str, Any]) -> str:
        """Returns the folder of the trial that Tune drew."""
        return Namer(self.space).name(self.space.settings(drawn))

    def config(self, drawn: Mapping[str, Any]) -> Config:
        """Returns its whole configuration."""
        varied = self.space.settings(drawn) | {"name": self.name(drawn), "output": str(self.root)}
        return configured(self.base, varied, "space")

    def places(self, drawn: Mapping[str, Any]) -> list[Place]:
        """Returns what the trial that Tune drew reserves."""
        return self.needs(configured(self.base, self.space.settings(drawn), "space"))

    def needs(self, config: Config) -> list[Place]:
        """Returns a place for the trial's own process, its actors', then those of image actors
        beyond its rollout actors.
        """
        reserved = self.space.file.per_trial
        places = [
            Place({"CPU": reserved.cpus, **({"GPU": reserved.gpus} if reserved.gpus else {})}, {})
        ]
        if not config.cluster.inline:
            actors = placement.places(config)
            places += actors.all + [actors.rollouts[0]] * max(
                0, config.evaluation.actors - len(actors.rollouts)
            )
        return places

    def __call__(self, drawn: Settings, report: Report) -> None:
        """Carries the trial out, from its newest checkpoint if there is one, unless its run folder
        says that this is done.
        """
        settings, name = self.space.settings(drawn), self.name(drawn)
        folder = RunFolder(self.root / name, self.about(drawn))
        with turn(self.root / EXPERIMENT / f"{name}.lock"):
            replacing.restore(folder.path)
            if not read_state(folder.path).finished:
                try:
                    self._run(self.config(drawn), folder, settings, report)
                except Exception as error:
                    note(folder.path, folder.state, "failed", str(error) or type(error).__name__)
                    raise
            report(final(folder.path))

    def about(self, drawn: Mapping[str, Any]) -> RunState:
        """Returns what `run_state.json` says of it from the start: tables are made from that."""
        settings = self.space.settings(drawn)
        label = Namer(self.space).label(settings)
        return RunState(trial=Trial(sweep=self.root.name, label=label, settings=settings))

    def _run(self, config: Config, folder: RunFolder, settings: Settings, report: Report) -> None:
        from experiments.run import run

        last = (0, -1)

        def on_event(event: Event) -> None:
            nonlocal last
            # After a restart versions are validated again; the searcher knows of them.
            if isinstance(event, Selection) and (event.round, event.policy_version) > last:
                last = (event.round, event.policy_version)
                row = event.row()
                report({key: row[key] for key in VALIDATED})

        overrides = [to_override(key, value) for key, value in settings.items()]
        base, named = str(self.root / "base.yaml"), f"name={folder.path.name}"
        argv = [*COMMAND, "train", "--config", base, *overrides, named]
        if begun := resuming.is_run(folder.path):
            config = resuming.as_begun(folder.path, config)
            resuming.check(folder.path, config)
        run(config, folder, argv, True, Console(quiet=True), begun, on_event)


def final(folder: Path) -> dict[str, Any]:
    """Returns the last row of a finished trial: its best validation, and the judges' figures as
    `judge_*`.
    """
    taken = validations(folder)
    best, judged = chosen(taken), figures(folder)
    if best is None or not judged or any(best.get(key) is None for key in VALIDATED):
        raise DataError(
            f"{folder} is finished, but lacks validations or figures: remove it, and --resume "
            "makes it anew"
        )
    return (
        {key: best[key] for key in VALIDATED}
        | {f"judge_{key}": judged[key] for key in HEADLINE}
        | {"images": int(judged["images"]), "round": taken[-1]["round"]}
        | {"updates": int(judged["updates"]), "wall_seconds": judged["seconds"]}
    )


def note(folder: Path, state: RunState, verdict: str, reason: str) -> None:
    """Writes the end of a trial that could not write it itself; what its run folder says already is
    kept.
    """
    recorded = read_state(folder)
    if recorded.state not in ("failed", "finished", "stopped"):
        folder.mkdir(parents=True, exist_ok=True)
        known = state.changed(**recorded.content())
        ended = known.changed(state=verdict, reason=reason, finished=now())
        write_json(folder / NAME, ended.content())
