"""Which folder this project's packages come from, and that Ray's workers take them from there, too.

Ray puts the driver's working directory in front of what its workers search: a folder `actors` of the user's own in it
would be taken for this project's.
"""

import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from rl_unlearn.errors import MachineError

NAMES = ("rl_unlearn", "actors", "learner", "cluster", "experiments")
ROOT = str(Path(__file__).resolve().parents[1])


def search_path() -> list[str]:
    """Where workers shall search before the interpreter's own places: as the driver does, with ROOT for ours."""
    named = [str(Path(path).absolute()) for path in sys.path if Path(path).is_dir()]
    own = [path for path in dict.fromkeys(named) if not _is_the_interpreters(path) and path != ROOT]
    hidden = any(_folder(name, own) is not None for name in NAMES)
    return [ROOT, *own] if hidden or not _is_the_interpreters(ROOT) else own


def job() -> Any:
    """A configuration for `ray.init` with which workers search where `search_path` says."""
    from ray.job_config import JobConfig

    class Job(JobConfig):  # type: ignore[misc]
        """Ray's own, without the working directory that Ray adds when it connects."""

        def _serialize(self) -> Any:
            if not self._runtime_env_has_working_dir():  # a job's own copy of the packages is in front already
                self._py_driver_sys_path = search_path()[::-1]  # each is put before the one that came before it
            return super()._serialize()

    return Job()


def check_workers(timeout: float) -> None:
    """Asks a worker of the connected Ray; MachineError that names both folders where it would import other packages."""
    import ray

    def folders(names: Sequence[str]) -> dict[str, str | None]:  # nested: sent as it is, for nothing of ours is certain
        from importlib.util import find_spec

        return {name: spec.origin if (spec := find_spec(name)) else None for name in names}

    found = ray.get(ray.remote(num_cpus=0)(folders).remote(NAMES), timeout=timeout)
    for name, origin in found.items():
        wanted = Path(ROOT, name, "__init__.py")
        if origin is None or Path(origin).resolve() != wanted:
            raise MachineError(
                f"Ray's workers would import {name} from {origin or 'nowhere'} and not from {wanted}: rename that one, "
                "start in another folder, or use --inline"
            )


def _folder(name: str, paths: list[str]) -> str | None:
    spec = PathFinder.find_spec(name, paths)
    return spec.origin if spec is not None else None


def _is_the_interpreters(path: str) -> bool:
    places = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(Path(path).is_relative_to(place) for place in [*places, site.getusersitepackages()])
