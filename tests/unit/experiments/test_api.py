"""The Python API: its examples, which are run as they stand, own functions, and a notebook's
loop."""

import asyncio
import doctest
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import rl_unlearn
from experiments import api, settings
from rl_unlearn.errors import ConfigError, DataError

SMALL: dict[str, Any] = {
    "loop.rounds": 2, "rollout.images": 8, "rollout.batch": 8, "learner.batch": 8,
    "critic.warmup_images": 16, "critic.warmup_steps": 2, "critic.steps": 1,
    "selection.images": 8, "selection.floor": 0, "evaluation.target_images": 8,
    "evaluation.other_images": 1, "tensorboard": False,
}  # fmt: skip


def test_every_public_name_has_an_example_or_is_one() -> None:
    found = {test.name.rpartition(".")[2] for test in doctest.DocTestFinder().find(api)}
    documented = {name for name in api.__all__ if getattr(api, name).__doc__}
    assert documented == set(api.__all__)
    assert set(rl_unlearn.__all__) == set(api.__all__) - {"Sample"}
    assert {"unlearn", "erase", "evaluate", "open_run", "load_pipeline"} <= found


@pytest.mark.slow
def test_the_examples_are_true(tmp_path: Path) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    examples = {test.name: test for test in finder.find(api)}
    names: dict[str, Any] = {"folder": tmp_path, "small": SMALL}
    whole = examples.pop("experiments.api")
    for test in (whole, *examples.values()):
        test.globs |= names
        runner.run(test, clear_globs=False)
        if test is whole:
            names["cat"] = test.globs["run"]
            shown = names["cat"]._repr_html_()
            assert shown.count("<tr>") == 5
            assert "data:image/png;base64," in shown
    assert runner.summarize().failed == 0
    assert runner.tries > 20


def configured(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(tiny.config(tensorboard=False, loop={"checkpoint_every": 1})))
    return file


def bright(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


def test_own_functions_serve_and_a_notebook_runs_a_loop(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    async def cell() -> api.Run:
        return rl_unlearn.unlearn(
            config=configured(tmp_path), output=tmp_path, name="own", rewards={"b": (bright, 2.0)},
            evaluate=False, progress=lambda event: seen.append(event.name),
        )  # fmt: skip

    run = asyncio.run(cell())
    assert run.config.reward.images == {"b": 2.0}
    assert seen.count("round") == 3
    assert capfd.readouterr().out == ""
    assert run.evaluation is None
    assert run._repr_html_().endswith("not judged")
    assert run.images() == []
    with pytest.raises(ConfigError, match="'b' is no registered reward"):
        rl_unlearn.unlearn(
            config=configured(tmp_path), output=tmp_path, name="other", rewards={"b": 2.0},
            evaluate=False,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="own"):
        rl_unlearn.unlearn(config=configured(tmp_path), output=tmp_path, name="own")
    again = rl_unlearn.unlearn(
        config=configured(tmp_path), output=tmp_path, name="own", rewards={"b": (bright, 2.0)},
        evaluate=False, resume=True, settings={"loop.rounds": 4},
    )  # fmt: skip
    assert again == run
    assert again.config.loop.rounds == 4


def test_what_is_no_run_and_what_is_no_name() -> None:
    with pytest.raises(DataError, match="holds no run"):
        rl_unlearn.open_run("/nowhere")
    with pytest.raises(AttributeError, match="no attribute 'unlern'"):
        _ = rl_unlearn.unlern
    with pytest.raises(rl_unlearn.UserError, match=r"unknown key 'learner\.lrr'"):
        rl_unlearn.unlearn(settings={"learner.lrr": 1})
    assert {"unlearn", "__version__"} <= set(dir(rl_unlearn))
