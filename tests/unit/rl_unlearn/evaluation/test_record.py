"""Files of an evaluation are read by the type that wrote them, or refused in one line."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.files import write_json
from experiments.runs.run_state import NAME as RUN_STATE
from experiments.runs.run_state import RunState, read_state
from rl_unlearn.attacks.record import NAME as ATTACKS
from rl_unlearn.attacks.record import Attack, Attacks, read_attacks
from rl_unlearn.errors import DataError
from rl_unlearn.evaluation.record import NAME as EVALUATION
from rl_unlearn.evaluation.record import Evaluation, ModelRecord, read_evaluation

Read = Callable[[Path], Any]
FILES: dict[str, Read] = {
    EVALUATION: read_evaluation,
    ATTACKS: read_attacks,
    RUN_STATE: lambda path: read_state(path.parent),
}
RATE = {"value": 50.0, "low": 40.0, "high": 60.0}


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Evaluation(
        before={"ua": 1.0},
        after={"ua": 97.9},
        models=[ModelRecord(name="untouched", ua=RATE, kid=0.5, seen_as={"dog": 3})],
        seed=0,
    )
    write_json(tmp_path / EVALUATION, written.content())
    assert json.loads((tmp_path / EVALUATION).read_text()) == {
        "schema_version": 1,
        "before": {"ua": 1.0},
        "after": {"ua": 97.9},
        "models": [{"name": "untouched", "ua": RATE, "seen_as": {"dog": 3}, "kid": 0.5}],
        "seed": 0,
    }
    assert read_evaluation(tmp_path / EVALUATION) == written


def test_what_is_not_finite_was_not_measured(tmp_path: Path) -> None:
    row = ModelRecord(kid=math.nan, fid=math.inf, similarity=RATE | {"value": math.nan})
    assert (row.kid, row.fid, row.similarity) == (None, None, None)
    write_json(tmp_path / EVALUATION, Evaluation(models=[row]).content())
    assert read_evaluation(tmp_path / EVALUATION) == Evaluation(models=[ModelRecord()])


def test_attacks_and_run_states_are_read_as_they_were_written(tmp_path: Path) -> None:
    attacks = Attacks(concept="cat", seed=0, rows=[Attack(attack="none", before=RATE, after=5.0)])
    write_json(tmp_path / ATTACKS, attacks.content())
    assert read_attacks(tmp_path / ATTACKS) == attacks
    state = RunState().changed(state="finished", finished="2026-01-01", reason=None, pid=7)
    write_json(tmp_path / RUN_STATE, state.content())
    assert json.loads((tmp_path / RUN_STATE).read_text()) == {
        "schema_version": 1,
        "state": "finished",
        "reason": None,
        "finished": "2026-01-01",
        "pid": 7,
    }
    assert read_state(tmp_path) == state


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("version", "hint"),
    [(2, "update rl-unlearn"), (10**400, "update rl-unlearn"), (0, "is damaged"),
     ("1", "is damaged"), (True, "is damaged"), (1.0, "is damaged")],
)  # fmt: skip
def test_an_unknown_version_is_refused_in_one_line(
    name: str, version: object, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps({"schema_version": version}))
    with pytest.raises(DataError, match=hint) as caught:
        FILES[name](tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["{}", '{"schema_version": 1}'])
def test_a_file_without_a_version_is_of_the_first(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert FILES[name](tmp_path / name).content() == {"schema_version": 1}


def test_records_need_no_torch() -> None:
    program = (
        "import sys, rl_unlearn.attacks.record, experiments.runs.run_state\n"
        "assert not {'torch', 'numpy', 'diffusers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
