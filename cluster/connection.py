"""The connection to Ray, a private one or a cluster's, and what its errors mean to a person."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import address, packages, private, zero_copy
from rl_unlearn.config import Config
from rl_unlearn.errors import (
    ConfigError,
    DataError,
    LostError,
    MachineError,
    TrainingError,
    UserError,
)


@contextmanager
def ray_cluster(config: Config) -> Iterator[str | None]:
    """A connection to the private local Ray or the existing cluster; MachineError if none answers.

    Gives the address of its dashboard, if it has one. A process that is connected already, as the
    trial of a sweep is, stays so, and is not told the address again.
    """
    import ray

    if ray.is_initialized():
        yield None
        return
    # A bare ray.init() attaches to whatever runs on this machine: be explicit.
    where = address.check(config)
    zero_copy.expect()
    try:
        context = private.start(config) if where.is_local else _connected(where)
    except UserError:
        raise
    except Exception as error:  # Ray raises bare ones, too, as when a node is slow to start
        cause = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        problem = (
            "the private Ray does not start"
            if where.is_local
            else f"no Ray cluster answers at {where.text}"
        )
        remedy = "try again" if where.is_local else f"start one, correct {where.source}"
        raise MachineError(f"{problem} ({cause}): {remedy}, or use --inline") from error
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else None
    finally:
        ray.shutdown()


def _connected(where: address.Address) -> Any:
    import ray

    if where.text == address.AUTO:
        _check_found(where)
    clients = (
        {} if "://" in where.text else {"job_config": packages.job()}
    )  # Ray's client has its own
    return ray.init(
        address=where.text, logging_level=logging.WARNING, log_to_driver=False, **clients
    )


def _check_found(where: address.Address) -> None:
    """What Ray takes for the one around this machine may be a file that a dead one has left."""
    from ray._private.services import get_ray_address_from_environment

    host, _, port = get_ray_address_from_environment(address.AUTO, None).rpartition(":")
    address.answers(where, host.strip("[]"), int(port))


def explain(error: Exception) -> Exception:
    """What a user should read of an error that crossed Ray: the actor's own one, or one line on who
    was lost.
    """
    from ray.exceptions import RayError, RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError | UserError):
        error = error.cause  # of another actor, whose result was to be this one's argument
    if isinstance(error, UserError) or not isinstance(error, RayError):
        return error
    text = str(error).strip()
    last = text.splitlines()[-1]
    # Of an error in an actor's constructor Ray keeps the text alone: "rl_unlearn.errors.DataError:
    # model.path ...".
    name, _, message = last.partition(": ")
    for kind in (ConfigError, MachineError, DataError):
        if name == f"{kind.__module__}.{kind.__name__}":
            return kind(message)
    if (
        isinstance(error, RayTaskError) or "creation task" in text
    ):  # it would fail in the same way again
        return TrainingError(f"an actor failed: {last}")
    who = re.search(r"class_name: (\w+)", text)
    detail = last.partition("Worker exit detail: ")[2] or last
    return LostError(
        f"{who[1] if who else 'an actor'} was lost: {detail.partition(' Some common causes')[0]}"
    )
