"""The Prometheus rules and the Grafana board: they parse, and ask only for metrics that a run or
Ray publishes.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from conftest import ROOT
from ray_metrics import FROM_RAY

from cluster.metric_table import METRICS, PREFIX

RULES = ROOT / "cluster" / "prometheus-rules.yaml"
BOARD = ROOT / "cluster" / "grafana-dashboard.json"
OURS = {
    PREFIX + measure.name + ("_bucket" if measure.kind == "histogram" else ""): measure.tag
    for measure in METRICS
}


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(BOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield f"{panel['title']}, {target['refId']}", target["expr"]


ALL = dict(expressions())


def selectors(expression: str) -> list[Any]:
    """The vector selectors of a parsed expression."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("lhs", "rhs", "expr", "vector_selector", "args", "param"):
            parts = getattr(node, name, None)
            for part in parts if isinstance(parts, list) else [parts]:
                if isinstance(part, promql_parser.Expr):
                    visit(part)

    visit(promql_parser.parse(expression))
    return found


def test_the_walk_sees_every_selector() -> None:
    text = (
        "sum by (a) (rate(x_total[5m])) > on (a) 2 * quantile_over_time(scalar(y), (z)[5m:1m]) "
        "or -u"
    )
    assert sorted(selector.name for selector in selectors(text)) == ["u", "x_total", "y", "z"]


@pytest.mark.parametrize("name", ALL)
def test_only_known_metrics_are_asked_for(name: str) -> None:
    found = selectors(ALL[name])
    assert found
    for selector in found:
        assert selector.name in OURS or selector.name in FROM_RAY
        if selector.name in OURS:
            assert {matcher.name for matcher in selector.matchers.matchers} <= {
                "run",
                OURS[selector.name],
            }


def test_every_alert_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_the_board_stands_on_its_grid() -> None:
    board = json.loads(BOARD.read_text())
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == 24 * (1 + max(y for _, y in taken))  # no hole either
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert (
        set(re.findall(r"\$\{?(\w+)", json.dumps([panel.get("targets") for panel in panels()])))
        <= variables
    )


def test_what_a_run_publishes_is_shown() -> None:
    shown = {selector.name for text in ALL.values() for selector in selectors(text)}
    silent = set(OURS) - shown
    assert silent == {
        PREFIX + "rl_unlearn_" + name
        for name in ("updates_total", "replay_repeated_total", "selection_score")
    }


promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)

FIRING = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'ray_rl_unlearn_running{{run="a"}}', values: '1x90'}}
      - {{series: 'ray_rl_unlearn_progress_timestamp_seconds{{run="a"}}', values: '0x90'}}
      - {{series: 'ray_rl_unlearn_kl_budget_nats_per_step{{run="a"}}', values: '0.5x90'}}
      - {{series: 'ray_rl_unlearn_kl_nats_per_step{{run="a"}}', values: '0.9x20 1.1x70'}}
      - {{series: 'ray_rl_unlearn_skipped_steps_total{{run="a"}}', values: '0x40 2x50'}}
    alert_rule_test:
      - {{eval_time: 25m, alertname: RlUnlearnStalled}}
      - {{eval_time: 20m, alertname: RlUnlearnKLOverBudget}}
      - {{eval_time: 30m, alertname: RlUnlearnNonFiniteSteps}}
      - eval_time: 40m
        alertname: RlUnlearnStalled
        exp_alerts: [{{exp_labels: {{run: a, severity: critical}}, exp_annotations: {{
          summary: 'a: no phase or update for 40m 0s',
          description: An actor hangs or waits; look at its log.
            loop.timeout ends the run by itself in the end.}}}}]
      - eval_time: 40m
        alertname: RlUnlearnKLOverBudget
        exp_alerts: [{{exp_labels: {{run: a, severity: warning}}, exp_annotations: {{
          summary: 'a: retained prompts drift by 1.1 nats per step, over twice the budget',
          description: 'Retention suffers. Lower learner.lr or learner.step_kl, or raise
            learner.kl_rate.'}}}}]
      - eval_time: 45m
        alertname: RlUnlearnNonFiniteSteps
        exp_alerts: [{{exp_labels: {{run: a, severity: warning}}, exp_annotations: {{
          summary: 'a: optimizer steps were skipped, their gradient was not finite',
          description: 'Several in a row end the run. Lower learner.lr, or check the reward.'}}}}]
"""


@promtool
def test_promtool_accepts_the_rules_and_they_fire(tmp_path: Path) -> None:
    said = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr
    (tmp_path / "firing.yaml").write_text(FIRING.format(rules=RULES))
    said = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "firing.yaml")], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr
