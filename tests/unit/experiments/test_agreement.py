"""`--config` beside a run or an adapter: what it may add, and what it may not say otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from experiments import settings
from experiments.__main__ import main
from experiments.runs import resuming
from experiments.verbs import common
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError


def made(
    folder: Path, state: dict[str, Any] | None = None, **overrides: Any
) -> tuple[Path, Config]:
    """A run of a dog in the tiny world, as far as its configuration is asked for."""
    config = tiny.config(concept="dog", output=str(folder), name="run", **overrides)
    run = folder / "run"
    names = [f"down_blocks.1.attn2.to_q.lora_{side}.weight" for side in "AB"]
    save_adapter(run / "adapter", {name: torch.zeros(2, 2) for name in names}, config)
    (run / "config.yaml").write_text(settings.dump(config))
    (run / "run_state.json").write_text(json.dumps(state or {}))
    return run, config


def file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_how_a_run_is_judged_may_be_said_by_a_file(tmp_path: Path) -> None:
    run, config = made(tmp_path)
    mine = file(tmp_path, "evaluation: {seed: 7}\nattack: {images: 3}\ncluster: {threads: 2}\n")
    found = common.run_config(run, [], files=[mine])
    assert (found.evaluation.seed, found.attack.images, found.cluster.threads) == (7, 3, 2)
    same = {"evaluation": config.evaluation, "attack": config.attack, "cluster": config.cluster}
    assert found.model_copy(update=same) == config
    assert common.run_config(run, ["evaluation.seed=8"], files=[mine]).evaluation.seed == 8


def test_the_file_that_a_run_was_made_with_agrees_with_it(tmp_path: Path) -> None:
    run, config = made(tmp_path)
    assert common.run_config(run, [], files=[str(run / "config.yaml")]) == config
    mine = file(tmp_path, "concept: dog\nlearner.lr: " + str(config.learner.lr))
    assert common.run_config(run / "adapter", [], files=[mine]) == config


def test_a_run_lies_where_it_lies(tmp_path: Path) -> None:
    run, config = made(tmp_path)
    mine = file(tmp_path, "output: elsewhere\n")
    assert common.run_config(run, [], files=[mine]) == config


def test_a_contradiction_names_the_keys_and_both_values(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    mine = file(tmp_path, "concept: cat\nsampler: {steps: 9}\nevaluation: {seed: 7}\n")
    with pytest.raises(ConfigError) as refused:
        common.run_config(run, [], files=[mine])
    line = str(refused.value)
    assert f"--config contradicts {run}: concept (cat in {mine}, dog there), sampler.steps" in line
    assert "evaluation" not in line
    assert line.endswith("leave them out of the file, or settle it by KEY=VALUE")
    found = common.run_config(run, ["concept=dog", "sampler.steps=3"], files=[mine])
    assert (found.concept, found.sampler.steps, found.evaluation.seed) == ("dog", 3, 7)


def test_a_branch_stands_for_the_commit_that_it_was(tmp_path: Path) -> None:
    run, config = made(tmp_path, {"revision_asked": "main"})
    model = config.model.model_copy(update={"revision": "0123abc"})
    before = config.model_copy(update={"model": model})
    (run / "config.yaml").write_text(settings.dump(before))
    for revision in ("main", "0123abc"):
        mine = file(tmp_path, f"model: {{revision: {revision}}}\n")
        assert common.run_config(run, [], files=[mine]).model.revision == "0123abc"
    with pytest.raises(ConfigError, match=r"model\.revision \(other in "):
        common.run_config(run, [], files=[file(tmp_path, "model: {revision: other}\n")])


def test_an_adapter_alone_is_told_what_it_does_not_say(tmp_path: Path) -> None:
    """Its own file names model, concept and sampler; not the prompts, nor who judges."""
    run, config = made(tmp_path)
    alone = (run / "adapter" / "pytorch_lora_weights.safetensors").rename(
        tmp_path / "a.safetensors"
    )
    mine = file(tmp_path, "prompts: {objects: [cat, dog]}\nlearner: {lr: 0.5}\nconcept: dog\n")
    found = common.run_config(alone, [], only_drawn=True, files=[mine])
    assert (found.prompts.objects, found.learner.lr) == (("cat", "dog"), 0.5)
    assert (found.concept, found.model.path) == ("dog", config.model.path)
    for text in ("concept: cat\n", "model: {path: elsewhere}\n", "sampler: {steps: 99}\n"):
        with pytest.raises(ConfigError, match=r"--config contradicts .*a\.safetensors"):
            common.run_config(alone, [], only_drawn=True, files=[file(tmp_path, text)])


def test_a_resumed_run_may_be_told_how_long_and_where_it_goes(tmp_path: Path) -> None:
    run, config = made(tmp_path)
    mine = file(tmp_path, "loop: {rounds: 77}\nrollout: {actors: 2}\n")
    found = common.beside(run, [mine], [], resuming.MAY_CHANGE)
    assert (found.loop.rounds, found.rollout.actors) == (77, 2)
    assert found.learner == config.learner
    with pytest.raises(ConfigError, match=r"loop\.rounds \(77 in"):
        common.run_config(run, [], files=[mine])


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "RUN"],
        ["attack", "RUN"],
        ["export", "RUN", "--format", "diffusers", "--out", "out"],
        ["resume", "RUN"],
        ["generate", "--adapter", "RUN", "--prompt", "a cat"],
    ],
    ids=lambda argv: argv[0],
)
def test_each_verb_refuses_a_contradiction_in_one_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run, _ = made(tmp_path)
    words = [str(run) if word == "RUN" else word for word in argv]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main([*words, "--config", "canvas"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: --config contradicts {run}: concept (cat in canvas, dog")
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert main([*words, "--config", "canvsa"]) == 2
    assert "did you mean 'canvas'?" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
