"""Which folder this project's packages come from, and that Ray's workers take them from there, too.

Ray puts the driver's working directory in front of what its workers search: a folder `actors` of
the user's own in it would be taken for this project's.
"""

import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from rl_unlearn.errors import MachineError

_TOP = __name__.partition(".")[0]
NAMES = (
    ("rl_unlearn", "actors", "learner", "cluster", "experiments")
    if _TOP == "cluster"  # a checkout; in a wheel all are below the first
    else (_TOP,)
)
ROOT = str(Path(__file__).resolve().parents[__name__.count(".")])


def search_path() -> list[str]:
    """Returns where workers shall search before the interpreter's own places.

    That is where the driver does, with ROOT before what would hide these packages.
    """
    named = [str(Path(path).absolute()) for path in sys.path if Path(path).is_dir()]
    search = [
        path for path in dict.fromkeys(named) if not _is_the_interpreters(path) and path != ROOT
    ]
    hidden = any(_folder(name, search) is not None for name in NAMES)
    return [ROOT, *search] if hidden or not _is_the_interpreters(ROOT) else search


def job() -> Any:
    """Returns a configuration for `ray.init` by which workers search where `search_path` says."""
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        """Ray's own, without the working directory that Ray adds when it connects."""

        def _serialize(self) -> Any:
            # Of a job that brought its packages along they are in front already.
            if not self._runtime_env_has_working_dir():
                # In turn each is put before all others.
                self._py_driver_sys_path = search_path()[::-1]
            return super()._serialize()

    return Job()


def check_workers(timeout: float) -> None:
    """Asks a worker of the connected Ray what it would import.

    Raises MachineError that names both files where it is not what the driver has.
    """
    import ray

    # Nested, so that Ray sends it as it is: none of our modules is certain there.
    def folders(names: Sequence[str]) -> dict[str, str | None]:
        from importlib.util import find_spec

        return {name: spec.origin if (spec := find_spec(name)) else None for name in names}

    imported = ray.get(ray.remote(num_cpus=0)(folders).remote(NAMES), timeout=timeout)
    for name, origin in imported.items():
        wanted = Path(ROOT, name, "__init__.py")
        if origin is None or Path(origin).resolve() != wanted:
            raise MachineError(
                f"Ray's workers would import {name} from {origin or 'nowhere'} and not from "
                f"{wanted}: rename that one, start in another folder, or use --inline"
            )


def _folder(name: str, paths: list[str]) -> str | None:
    spec = PathFinder.find_spec(name, paths)
    return spec.origin if spec is not None else None


def _is_the_interpreters(path: str) -> bool:
    places = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(Path(path).is_relative_to(place) for place in [*places, site.getusersitepackages()])
