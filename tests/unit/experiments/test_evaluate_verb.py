"""`evaluate` through the real command: side by side, honest about broken images, and what it
refuses.
"""

import json
from pathlib import Path

import pytest
import tiny
import torch

from experiments import settings
from experiments.__main__ import main
from experiments.verbs import common
from rl_unlearn.adapters.adapter import AdapterState, save_adapter
from rl_unlearn.config import Config
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy

INTERVALS = {"ua", "ira", "ira_all", "cra", "cra_all", "coherence", "clip_score", "confidence"}


def random_state(config: Config, scale: float, seed: int = 0) -> AdapterState:
    state = DiffusionPolicy(load_pipeline(config.model), config).adapter_state()
    random = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(tensor.shape, generator=random) for name, tensor in state.items()
    }


def finished_run(root: Path, name: str, **overrides: object) -> Path:
    """What `train` leaves of a run, as far as `evaluate` reads it."""
    config = tiny.config(
        name=name,
        output=str(root),
        evaluation={"judge": str(tiny.clip_folder(2)), "resamples": 100},
        **overrides,
    )
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(settings.dump(config))
    training = {"images_used": 10, "updates": 3, "wall_seconds": 12.5}
    (folder / "run_state.json").write_text(json.dumps({"training": training}))
    save_adapter(folder / "adapter", random_state(config, 0.3, config.seed), config)
    return folder


def test_two_runs_of_different_rank_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = finished_run(tmp_path / "out", "small")
    large = finished_run(tmp_path / "out", "large", seed=1, lora={"rank": 4, "layers": "attention"})
    out = tmp_path / "both.json"
    assert main(["evaluate", str(small), "--json", str(large), "--out", str(out)]) == 0
    said = capfd.readouterr()
    shown = json.loads(said.out)
    assert json.loads(out.read_text()) == shown
    assert "untouched: 8 images, 0 of them from the cache" in said.err
    assert [row["name"] for row in shown["models"]] == ["untouched", "small", "large"]
    untouched, first, second = shown["models"]
    for row in shown["models"]:
        for key in INTERVALS:
            assert row[key]["low"] <= row[key]["value"] <= row[key]["high"]
        assert set(row["seen_when_asked"]) == {"object", "style"}
        assert row["cost"]["seconds"] > 0
        assert row["cost"]["peak_memory_bytes"] > 2**20
    assert not {"similarity", "kid", "fid", "neighbours"} & set(untouched), (
        "what compares a model with itself is absent"
    )
    for row in (first, second):
        assert row["similarity"]["value"] < 100
        assert row["verdict"].endswith(".")
        assert {entry["name"] for entry in row["neighbours"]} == {"dog", "fish", "flat", "noto"}
        assert row["cost"]["training_seconds"] == 12.5
    assert second["cost"]["storage_bytes"] > first["cost"]["storage_bytes"] > 0
    assert first["similarity"] != second["similarity"]
    assert shown["protocol"]["images"] == 8
    assert shown["protocol"]["prompts"] == 6
    assert shown["protocol"]["seeds"] == [0, 1]
    assert set(INTERVALS) <= set(shown["protocol"]["definitions"])

    for folder, row, seed in ((small, first, 0), (large, second, 1)):
        own = json.loads((folder / "evaluation.json").read_text())
        assert own["models"] == [untouched, row]
        assert own["after"] == {key: row[key]["value"] for key in ("ua", "ira", "cra", "coherence")}
        assert (own["seed"], own["updates"]) == (seed, 3)
        assert (folder / "report.html").is_file()

    assert main(["evaluate", str(large), "--json"]) == 0
    said = capfd.readouterr()
    assert "large: 8 images, 8 of them from the cache" in said.err
    assert json.loads(said.out)["models"] == [untouched, second], (
        "alone or beside another: the same figures"
    )


