"""The checks of `doctor` that have to do with the machine: processors, cards, memory, folders."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.runs.origin import cores
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError

State = Literal["ok", "warn", "fail"]
GIGABYTE = 2**30
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Row:
    """One check."""

    name: str
    state: State
    found: str


def check(config: Config) -> list[Row]:
    """Returns a row of each check; none of them changes the machine."""
    return [
        _processors(),
        _gpu(config),
        _memory(),
        check_folder("output folder", Path(config.output)),
        *([_store(config.mirror)] if config.mirror else []),
    ]


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


def _store(address: str) -> Row:
    """Returns whether runs can be copied to a store."""
    from experiments.mirror.opening import try_store

    try:
        return Row("mirror", "ok", f"{try_store(address)}: can be written, read and deleted from")
    except MachineError as error:
        return Row("mirror", "fail", str(error))


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
