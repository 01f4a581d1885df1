"""Tensors that actors on one machine send each other: they lie in Ray's shared memory once, and who
receives them reads them there.

So nothing may write into a tensor that came with a call or an answer: others read the same memory.
"""

import os
import warnings

VARIABLE = "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS"
"""What Ray reads in each process that sends tensors."""


def variables() -> dict[str, str]:
    """Returns what a Ray must be started with; what the user has set stays."""
    return {VARIABLE: os.environ.get(VARIABLE, "1")}


def expect() -> None:
    """Silences torch's remark that a tensor that is only read could be written into."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
