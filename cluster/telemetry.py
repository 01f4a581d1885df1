"""What Prometheus sees of a run: `metric_table.METRICS`, filled on the driver from its events.

The agent on the driver's node serves them at its metrics port. It forgets a gauge that is not set
again within some ten seconds: while the run lives all are, so that a series ends with its driver.
"""

import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.metric_table import METRICS, Metric
from learner import events
from learner.events import Emit, Event
from rl_unlearn.config import Config
from rl_unlearn.prompts import spread

PROGRESS = ("phase", "warm-up", "update", "round")
"""Events that show that the run goes on."""
LEVELS = 11
"""Values shown, at most, of a list with one for each noise level; evenly spread."""
_REPEAT_SECONDS = 5.0
_BUCKETS = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]

Tags = tuple[tuple[str, str], ...]


@contextmanager
def published(config: Config, emit: Emit) -> Iterator[Emit]:
    """Gives what also publishes each event that it passes on, on the connected Ray.

    Metrics that cannot be written are a warning to ``emit``, once; the run goes on.
    """
    telemetry, ended = Telemetry(config), threading.Event()

    def publish(event: str, row: Mapping[str, Any]) -> None:
        trouble = telemetry.take(event, row)
        if trouble is not None:
            emit(events.Warning(message=trouble))

    def on_event(event: Event) -> None:
        emit(event)
        publish(event.name, event.row())

    def repeat() -> None:
        while not ended.wait(_REPEAT_SECONDS):
            telemetry.repeat()

    publish(
        "start",
        {"running": 1, "kl_budget": config.learner.kl_budget, "max_lag": config.replay.max_lag},
    )
    repeating = threading.Thread(target=repeat, name="telemetry", daemon=True)
    repeating.start()
    try:
        yield on_event
    finally:
        ended.set()
        repeating.join(_REPEAT_SECONDS)
        publish("start", {"running": 0})


class Telemetry:
    """Writes the metrics of one run, tagged with its name."""

    def __init__(self, config: Config):
        self._run, self._output = config.run_name, Path(config.output)
        self._metrics: dict[str, Any] = {}
        self._gauges: dict[tuple[str, Tags], float] = {}
        self._totals: dict[str, float] = {}
        self._seconds: float | None = None
        self._broken = False
        self._turn = threading.Lock()

    def take(self, event: str, row: Mapping[str, Any]) -> str | None:
        """Takes one event; says what went wrong, the first time that something does."""
        if self._broken:
            return None
        kinds = {event, "any"} | ({"progress"} if event in PROGRESS else set())
        try:
            facts = self._facts(event, row)
            with self._turn:
                for metric in METRICS:
                    if metric.event in kinds:
                        self._write_all(metric, _field(facts, metric.key))
        except Exception as error:
            self._broken = True
            return f"metrics for Prometheus are off: {type(error).__name__}: {error}"
        return None

    def repeat(self) -> None:
        """Sets all gauges again to what they are."""
        with self._turn:
            if not self._broken:
                for (name, tags), value in self._gauges.items():
                    self._metrics[name].set(value, dict(tags))

    def _facts(self, event: str, row: Mapping[str, Any]) -> dict[str, Any]:
        facts = {**row, "now": time.time(), "one": 1}
        if self._output.is_dir():
            facts["free"] = shutil.disk_usage(self._output).free
        if event == "round":
            if self._seconds is not None:
                facts["took"] = row["seconds"] - self._seconds
            self._seconds = row.get("seconds")
            wrong = [
                key
                for key, value in row.items()
                if isinstance(value, float) and not math.isfinite(value)
            ]
            facts["nonfinite"] = dict.fromkeys(wrong, 1)
        return facts

    def _write_all(self, metric: Metric, value: Any) -> None:
        if isinstance(value, list):
            value = {str(level): value[level] for level in spread(list(range(len(value))), LEVELS)}
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for part, number in parts:
            if isinstance(number, int | float) and math.isfinite(number):
                tags = (("run", self._run),) + (
                    ((str(metric.tag), part),) if part is not None else ()
                )
                self._write(metric, number, tags)

    def _write(self, metric: Metric, value: float, tags: Tags) -> None:
        if metric.name not in self._metrics:
            self._metrics[metric.name] = _made(metric)
        made = self._metrics[metric.name]
        if metric.kind == "gauge":
            self._gauges[metric.name, tags] = value
            made.set(value, dict(tags))
        elif metric.kind == "histogram":
            made.observe(value, dict(tags))
        else:
            before = self._totals.get(metric.name, 0.0) if metric.kind == "total" else 0.0
            self._totals[metric.name] = value
            if value > before:  # less than before after a return to an older checkpoint
                made.inc(value - before, dict(tags))


def _field(row: Mapping[str, Any], key: str) -> Any:
    value: Any = row
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _made(metric: Metric) -> Any:
    from ray.util import metrics

    tags = ("run",) if metric.tag is None else ("run", metric.tag)
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, _BUCKETS, tags)
    kind = metrics.Gauge if metric.kind == "gauge" else metrics.Counter
    return kind(metric.name, metric.description, tags)