def test_another_scheduler_has_a_file_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "out", "run")
    assert main(["evaluate", str(run), "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["protocol"]["scheduler"] == ""
    assert "drawn by the training's kernel in 4 steps" in said.err
    own = (run / "evaluation.json").read_bytes()

    assert main(["evaluate", str(run), "--scheduler", "dpm++", "--json"]) == 0
    said = capfd.readouterr()
    shown = json.loads(said.out)
    assert (shown["protocol"]["scheduler"], shown["protocol"]["steps"]) == ("dpm++", 4)
    assert "drawn by dpm++ in 4 steps" in said.err
    for name in ("untouched", "run"):
        assert f"{name}: 8 images, 0 of them from the cache" in said.err
    assert (run / "evaluation.json").read_bytes() == own
    assert json.loads((run / "evaluation-dpm++-4.json").read_text())["models"] == shown["models"]

    more = ["evaluation.scheduler=euler-a", "evaluation.steps=6", "--json"]
    assert main(["evaluate", str(run), *more]) == 0
    assert (
        f"{run / 'evaluation-euler-a-6.json'}; the run's evaluation.json" in capfd.readouterr().err
    )
    assert (run / "evaluation.json").read_bytes() == own
    assert len(list(run.glob("evaluation-*.json"))) == 2
    page = (run / "report.html").read_text()
    for by in ("the training&#39;s kernel in 4", "dpm++ in 4", "euler-a in 6"):
        assert f'<th scope="row" rowspan="2">{by} steps</th>' in page


def test_a_run_that_names_a_scheduler_is_judged_by_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "out", "run")
    config = settings.recorded(run / "config.yaml", ["evaluation.scheduler=euler"])
    (run / "config.yaml").write_text(settings.dump(config))
    assert main(["evaluate", str(run), "--json"]) == 0
    own = json.loads((run / "evaluation.json").read_text())
    assert own["protocol"]["scheduler"] == "euler"
    assert main(["evaluate", str(run), "evaluation.scheduler=null"]) == 0
    other = json.loads((run / "evaluation-kernel-4.json").read_text())
    assert other["protocol"]["scheduler"] == ""
    assert other["models"] != own["models"]
    assert json.loads((run / "evaluation.json").read_text()) == own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluation.steps=8"], "evaluation.steps are those of evaluation.scheduler"),
        (["evaluation.scheduler=heun"], "must be 'ddim', 'dpm++'"),
        (["--scheduler", "heun"], "invalid choice: 'heun'"),
    ],
)
def test_a_scheduler_that_there_is_not(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "out", "run")
    assert main(["evaluate", str(run), *words]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert not (run / "evaluation.json").exists()


def test_generate_draws_by_a_scheduler(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "out", "run")
    drawn = []
    for more in ([], ["--scheduler", "dpm++"], ["evaluation.scheduler=dpm++"]):
        out = tmp_path / f"{len(drawn)}.png"
        words = ["--prompt", "a cat", "--adapter", str(run), "--out", str(out), *more]
        assert main(["generate", *words]) == 0
        drawn.append(out.read_bytes())
    assert drawn[0] != drawn[1] == drawn[2]


def test_prompt_lists_are_judged_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "forget.txt").write_text("a cat\na sleeping cat\n")
    (tmp_path / "keep.txt").write_text("a dog\na fish\na <b>bold</b> fish\n")
    files = {"target_file": str(tmp_path / "forget.txt"), "retain_file": str(tmp_path / "keep.txt")}
    run = finished_run(tmp_path / "out", "lists", prompts=files)
    assert main(["evaluate", str(run), "--json"]) == 0
    row = json.loads(capfd.readouterr().out)["models"][1]
    assert set(row["seen_when_asked"]["object"]) == {"cat", "a dog", "a fish", "a <b>bold</b> fish"}
    assert row["ira"]["low"] <= row["ira"]["value"] <= row["ira"]["high"]


def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cat, dog = finished_run(tmp_path, "cat-run"), finished_run(tmp_path, "dog-run", concept="dog")
    assert main(["evaluate", str(cat), str(dog)]) == 2
    line = capsys.readouterr().err
    assert "differ in concept (dog and cat)" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["evaluate", "seed=1"], "RUN_OR_ADAPTER"),
        (["evaluate", "x", "--out", "no/such/folder/x.json"], "there is no folder"),
        (["evaluate", "x", "--fulll"], "--fulll"),
    ],
)
def test_a_wrong_command_line_is_explained(
    argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert hint in capsys.readouterr().err


def test_where_things_are_kept_is_no_other_evaluation() -> None:
    assert common.concern(
        ["output=elsewhere", "cluster.inline=true", "evaluation.seed=1"], "evaluation"
    )
    assert common.concern(["attack.images=2", "evaluation.seed=1"], "attack", "evaluation")
    assert not common.concern(["attack.images=2"], "evaluation")
    assert not common.concern(["evaluation.seed=1", "sampler.steps=2"], "evaluation")


def test_a_missing_adapter_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 5
    assert "no adapter at" in capsys.readouterr().err


@pytest.mark.slow
def test_a_random_adapter_breaks_the_canvas_and_the_verdict_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = Config(lora={"rank": 8})
    save_adapter(tmp_path / "broken", random_state(config, 0.5), config)
    save_adapter(tmp_path / "harmless", random_state(config, 0.01), config)
    quick = [
        "evaluation.target_images=2",
        "evaluation.other_images=1",
        f"output={tmp_path / 'out'}",
        "--json",
    ]
    assert main(["evaluate", str(tmp_path / "broken"), str(tmp_path / "harmless"), *quick]) == 0
    said = capfd.readouterr()
    untouched, broken, harmless = json.loads(said.out)["models"]
    assert untouched["ua"]["value"] == 0
    assert broken["ua"]["value"] > 80, "a destroyed model does not draw the concept either"
    assert broken["broken"]
    assert broken["verdict"].startswith("The images are broken, not the concept forgotten")
    assert "the rest is damaged" in broken["verdict"]
    assert broken["verdict"] in said.err
    assert not harmless["broken"]
    assert harmless["verdict"].startswith("Not forgotten")
    assert harmless["similarity"]["value"] > 95
    assert broken["kid"] > 0.1 > harmless["kid"]
    assert broken["fid"] > 10 * harmless["fid"]
