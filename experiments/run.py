"""One run from configuration to report: train, evaluate before and after, draw, write it all
down."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster import address
from cluster.program import train
from experiments.baselines import erasing
from experiments.console import say
from experiments.evaluation import comparing, pictures, samples
from experiments.evaluation.models import load_model
from experiments.export.card import write_card
from experiments.files import write_bytes, write_json
from experiments.mirror.mirror import Mirror
from experiments.report import curves
from experiments.report.report import write_report
from experiments.runs import rows, tracking
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import AHEAD, LEDGER, recorded, verify
from experiments.runs.progress import make_progress
from experiments.runs.recorder import Judged, Reached, Recorder
from experiments.runs.resuming import identity
from experiments.runs.run_folder import RunFolder
from experiments.runs.run_state import read_state
from learner import events
from learner.events import Emit, Event
from learner.loop import Result
from learner.roles import Resumption
from learner.timeline import Timeline
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.clip.zeroshot import fetch
from rl_unlearn.config import Config
from rl_unlearn.critic_file import save_critic
from rl_unlearn.errors import TrainingError, UserError
from rl_unlearn.evaluation import record
from rl_unlearn.evaluation.judges import ProbabilityJudge, load_judge
from rl_unlearn.evaluation.record import Evaluation
from rl_unlearn.image_rewards import ImageReward
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models import foundation, location, model_folder
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def run(
    config: Config,
    folder: RunFolder,
    argv: list[str],
    evaluated: bool,
    console: Console,
    resumed: bool = False,
    emit: Emit | None = None,
    notes: Sequence[str] = (),
    supervised: bool = False,
    mirror: Mirror | None = None,
    functions: Mapping[str, ImageReward] | None = None,
) -> dict[str, Any]:
    """Fills the run folder; returns what the command prints.

    Bad input fails before the folder is made.

    `notes` are warnings of the run from its start. With `resumed` it goes on from the newest
    checkpoint in the folder. `emit` takes every event of the training after it has been recorded.
    `supervised`: a supervised eraser does the work. `mirror` is told of each checkpoint.
    `functions` of the image are the caller's own, by the names that the configuration has.
    """
    start = time.monotonic()
    tracking.check(config)
    book = PromptBook.from_config(config)
    folder.note(
        revision_asked=read_state(folder.path).revision_asked if resumed else config.model.revision
    )
    with console.status("looking at the model, loading the judges"):
        config = config.model_copy(update={"model": location.pinned(config.model)})
        local = _for_driver(config)
        judge = load_judge(local) if evaluated else None
        model = config.model
        model_files = location.fetched_folder(model)
        model_folder.check(model_files, config.sampler, model.size, model.variant)
        model_folder.check_schedule(model_files, Schedule.of(config))
        fetch("reward.clip", config.reward.clip)
        fetch("selection.clip", config.selection.clip)
        stands_on = foundation.of_run(config)
    folder.note(stands_on=stands_on, eraser=config.erase.method if supervised else None)
    if mirror is not None:
        before = read_state(folder.path).mirrored if resumed else None
        folder.note(mirrored=mirror.begin(folder.path, before))
    with folder.running(config, argv, resumed):
        begun, progress = time.monotonic(), make_progress(console)
        store = Checkpoints(
            folder.path,
            config.loop.checkpoint_every,
            config.loop.checkpoints,
            identity(config, stands_on),
            *([mirror.committed] if mirror is not None else []),
        )
        resumption, reached = _left(folder, store, console) if resumed else (None, None)
        timeline = Timeline(config, recorded(folder.path))
        trackers = tracking.open_trackers(config, folder)
        beside = [mirror] if mirror is not None else []
        with Recorder(folder, progress, trackers, reached, beside) as recorder:
            for note in notes:
                recorder(events.Warning(round=0, message=note))
            told = _both(recorder, emit, mirror)
            if supervised:
                result = erasing.erase(config, told)
            else:
                result = _train(config, folder, told, store, resumption, timeline, functions)
            progress.stop()  # what follows has a display of its own
            earlier = result.seconds - (time.monotonic() - begun)  # by the sittings before this one
            save_adapter(folder / "adapter", result.adapter, config, foundation.drawn(stands_on))
            if result.critic is not None:
                save_critic(folder.path, result.critic)
            lines = rows.read_rows(folder / "metrics.jsonl", rows.EventRow)
            write_bytes(folder / "curves.png", curves.draw_curves(lines))
            evaluation: Evaluation | None = None
            if judge is not None:
                evaluation = _look(config, folder, result, book, judge, console, functions)
                figures = evaluation.content()["after"]
                judged = {"round": config.loop.rounds, "final": True, **figures}
                recorder(Judged.model_validate(judged))
        seconds = time.monotonic() - start + max(0.0, earlier)
        training: dict[str, Any] = {
            "images_used": result.images,
            "updates": result.updates,
            "wall_seconds": round(seconds, 1),
        }
        outcome = training | {"seed": config.seed, "concept": config.concept}
        if evaluation is not None:
            outcome = evaluation.model_copy(update=outcome).content()
            write_json(folder / record.NAME, outcome)
        folder.update(training=training)
        write_card(folder.path, folder / "adapter", config)
        report = write_report(folder.path)
    return outcome | {
        "run": str(folder.path),
        "report": str(report),
        "policy_version": result.policy_version,
    }


def _left(
    folder: RunFolder, store: Checkpoints, console: Console
) -> tuple[Resumption | None, Reached]:
    """Returns what the newest checkpoint holds, None if there is none yet, and how far it is.

    Changes no record of the run.
    """
    rows.read_rows(folder / "metrics.jsonl", rows.EventRow)
    checkpoint = store.newest(lambda line: say(console, line))
    if checkpoint is None:
        return None, (None, 0)
    round, start = checkpoint
    verify(folder / LEDGER, start.parts["loop"].values["updates"], round)
    return start, (round, start.newest_round)


def _both(recorder: Recorder, emit: Emit | None, mirror: Mirror | None) -> Emit:
    def record(event: Event) -> None:
        recorder(event)
        if mirror is not None:  # a run that goes on elsewhere ends here
            mirror.lease.check()
        if emit is not None:
            emit(event)

    return record


def _train(
    config: Config,
    folder: RunFolder,
    emit: Emit,
    store: Checkpoints,
    start: Resumption | None,
    timeline: Timeline,
    functions: Mapping[str, ImageReward] | None,
) -> Result:
    spill: Path | None = folder / "replay" if config.replay.spill else None
    try:
        result = train(
            config, emit, spill, image_rewards=functions, store=store, start=start,
            timeline=timeline,
        )  # fmt: skip
        verify(folder / LEDGER, result.updates)
        (folder / AHEAD).unlink(missing_ok=True)
        return result
    except UserError:
        raise
    except Exception as error:
        raise TrainingError(
            f"training failed: {type(error).__name__}: {error}; see run_state.json, --debug"
        ) from error


def _look(
    config: Config,
    folder: RunFolder,
    result: Result,
    book: PromptBook,
    judge: ProbabilityJudge,
    console: Console,
    functions: Mapping[str, ImageReward] | None,
) -> Evaluation:
    local = _for_driver(config)
    candidate = comparing.Candidate(
        config.run_name,
        config.lora,
        result.adapter,
        (folder / "adapter" / FILE_NAME).stat().st_size,
    )
    compared = comparing.judge_side_by_side([candidate], book, judge, local, console, functions)
    policy = DiffusionPolicy(load_model(local.model), local)
    policy.load_adapter(result.adapter)
    drawn = samples.draw(policy, samples.choose(book), local)
    drawn.save(folder / samples.FOLDER)
    samples.draw(policy, samples.choose_variety(book), local).save(folder / samples.VARIETY)
    write_bytes(folder / "samples.png", pictures.to_png(drawn.picture()))
    return compared.evaluation()


def _for_driver(config: Config) -> Config:
    """Returns the configuration for the driver, which on a cluster takes the device it has.

    Actors keep the one asked for.
    """
    if address.meant(config).is_local:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"device": "auto"})})
