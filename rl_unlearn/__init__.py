"""Concept unlearning in text-to-image diffusion models by critic-guided reinforcement learning
(arXiv 2601.03213).

The names below are the Python API. They live in `experiments.api`, at the far end of the imports,
for they do what the command line does; here they are looked up when somebody asks for them.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any
from warnings import catch_warnings, simplefilter

__version__ = "0.1.0"
__all__ = ["Run", "UserError", "erase", "evaluate", "load_pipeline", "open_run", "unlearn"]


def beside(module: str) -> Any:
    """Returns a module of the packages that stand beside this one in a checkout, and below it in a
    wheel: ``beside("experiments.api")``.
    """
    package = module.partition(".")[0]
    below = find_spec(f"{__name__}.{package}") is not None
    return import_module(f"{__name__}.{module}" if below else module)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with catch_warnings():
        simplefilter("ignore")  # a notebook without widgets is told so by what is imported below
        return getattr(beside("experiments.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
