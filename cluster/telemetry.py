"""What Prometheus sees of a run: `measures.MEASURES`, filled on the driver from the events of the
run.

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

from cluster.metric_table import MEASURES, Measure
from learner.loop import Listener
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
def published(config: Config, listen: Listener) -> Iterator[Listener]:
    """A listener that also publishes what it hears, on the connected Ray.

    Metrics that cannot be written are a warning to ``listen``, once; the run goes on.
    """
    telemetry, ended = Telemetry(config), threading.Event()

    def publish(event: str, row: Mapping[str, Any]) -> None:
        trouble = telemetry.tell(event, row)
        if trouble is not None:
            listen("warning", {"message": trouble})

    def hear(event: str, row: dict[str, Any]) -> None:
        listen(event, row)
        publish(event, row)

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
        yield hear
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

    def tell(self, event: str, row: Mapping[str, Any]) -> str | None:
        """Takes one event; says what went wrong, the first time that something does."""
        if self._broken:
            return None
        kinds = {event, "any"} | ({"progress"} if event in PROGRESS else set())
        try:
            facts = self._facts(event, row)
            with self._turn:
                for measure in MEASURES:
                    if measure.event in kinds:
                        self._take(measure, _field(facts, measure.key))
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

    def _take(self, measure: Measure, value: Any) -> None:
        if isinstance(value, list):
            value = {str(level): value[level] for level in spread(list(range(len(value))), LEVELS)}
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for part, number in parts:
            if isinstance(number, int | float) and math.isfinite(number):
                tags = (("run", self._run),) + (
                    ((str(measure.tag), part),) if part is not None else ()
                )
                self._write(measure, number, tags)

    def _write(self, measure: Measure, value: float, tags: Tags) -> None:
        if measure.name not in self._metrics:
            self._metrics[measure.name] = _made(measure)
        metric = self._metrics[measure.name]
        if measure.kind == "gauge":
            self._gauges[measure.name, tags] = value
            metric.set(value, dict(tags))
        elif measure.kind == "histogram":
            metric.observe(value, dict(tags))
        else:
            before = self._totals.get(measure.name, 0.0) if measure.kind == "total" else 0.0
            self._totals[measure.name] = value
            if value > before:  # less than before after a return to an older checkpoint
                metric.inc(value - before, dict(tags))


def _field(row: Mapping[str, Any], key: str) -> Any:
    value: Any = row
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _made(measure: Measure) -> Any:
    from ray.util import metrics

    tags = ("run",) if measure.tag is None else ("run", measure.tag)
    if measure.kind == "histogram":
        return metrics.Histogram(measure.name, measure.description, _BUCKETS, tags)
    kind = metrics.Gauge if measure.kind == "gauge" else metrics.Counter
    return kind(measure.name, measure.description, tags)
