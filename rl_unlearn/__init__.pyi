from typing import Any

from experiments.api import Run, erase, evaluate, load_pipeline, open_run, unlearn
from rl_unlearn.errors import UserError

__version__: str
__all__ = ["Run", "UserError", "erase", "evaluate", "load_pipeline", "open_run", "unlearn"]

def beside(module: str) -> Any: ...
