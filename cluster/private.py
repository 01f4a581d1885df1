"""The private local Ray of one run: on loopback alone, behind a token, as urgent as its driver."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from cluster import environment, packages, zero_copy
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError

LOOPBACK = "127.0.0.1"

_SHARED = (
    "RAY_REDIS_ADDRESS",
    "RAY_gcs_storage",
    "RAY_gcs_storage_path",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
)
"""Variables with which Ray keeps its state outside, or takes the code of another Ray's job."""


def check_environment() -> None:
    """Raises MachineError if a variable would open the private Ray to others."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None and mode.lower() != "token":
        raise MachineError(
            f"RAY_AUTH_MODE={mode}: everybody on this machine could run code on the private Ray; "
            "unset it, or use --inline"
        )
    for name in _SHARED:
        if os.environ.get(name):
            raise MachineError(
                f"{name} is set: the private Ray would share its state or its code with another "
                "one; unset it, or use --inline"
            )


def start(config: Config) -> Any:
    """Starts a private Ray, connects, and returns Ray's context.

    The caller has checked the environment.
    """
    import ray

    _make_token()
    # It would advise to switch the token off.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(
        logging.ERROR
    )
    with _on_loopback(), environment.setting(zero_copy.variables()):
        context = ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, 2),
            include_dashboard=config.cluster.dashboard,
            dashboard_host=LOOPBACK,
            job_config=packages.job(),
            # Ray's own 15 lets a busy machine starve the actors, which then look as if they hung.
            _system_config={"worker_niceness": 0},
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    try:
        if (where := ray.util.get_node_ip_address()) != LOOPBACK:
            raise MachineError(
                f"the private Ray {ray.__version__} listens at {where} and not at {LOOPBACK} "
                "alone: install the version of constraints.txt, or use --inline"
            )
        packages.check_workers(config.loop.timeout)
    except BaseException:
        ray.shutdown()
        raise
    return context


def _make_token() -> None:
    """Makes the token that Ray looks for in the home folder, if there is none.

    One that Ray makes can be read by everybody.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        file = Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:
        raise MachineError(
            "there is no home folder for Ray's token: set HOME, or RAY_AUTH_TOKEN"
        ) from error
    if file.exists():
        return
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, aside = mkstemp(dir=file.parent)  # for nobody else to read
        try:
            with os.fdopen(handle, "w") as token:
                token.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # another run was quicker, and uses it already
                os.link(aside, file)
        finally:
            Path(aside).unlink()
    except OSError as error:
        raise MachineError(
            f"cannot write {file}: {error.strerror or error}; make it writable, or set "
            "RAY_AUTH_TOKEN"
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray take loopback for this machine's address: each of its servers then listens there.

    On Linux Ray has no argument for it, and replaces a loopback address that is given to it. This
    is the constant with which it keeps to loopback on systems without clusters, where a firewall
    would ask the user.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
