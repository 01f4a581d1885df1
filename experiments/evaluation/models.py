"""Loading a model for a person who waits: no bars for parts that take a moment, downloads keep
theirs.
"""

from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from rl_unlearn.config import Model
from rl_unlearn.families.pipeline import load_pipeline


def load_model(model: Model) -> Any:
    """Loads a pipeline without its noise."""
    quiet()
    return load_pipeline(model)


def quiet() -> None:
    """Hides the progress bars and remarks of libraries, which would stand beside ours."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
