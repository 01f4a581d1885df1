"""The Python API: what the verbs of the command line do, for programs and notebooks.

It is found as `rl_unlearn.unlearn` and so on. Nothing is printed unless `verbose`; what goes wrong
is a `UserError` of one line. Each function takes further settings by their dotted keys, in any form
that a configuration file has them: `settings={"learner.lr": 1e-3}`.

>>> import rl_unlearn
>>> run = rl_unlearn.unlearn(concept="cat", output=folder, settings=small, inline=True)
>>> untouched, forgetful = run.evaluation.models
>>> 0 <= forgetful.ua.value <= 100
True
>>> sample = run.images()[0]
>>> sample.prompt, sample.target, sample.after.size
('A cat image in noto style.', True, (32, 32))
>>> run.report().name
'report.html'
>>> pipeline = rl_unlearn.load_pipeline(run)
>>> pipeline("a cat in flat style", num_inference_steps=4).images[0].size
(32, 32)
>>> rl_unlearn.open_run(run.path).config.concept
'cat'
"""

import html
import os
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from experiments import settings as layers
from experiments.__main__ import QUIET, parse
from experiments.evaluation.headline import HEADLINE
from experiments.runs.resuming import is_run
from experiments.verbs import common
from experiments.verbs import erase as erasing
from experiments.verbs import evaluate as evaluating
from experiments.verbs import train as training
from learner.events import Event
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError, UserError
from rl_unlearn.evaluation import record
from rl_unlearn.evaluation.record import Evaluation
from rl_unlearn.image_rewards import ImageReward

__all__ = ["Run", "Sample", "UserError", "erase", "evaluate", "load_pipeline", "open_run",
           "unlearn"]  # fmt: skip

Progress = Callable[[Event], None]
"""Takes each event of a run: `event.name` says what it is, `event.row()` what it holds."""


@dataclass(frozen=True)
class Sample:
    """One picture of the fixed sheet of a run, by both models from the same noise."""

    prompt: str
    seed: int
    target: bool
    """Whether the prompt asks for what is to be forgotten."""
    before: Image.Image
    """By the untouched model."""
    after: Image.Image
    """By the model with the run's adapter."""


