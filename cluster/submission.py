"""A command as a job on a running Ray cluster: sent with its code, followed to its end, stopped on
request.
"""

import asyncio
import logging
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cluster import environment, event_loop, proxy
from rl_unlearn.errors import ConfigError, MachineError

STOP_SECONDS = 60
"""How long a stopped job may take to end in order; Ray's own default is 3."""

_RUN = "rl-unlearn-run"
_REQUEST_SECONDS = (10, 120)  # to connect, to answer
_POLL_SECONDS = 5
_PATIENCE_SECONDS = 180
_LAST_LINES = 50


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """The command's own one; None if it did not get that far."""
    lines: list[str]
    """The last ones of its log, or Ray's own words where the command never ran."""


def connect(url: str) -> Any:
    """Returns a client of the head's job server at ``http://HOST:PORT``.

    The client's own token comes from Ray's RAY_AUTH_MODE and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    Raises MachineError if the head does not answer or refuses the token.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
        """Ray's client, with a limit on every wait."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, timeout=_REQUEST_SECONDS, **kwargs)

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # of its uploads Ray tells every ignored file
    with (
        environment.setting(
            {"RAY_API_SERVER_ADDRESS": url}
        ),  # counts more than RAY_ADDRESS and than the argument
        _one_line(url, "does not answer as a Ray head does"),
    ):
        return Client(url)


def asks_for_token(client: Any) -> bool:
    """Returns whether the head refuses those that have no token."""
    with _one_line(client.get_address(), "does not say who may use it"):
        answer = client._do_request("GET", "/api/authentication_mode")
        return bool(answer.ok and answer.json()["authentication_mode"] == "token")


class Job:
    """A submitted job whose log goes to ``write`` as it grows, each part once."""

    def __init__(self, client: Any, id: str, write: Callable[[str], Any]) -> None:
        self.id = id
        self._client, self._write = client, write
        self._seen = 0
        self._lines: deque[str] = deque([""], maxlen=_LAST_LINES)

    def follow(self) -> Ended:
        """Waits for the end; raises MachineError if the head is silent for minutes."""
        return event_loop.run(self._follow())

    def stop(self) -> None:
        """Asks for the end, with SIGTERM; what takes longer than STOP_SECONDS is killed by Ray."""
        with _one_line(self._client.get_address(), f"cannot stop job {self.id}"):
            self._client.stop_job(self.id)

    async def _follow(self) -> Ended:
        heard = time.monotonic()
        tail = asyncio.ensure_future(self._tail())
        try:
            while True:
                await asyncio.wait({tail}, timeout=_POLL_SECONDS)
                try:
                    info = await asyncio.to_thread(self._client.get_job_info, self.id)
                    heard = time.monotonic()
                except _failures() as error:
                    if time.monotonic() - heard > _PATIENCE_SECONDS:
                        raise MachineError(
                            f"lost the head at {self._client.get_address()} "
                            f"({_first_line(error)}); job {self.id} may still be at work: `ray job "
                            f"logs --follow {self.id}` shows it once the head is back"
                        ) from error
                    info = None
                if info is not None and info.status.is_terminal():
                    if tail.done() and not tail.result():
                        tail = asyncio.ensure_future(self._tail())
                    await asyncio.wait({tail}, timeout=_POLL_SECONDS)
                    return self._ended(info)
                if tail.done():  # the connection broke, or the job has just ended
                    await asyncio.sleep(1)
                    tail = asyncio.ensure_future(self._tail())
        finally:
            tail.cancel()
            with suppress(asyncio.CancelledError):
                await tail

    async def _tail(self) -> bool:
        """Returns whether the log was read to its end."""
        position = 0  # Ray always begins with the first line
        with suppress(*_failures()):
            async for chunk in self._client.tail_job_logs(self.id):
                new = chunk[max(self._seen - position, 0) :]
                position += len(chunk)
                if new:
                    self._seen = position
                    self._write(new)
                    first, *others = new.split("\n")
                    self._lines[-1] += first
                    self._lines.extend(others)
            return True
        return False

    def _ended(self, info: Any) -> Ended:
        lines = [line for line in self._lines if line.strip()]
        if info.driver_exit_code is None and info.message:
            lines = [line for line in info.message.splitlines() if line.strip()]
        return Ended(info.status.value, info.driver_exit_code, lines)


def submit(
    client: Any,
    folder: Path,
    name: str,
    command: Sequence[str],
    code: Mapping[str, Any],
    environment: Mapping[str, str],
    write: Callable[[str], Any],
) -> Job:
    """Sends ``command`` and its code, a part of Ray's runtime environment; ``folder`` is the one on
    the cluster that it works on.

    Ray never takes an id twice, so later jobs of that name are called ``NAME-2``, ``NAME-3`` and so
    on. Raises ConfigError while another job works on the same folder, MachineError if the head
    refuses.
    """
    runtime = {
        **code,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **environment},
    }
    with _one_line(client.get_address(), "does not take the job"):
        jobs = client.list_jobs()
        for job in jobs:
            if (job.metadata or {}).get(_RUN) == str(folder) and not job.status.is_terminal():
                raise ConfigError(
                    f"job {job.submission_id} is at work on {folder}: follow it with `ray job logs "
                    f"--follow {job.submission_id}`, or end it with `ray job stop "
                    f"{job.submission_id}`"
                )
        id = fresh_id(name, {job.submission_id for job in jobs})
        try:
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=id,
                runtime_env=runtime,
                metadata={_RUN: str(folder)},
            )
        except KeyboardInterrupt:  # it may have arrived
            with suppress(*_failures()):
                client.stop_job(id)
            raise
    return Job(client, id, write)


def fresh_id(name: str, taken: set[str | None]) -> str:
    """Returns ``name``, or the first of ``name-2``, ``name-3`` ... that no job has had."""
    return next(id for n in count(1) if (id := name if n == 1 else f"{name}-{n}") not in taken)


def _failures() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError
    from ray.exceptions import RayError

    # OSError: all of `requests`. The last four: replies of another shape than a head's.
    return (
        RayError,
        RuntimeError,
        OSError,
        ClientError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    )


@contextmanager
def _one_line(url: str, problem: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise MachineError(
            f"the Ray head at {url} refuses the token ({error.message.splitlines()[0]}): set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the cluster's token"
        ) from error
    except _failures() as error:
        raise MachineError(f"{url} {problem} ({_first_line(error)}){proxy.remedy(url)}") from error


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # Of ValueErrors the plain ones are Ray's own words; a kind of them is what a parser says.
    odd = (
        isinstance(error, LookupError | TypeError | AttributeError | ValueError)
        and type(error) is not ValueError
    )
    return f"a reply of another shape than a head's: {line}" if odd else line
