"""What all tests share: one thread, quiet libraries, slow tests last, and where the packages
are."""

import atexit
import os
import shutil
import tempfile

QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "NO_COLOR": "1",
    "MPLBACKEND": "agg",
}
os.environ.update(QUIET)  # before torch or ray is imported
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tests-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.environ.pop("RAY_ADDRESS", None)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rl_unlearn", "actors", "learner", "cluster", "experiments")


def pytest_configure() -> None:
    """One thread for every test, as in the actors."""
    torch.set_num_threads(1)


ALIKE = ("flux", "qwen_image", "z_image", "sana")
"""Families whose tests show what those of the other four do, in the files below."""
OF_ALL = ("test_families.py", "test_family_adapters.py", "test_plan.py", "test_memory.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; what is shown for four families is `long` for four more."""
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {}).values()
        if item.path.name in OF_ALL and any(isinstance(v, str) and v in ALIKE for v in values):
            item.add_marker("long")
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
