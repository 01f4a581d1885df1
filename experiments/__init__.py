"""The commands: configuration, runs and what they leave on disk.

`python -m experiments` is `rl-unlearn`.

In a checkout the packages of this project come from the folder of this one, whatever else is called
like them: `python -m` and `python -c` search the working directory first, where a user may have a
folder `actors` or `learner` of their own. A wheel has all of them below `rl_unlearn`.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

COMMAND = ("python", "-m", __name__)
"""How a command begins that runs this, here or in an installed wheel."""

_ROOT = Path(__file__).resolve().parents[1]

_BESIDE = ("rl_unlearn", "actors", "learner", "cluster") if __name__ == "experiments" else ()

for _name in _BESIDE:
    _folder = _ROOT / _name
    if _name not in sys.modules:
        _spec = PathFinder.find_spec(_name, [str(_ROOT)])
        if _spec is None or _spec.loader is None:
            raise ImportError(f"{_folder} is missing: install the project again")
        sys.modules[_name] = module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
    elif Path(sys.modules[_name].__file__ or "").resolve().parent != _folder:
        raise ImportError(
            f"{_name} was imported from {sys.modules[_name].__file__} and not from {_folder}: "
            "rename it"
        )
