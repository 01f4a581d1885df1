"""The table of estimators: its rows fit together, and nothing heavy is needed to read it."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rl_unlearn import advantages
from rl_unlearn.config import Config, EstimatorConfig
from rl_unlearn.estimators import ESTIMATORS, KNOWN_AS, NAMES


@pytest.mark.parametrize("row", ESTIMATORS.values(), ids=NAMES)
def test_a_row_asks_for_nothing_that_it_has_not(row):
    assert callable(getattr(advantages, row.advantages))
    assert row.critic or (row.gradients is None and row.timed)
    assert not (row.critic and row.predicts)
    assert not (row.backprop and (row.critic or row.predicts))
    assert row.scores_first == (row.gradients != "actions")
    assert EstimatorConfig(name=row.name).row is row


def test_no_name_is_taken_twice():
    everything = [*NAMES, *KNOWN_AS]
    assert len({*everything}) == len(everything) == 15


def test_the_configuration_takes_the_names_of_the_table_and_no_other():
    schema = Config.model_json_schema()["$defs"]["EstimatorConfig"]["properties"]["name"]
    shipped, installed = schema["anyOf"]
    assert tuple(shipped["enum"]) == NAMES
    assert installed == {"type": "string"}, "an installed package may add one"
    assert all(f"{row.name}: {row.summary}" in schema["description"] for row in ESTIMATORS.values())
    with pytest.raises(ValidationError, match="'terminal', 'group', 'critic'"):
        EstimatorConfig(name="reinforce")


def test_the_names_are_known_without_torch():
    program = "import sys, rl_unlearn.config; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout == "False\n", told.stderr
