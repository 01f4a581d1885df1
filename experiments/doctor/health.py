"""The checks of `doctor`, each one row: name, state, what was found.

Those of the machine are in `machine`, those of Ray in `health_cluster`.
"""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from experiments.doctor import machine, preflight
from experiments.doctor.machine import Row, State
from experiments.extras import EXTRAS, installed
from experiments.runs.backends import OPENERS
from rl_unlearn import canvas
from rl_unlearn.config import Config

HUB_SECONDS = 5


def check(config: Config) -> list[Row]:
    """Returns a row of each check; none of them changes the machine."""
    rows = [
        Row("python", "ok" if sys.version_info >= (3, 11) else "fail", platform.python_version())
    ]
    rows += _packages()
    rows += [*machine.check(config), _weights()]
    return [*rows, _hub(config), *_preflight(config), *_extras(config)]


def requirements() -> list[Requirement]:
    """Returns what the installed project, or the checkout around this file, asks for."""
    try:
        texts = metadata.requires("rl-unlearn") or []
    except metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[2] / "pyproject.toml"
        texts = (
            tomllib.loads(project.read_text())["project"]["dependencies"]
            if project.is_file()
            else []
        )
    return [
        need
        for need in map(Requirement, texts)
        if need.marker is None or need.marker.evaluate({"extra": ""})
    ]


def _packages() -> Iterator[Row]:
    for need in requirements():
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Row(need.name, "fail", f"missing; needs {need.specifier}")
            continue
        fits = need.specifier.contains(version, prereleases=True)
        yield Row(
            need.name,
            "ok" if fits else "warn",
            version if fits else f"{version}; tested with {need.specifier}",
        )


def _weights() -> Row:
    wanted = [canvas.pipeline_path() / "model_index.json"]
    wanted += [canvas.clip_path(name) for name in ("reward", "selection")]
    wanted += [canvas.judge_path(head) / "model.safetensors" for head in ("object", "style")]
    missing = [
        path.name if path.suffix == "" else path.parent.name for path in wanted if not path.exists()
    ]
    return Row(
        "canvas weights",
        "fail" if missing else "ok",
        f"missing: {', '.join(missing)}" if missing else "complete",
    )


def _preflight(config: Config) -> Iterator[Row]:
    """Yields what would go wrong in a run of this configuration, and what should be known of it."""
    for name, notes, error in preflight.results(config):
        state: State = "fail" if error else "warn" if notes else "ok"
        yield Row(name, state, str(error) if error else "; ".join(notes) or "as a run needs them")


def _hub(config: Config) -> Row:
    """Returns where the model is; the hub is asked only for a hub id."""
    path, revision = config.model.path, config.model.revision
    if path == "canvas":
        return Row("model place", "ok", "the canvas, shipped")
    if Path(path).exists():
        return Row("model place", "ok", path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return Row("model place", "fail", f"{path} is no folder and no hub id")
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().model_info(path, revision=revision, timeout=HUB_SECONDS)
        return Row("model place", "ok", f"{path} is on the hub")
    except GatedRepoError:
        return Row("model place", "fail", f"{path} must be asked for on the hub, and HF_TOKEN set")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return Row(
            "model place",
            "fail",
            f"{path} (revision {revision or 'default'}) is not on the hub, or not for you",
        )
    except Exception as error:  # no network, offline mode, a proxy: all the same here
        cached = isinstance(
            try_to_load_from_cache(path, "model_index.json", revision=revision), str
        )
        why = f"the hub does not answer ({type(error).__name__})"
        return Row(
            "model place",
            "ok" if cached else "fail",
            f"{path}: {why}; " + ("cached here" if cached else "not cached"),
        )


def _extras(config: Config) -> Iterator[Row]:
    """Yields what a plain installation leaves out; only a tracker asked for must be there."""
    for name, extra in EXTRAS.items():
        if not installed(name):
            yield Row(
                name,
                "fail" if name in config.trackers else "ok",
                f"not installed; {extra.asked_by} needs {extra.remedy}",
            )
            continue
        where = f"; {_where(name, config)}" if name in OPENERS else ""
        yield Row(name, "ok", metadata.version(extra.package) + where)


def _where(tracker: str, config: Config) -> str:
    variable = {"wandb": "WANDB_API_KEY", "mlflow": "MLFLOW_TRACKING_URI"}[tracker]
    if os.environ.get(variable):
        return f"{variable} is set"
    return f"without {variable} it writes below {config.output}"
