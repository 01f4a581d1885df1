"""The checks of `doctor`, each one row: name, state, what was found."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from rl_unlearn import canvas
from rl_unlearn.config import Config

State = Literal["ok", "warn", "fail"]
GIGABYTE = 2**30


@dataclass(frozen=True)
class Row:
    """One check."""

    name: str
    state: State
    found: str


def check(config: Config, start_ray: bool) -> list[Row]:
    """All rows; none of them changes the machine."""
    rows = [Row("python", "ok" if sys.version_info >= (3, 11) else "fail", platform.python_version())]
    rows += _packages()
    rows += [_processors(), _gpu(config), _memory(), _output(config), _weights(), _ray(config, start_ray)]
    return rows


def requirements() -> list[Requirement]:
    """What the installed project, or the checkout around this file, asks for."""
    try:
        texts = metadata.requires("rl-unlearn") or []
    except metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[1] / "pyproject.toml"
        texts = tomllib.loads(project.read_text())["project"]["dependencies"] if project.is_file() else []
    return [need for need in map(Requirement, texts) if need.marker is None or need.marker.evaluate({"extra": ""})]


def _packages() -> Iterator[Row]:
    for need in requirements():
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Row(need.name, "fail", f"missing; needs {need.specifier}")
            continue
        fits = need.specifier.contains(found, prereleases=True)
        yield Row(need.name, "ok" if fits else "warn", found if fits else f"{found}; tested with {need.specifier}")


def _processors() -> Row:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Row("CPU", "ok" if cores > 1 else "warn", f"{cores} cores" if cores > 1 else "1 core; the demo wants 2")


def _gpu(config: Config) -> Row:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Row("GPU", "ok", names)
    wanted = config.model.device == "cuda"
    return Row(
        "GPU", "fail" if wanted else "ok", "none, but model.device=cuda" if wanted else "none; the canvas needs none"
    )


def _memory() -> Row:
    shared = Path("/dev/shm")  # noqa: S108 # nosec B108: Ray's object store
    if not shared.is_dir():
        return Row("shared memory", "ok", "not used on this system")
    free = shutil.disk_usage(shared).free / GIGABYTE
    enough = free >= 0.25
    hint = "" if enough else "; give the container more, for example --shm-size=2g"
    return Row("shared memory", "ok" if enough else "warn", f"{free:.1f} GiB free{hint}")


def _output(config: Config) -> Row:
    path = Path(config.output).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free / GIGABYTE
    except OSError as error:
        return Row("output folder", "fail", f"{path}: {error.strerror}")
    return Row("output folder", "ok" if free >= 1 else "warn", f"{path}: writable, {free:.0f} GiB free")


def _weights() -> Row:
    wanted = [canvas.pipeline_path() / "model_index.json"]
    wanted += [canvas.clip_path(name) for name in ("reward", "selection")]
    wanted += [canvas.judge_path(head) / "model.safetensors" for head in ("object", "style")]
    missing = [path.name if path.suffix == "" else path.parent.name for path in wanted if not path.exists()]
    return Row(
        "canvas weights", "fail" if missing else "ok", f"missing: {', '.join(missing)}" if missing else "complete"
    )


def _ray(config: Config, start: bool) -> Row:
    if find_spec("ray") is None:
        return Row("Ray", "fail", "cannot be imported; install the project's dependencies")
    if not start:
        return Row("Ray", "ok", "installed; --ray tries a start")
    from cluster.program import ray_cluster

    try:
        with ray_cluster(config):
            return Row("Ray", "ok", "starts" if config.cluster.address is None else f"{config.cluster.address} answers")
    except Exception as error:
        return Row("Ray", "fail", " ".join(str(error).split())[:200])
