"""A job server that is not there."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any


class Status(str):
    """A job status as Ray gives it."""

    @property
    def value(self) -> str:
        return str(self)

    def is_terminal(self) -> bool:
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


class FakeHead:
    """What Ray's client offers, with a job whose log and end are told beforehand."""

    def __init__(
        self,
        parts: list[str],
        status: str = "SUCCEEDED",
        exit_code: int | None = 0,
        message: str = "",
    ):
        self.jobs: list[Any] = []
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.breaks = 0  # times that the log's connection breaks after its first part
        self._parts, self._end = parts, (Status(status), exit_code, message)

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **job: Any) -> str:
        self.submitted.append(job)
        return str(job["submission_id"])

    def stop_job(self, id: str) -> bool:
        self.stopped.append(id)
        return True

    async def tail_job_logs(self, id: str) -> AsyncIterator[str]:
        for part in self._parts:
            yield part
            if self.breaks:
                self.breaks -= 1
                raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, id: str) -> Any:
        status, exit_code, message = self._end
        if self.breaks:
            status = Status("RUNNING")
        return SimpleNamespace(status=status, driver_exit_code=exit_code, message=message)