@dataclass(frozen=True)
class Run:
    """A finished run folder. In a notebook it shows its figures and its pictures."""

    path: Path

    @property
    def config(self) -> Config:
        """The whole configuration that the run was made with."""
        return layers.recorded(self.path / "config.yaml")

    @property
    def adapter(self) -> Path:
        """The folder with the LoRA: plain diffusers loads it by `load_lora_weights`."""
        return self.path / "adapter"

    @property
    def evaluation(self) -> Evaluation | None:
        """What the judges saw, as in `evaluation.json`; None for a run that was not judged."""
        return record.read_evaluation(self.path / record.NAME)

    def images(self) -> list[Sample]:
        """Returns the fixed sheet of pictures, those of the concept first; empty for a run that
        was not judged.
        """
        from experiments.report import tiles

        return [
            Sample(tile.prompt, tile.seed, row.target, tile.before, tile.after)
            for row in tiles.read(self.path)
            for tile in row.tiles
        ]

    def report(self) -> Path:
        """Writes the report anew from the run's records and returns its file."""
        from experiments.report.report import write_report

        return write_report(self.path)

    def __str__(self) -> str:
        """Returns its folder, as seen from here."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    def __repr__(self) -> str:
        return f"Run({self})"

    def _repr_html_(self) -> str:
        """Returns the figures before and after, and the sheet."""
        evaluation, sheet = self.evaluation, self.path / "samples.png"
        title = f"<b>{html.escape(str(self))}</b>"
        if evaluation is None:
            return f"{title}: not judged"
        rows = ""
        for key, heading in HEADLINE.items():
            figures = [getattr(row, key) for row in evaluation.models[:2]]
            cells = [f"<td>{figure.value:.1f}</td>" for figure in figures if figure is not None]
            rows += f"<tr><td>{heading}</td>{''.join(cells)}</tr>"
        picture = ""
        if sheet.is_file():
            data = b64encode(sheet.read_bytes()).decode()
            picture = f'<img alt="before and after" src="data:image/png;base64,{data}">'
        head = "<tr><th></th><th>before</th><th>after</th></tr>"
        return f"{title}<table>{head}{rows}</table>{picture}"


def unlearn(
    model: str | None = None,
    concept: str | None = None,
    *,
    rewards: Mapping[str, float | tuple[ImageReward, float]] | None = None,
    functions: Mapping[str, ImageReward] | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    config: str | Path | Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    start: "Run | str | Path | None" = None,
    on: "Run | str | Path | None" = None,
    critic_from: "Run | str | Path | None" = None,
    evaluate: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    inline: bool = False,
    address: str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Run:
    """Trains an adapter that forgets a concept, as `train` does, and returns the run.

    `model`: `canvas`, a folder or a hub's name (`model.path`). `concept`: a word, or `image:NAME`
    for what only a function sees. `rewards`: weights of functions of the image, by name; a function
    of your own stands beside its weight, `{"bright": (brightness, 0.5)}`, takes images in [0, 1]
    shaped (batch, 3, height, width) and returns a finite number for each; it is called on the
    rollout actors, so it must be picklable, and a program that resumes the run passes it again.
    `functions`: those that a trait is told by (`concept`, `selection.image`,
    `evaluation.image_judge`). `config`: shipped configurations by name, or files; later ones win,
    and `settings` win over them. `resume`: go on with this run if it has begun. `inline`: without
    Ray, in this process. `progress` takes each event of the training.

    Raises UserError in one line: ConfigError for settings, MachineError, DataError, TrainingError.

    >>> import rl_unlearn
    >>> def brightness(images):
    ...     return images.mean(dim=(1, 2, 3))
    >>> seen = []
    >>> run = rl_unlearn.unlearn(
    ...     concept="frog", rewards={"brightness": (brightness, 0.5)}, output=folder,
    ...     settings=small, inline=True, evaluate=False, progress=lambda event: seen.append(event),
    ... )
    >>> [event.round for event in seen if event.name == "round"]
    [1, 2]
    """
    own = {key: value[0] for key, value in (rewards or {}).items() if isinstance(value, tuple)}
    weights = {
        key: value[1] if isinstance(value, tuple) else value
        for key, value in (rewards or {}).items()
    }
    told = {"model.path": model, "concept": concept, "reward.images": weights or None}
    words = [
        *_files(config),
        *_words(told, output, settings),
        *_given("--name", name),
        *_given("--start", _path(start)),
        *_given("--on", _path(on)),
        *_given("--critic-from", _path(critic_from)),
        *_given("--address", address),
        *(["--no-evaluate"] * (not evaluate)),
        *(["--resume", "auto"] * resume),
        *(["--overwrite"] * overwrite),
        *(["--inline"] * inline),
    ]
    args = parse(["train", *words])
    with _console(verbose) as console:
        brought = training.Brought(progress, {**own, **(functions or {})})
        return _made(training.run(args, console, brought))


def erase(
    method: str = "uce",
    model: str | None = None,
    concept: str | None = None,
    *,
    output: str | Path | None = None,
    name: str | None = None,
    config: str | Path | Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    evaluate: bool = True,
    overwrite: bool = False,
    verbose: bool = False,
) -> Run:
    """Erases a concept by a supervised method, `uce`, `esd` or `ca`, as `erase` does.

    The run it returns may be a start: `unlearn(start=run)`. Raises UserError in one line.

    >>> import rl_unlearn
    >>> run = rl_unlearn.erase("uce", concept="dog", output=folder, evaluate=False)
    >>> sorted(file.suffix for file in run.adapter.iterdir())
    ['.md', '.safetensors']
    """
    words = [
        "--method", method, *_files(config),
        *_words({"model.path": model, "concept": concept}, output, settings),
        *_given("--name", name), *(["--no-evaluate"] * (not evaluate)),
        *(["--overwrite"] * overwrite),
    ]  # fmt: skip
    args = parse(["erase", *words])
    with _console(verbose) as console:
        return _made(erasing.run(args, console))


def evaluate(
    *runs: "Run | str | Path",
    full: bool = False,
    settings: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> Evaluation:
    """Judges adapters against the untouched model, side by side, as `evaluate` does.

    `runs`: runs, adapter folders or files. `full`: every prompt with five seeds. The result's
    `models` has a row for the untouched model and one for each adapter. Raises UserError in one
    line.

    >>> import rl_unlearn
    >>> found = rl_unlearn.evaluate(cat, settings={"evaluation.target_images": 8})
    >>> [row.name for row in found.models]
    ['untouched', 'cat-seed0']
    """
    words = [*(str(_path(run)) for run in runs), *_words({}, None, settings)]
    args = parse(["evaluate", *words, *(["--full"] * full)])
    with _console(verbose) as console:
        return Evaluation.model_validate(evaluating.run(args, console))


def open_run(path: str | Path) -> Run:
    """Returns the run in a folder; DataError if there is none.

    >>> import rl_unlearn
    >>> rl_unlearn.open_run(cat.path) == cat
    True
    """
    if not is_run(Path(path)):
        raise DataError(f"{path} holds no run: give a run folder, such as outputs/cat-seed0")
    return Run(Path(path).absolute())


def load_pipeline(run: "Run | str | Path", device: str | None = None) -> Any:
    """Returns the diffusers pipeline of a run's model with its adapter attached, on `device` or on
    the GPU if there is one.

    `run`: a run, adapter folder or file. `unload_lora_weights()` gives the untouched model back.
    Raises UserError in one line.

    >>> import rl_unlearn
    >>> pipeline = rl_unlearn.load_pipeline(cat, device="cpu")
    >>> pipeline.get_active_adapters()
    ['default_0']
    """
    from experiments.evaluation.models import load_model
    from rl_unlearn.adapters.adapter import read_adapter
    from rl_unlearn.families.pipeline import attach, device_of
    from rl_unlearn.models.location import trained

    place = Path(str(_path(run)))
    with _console(verbose=False):
        config = common.run_config(place, [], only_drawn=True)
        pipeline = load_model(config.model)
        attach(pipeline, read_adapter(place), str(place), trained(config.model))
        return pipeline.to(device or device_of(config.model))


def _made(outcome: Mapping[str, Any]) -> Run:
    return Run(Path(outcome["run"]).absolute())


def _files(config: str | Path | Sequence[str | Path]) -> list[str]:
    files = [config] if isinstance(config, str | Path) else config
    return [word for file in files for word in ("--config", str(file))]


def _words(
    told: Mapping[str, Any], output: str | Path | None, settings: Mapping[str, Any] | None
) -> list[str]:
    """Returns settings as words of a command: one path for both, with the same checks."""
    known = {key: value for key, value in told.items() if value is not None}
    known |= {} if output is None else {"output": str(output)}
    return [layers.to_override(key, value) for key, value in (known | dict(settings or {})).items()]


def _given(flag: str, value: Any) -> list[str]:
    return [] if value is None else [f"{flag}={value}"]


def _path(run: "Run | str | Path | None") -> str | None:
    return None if run is None else str(run.path if isinstance(run, Run) else run)


@contextmanager
def _console(verbose: bool) -> Iterator[Console]:
    """Yields what a verb tells people by; the libraries below are as quiet as in a command."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from experiments.evaluation.models import quiet

    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            quiet()
        yield Console(stderr=True, quiet=not verbose)
