"""The checks of `doctor`, each one row: name, state, what was found.

Those of Ray are in `health_cluster`.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from experiments.doctor import preflight
from experiments.runs import tracking
from experiments.runs.backends import PACKAGES
from rl_unlearn import canvas
from rl_unlearn.config import Config

State = Literal["ok", "warn", "fail"]
GIGABYTE = 2**30
HUB_SECONDS = 5
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Row:
    """One check."""

    name: str
    state: State
    found: str


def check(config: Config) -> list[Row]:
    """Returns a row of each check; none of them changes the machine."""
    rows = [
        Row("python", "ok" if sys.version_info >= (3, 11) else "fail", platform.python_version())
    ]
    rows += _packages()
    rows += [
        _processors(),
        _gpu(config),
        _memory(),
        check_folder("output folder", Path(config.output)),
        _weights(),
    ]
    return [*rows, _hub(config), *_preflight(config), *_trackers(config)]


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


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processors() -> Row:
    number = cores()
    return Row(
        "CPU",
        "ok" if number > 1 else "warn",
        f"{number} cores" if number > 1 else "1 core; the demo wants 2",
    )


def _gpu(config: Config) -> Row:
    wanted = config.model.device == "cuda"
    if not _may_have_cards():
        return Row(
            "GPU",
            "fail" if wanted else "ok",
            "none, but model.device=cuda" if wanted else "none; the canvas needs none",
        )
    import torch

    driver, built = _driver(), f"torch {torch.__version__} for CUDA {torch.version.cuda or 'none'}"
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        named = ", ".join(f"{card.name} ({card.total_memory / GIGABYTE:.0f} GiB)" for card in cards)
        known = {name.removeprefix("sm_").rstrip("af")[:-1] for name in torch.cuda.get_arch_list()}
        strange = [card.name for card in cards if str(card.major) not in known]
        if strange:
            return Row(
                "GPU", "fail", f"{built} has no code for {strange[0]}: install a build that has"
            )
        return Row("GPU", "ok", f"{named}, driver {driver or 'unknown'}, {built}")
    why = (
        f"NVIDIA driver {driver or 'unknown'} is there, but {built} sees no GPU: install a torch "
        "that fits the driver"
    )
    return Row("GPU", "fail" if wanted else "warn", why)


def _may_have_cards() -> bool:
    """Returns whether it is worth the seconds that torch takes to be imported."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or DRIVER.exists()


def cards() -> int:
    """Returns the number of GPUs that torch can use here."""
    if not _may_have_cards():
        return 0
    import torch

    return torch.cuda.device_count()


def _driver() -> str | None:
    """Returns the version of NVIDIA's kernel driver."""
    try:
        version = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text(encoding="utf-8").splitlines()[0])
    except (OSError, IndexError):
        return None
    return version.group() if version else None


def _memory() -> Row:
    shared = Path("/dev/shm")  # noqa: S108 # nosec B108: Ray's object store
    if not shared.is_dir():
        return Row("shared memory", "ok", "not used on this system")
    free = shutil.disk_usage(shared).free / GIGABYTE
    enough = free >= 0.25
    hint = "" if enough else "; give the container more, for example --shm-size=2g"
    return Row("shared memory", "ok" if enough else "warn", f"{free:.1f} GiB free{hint}")


def check_folder(name: str, path: Path) -> Row:
    """Returns whether a folder can be written to and has room.

    Where it is not there yet, the nearest one above it that is there is asked.
    """
    path = path.absolute()
    nearest = next(above for above in (path, *path.parents) if above.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free / GIGABYTE
    except OSError as error:
        return Row(name, "fail", f"{path}: {error.strerror}")
    return Row(name, "ok" if free >= 1 else "warn", f"{path}: writable, {free:.0f} GiB free")


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


def _trackers(config: Config) -> Iterator[Row]:
    for name, package in PACKAGES.items():
        if not tracking.installed(name):
            asked = name in config.trackers
            yield Row(
                name,
                "fail" if asked else "ok",
                f"not installed; trackers={name} needs pip install {package}",
            )
            continue
        variable = {"wandb": "WANDB_API_KEY", "mlflow": "MLFLOW_TRACKING_URI"}[name]
        where = (
            f"{variable} is set"
            if os.environ.get(variable)
            else f"without {variable} it writes below {config.output}"
        )
        yield Row(name, "ok", f"{metadata.version(package)}; {where}")
