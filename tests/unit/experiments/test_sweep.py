"""Sweeps without Ray: what a space file may say, what trials are called, and the table, checked by
hand.
"""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from conftest import ROOT
from tiny_runs import ask_for, draw_samples, make_sweep

from cluster.tuning import Draw
from experiments import settings, strict_yaml
from experiments.__main__ import main
from experiments.sweep import front, page, pictures, results, table
from experiments.sweep.folder import SweepFolder
from experiments.sweep.naming import Namer
from experiments.sweep.space import Space
from experiments.sweep.space_file import MAX_TRIALS, read
from experiments.sweep.summary import summarize
from rl_unlearn.config import NAME, Config
from rl_unlearn.errors import ConfigError

CONFIGS = ROOT / "experiments" / "configs"
STUDY = """
space:
  concept: [cat, horse]
  seed: [0, 1, 2]
together:
  - {name: k4, learner.batch: 64, rollout.images: 16}
  - {learner: {batch: 32}}
"""


def space(text: str, folder: Path) -> Space:
    file = folder / "space.yaml"
    file.write_text(text)
    return read(file, Config())


# -- the space file --------------------------------------------------------------------------------


def test_lists_are_crossed_with_what_varies_together(tmp_path: Path) -> None:
    study = space(STUDY, tmp_path)
    trials = list(study.enumerated())
    assert study.trials == len(trials) == 12
    assert study.search == "grid"
    assert trials[0] == {"learner.batch": 64, "rollout.images": 16, "concept": "cat", "seed": 0}
    assert trials[-1] == {"learner.batch": 32, "concept": "horse", "seed": 2}
    drawn = {"together": 1, "concept": "horse", "seed": 2}
    assert study.settings(drawn) == trials[-1]
    assert study.draws()["together"] == Draw("grid_search", ([0, 1],))


def test_ranges_and_values_that_are_lists(tmp_path: Path) -> None:
    one = space(
        "space:\n  learner.lr: {loguniform: [1e-4, 1e-2]}\n  reward.anchor: [[dog], [cat, dog]]\n"
        "  seed: {randint: [0, 4]}\nsamples: 3\n",
        tmp_path,
    )
    assert (one.search, one.trials) == ("random", 6)
    draws = one.draws()
    assert draws["learner.lr"] == Draw("loguniform", (1e-4, 1e-2))
    assert draws["seed"] == Draw(
        "randint", (0, 5)
    )  # both ends are meant, Tune leaves the upper one out
    (values,) = draws["reward.anchor"].arguments
    found = one.settings({"learner.lr": 1e-3, "seed": 4, "reward.anchor": values[1]})
    assert found == {"reward.anchor": ["cat", "dog"], "learner.lr": 1e-3, "seed": 4}


def test_optuna_chooses_from_lists_too(tmp_path: Path) -> None:
    one = space("space: {concept: [cat, dog]}\nsearch: optuna\nsamples: 5\n", tmp_path)
    assert one.trials == 5
    assert one.draws() == {"concept": Draw("choice", (["cat", "dog"],))}
    assert one.objectives == {"forgotten": "max", "retained": "max"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("spce: {}", "unknown key 'spce'; did you mean 'space'?"),
        ("space:", "varies nothing"),
        ("space: {}", "varies nothing"),
        ("space: {learner.lrr: [1]}", "did you mean 'learner.lr'?"),
        ("together: [{lr: 1}]", "'learner.lr'"),
        ("space: {seed: []}", "at least one value"),
        ("space: {seed: [1, 1]}", "1 stands twice"),
        ("space: {seed: 3}", "give a list"),
        ("space: {seed: [-1]}", "seed=-1"),
        ("space: {name: [a]}", "same for all trials"),
        ("space: {learner.lr: {unifrm: [0, 1]}}", "did you mean 'uniform'?"),
        ("space: {learner.lr: {uniform: [0.2, 0.1]}}\nsamples: 2", "the smaller one"),
        ("space: {learner.lr: {uniform: [0.1, .inf]}}\nsamples: 2", "two numbers"),
        (
            "space: {learner.lr: {uniform: [0.1, 2]}}\nsamples: 2",
            "learner.lr=2.0: must be less than 1",
        ),
        ("space: {learner.lr: {loguniform: [0, 0.1]}}\nsamples: 2", "above 0"),
        ("space: {seed: {uniform: [0, 5]}}\nsamples: 2", "use randint"),
        ("space: {seed: {randint: [0, 5.5]}}\nsamples: 2", "two whole numbers"),
        ("space: {learner.lr: {uniform: [0.1, 0.2]}}", "needs `samples: N`"),
        ("space: {seed: [0, 1]}\nsamples: 3", "repeat the same trials"),
        ("space: {seed: {randint: [0, 9]}}\nsamples: 10001", f"more than {MAX_TRIALS:,}"),
        ("space: {seed: [0]}\nsearch: grit", "must be 'grid', 'random' or 'optuna'"),
        ("space: {seed: {randint: [0, 9]}}\nsamples: 2\nsearch: grid", "cannot draw seed"),
        ("space: {seed: [0]}\nobjectives: {forgotten: max}", "search: optuna"),
        (
            "space: {seed: [0]}\nsearch: optuna\nsamples: 2\nobjectives: {forgoten: max}",
            "did you mean 'forgotten'?",
        ),
        (
            "space: {seed: [0]}\nsearch: optuna\nsamples: 2\nstop: asha\nobjectives: {judge_ua: "
            "max}",
            "never judged",
        ),
        ("space: {seed: [0]}\ngrace: 2", "stop: asha"),
        ("space: {seed: [0]}\nper_trial: {cpu: 1}", "did you mean 'cpus'?"),
        ("space: {learner.batch: [1]}\ntogether: [{learner.batch: 2}]", "keep one"),
    ],
)
def test_a_wrong_space_is_explained(text: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        space(text, tmp_path)
    assert hint in str(caught.value)
    assert "space.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- names -----------------------------------------------------------------------------------------


def test_names_are_readable_and_leave_the_seed_out_of_labels(tmp_path: Path) -> None:
    study = space(STUDY, tmp_path)
    names = [Namer(study).name(one) for one in study.enumerated()]
    assert names[0] == "k4-cat-seed0"
    assert names[-1] == "batch32-horse-seed2"
    assert len(set(names)) == 12
    assert {Namer(study).label(one) for one in study.enumerated()} == {
        "k4-cat", "k4-horse", "batch32-cat", "batch32-horse",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "space: {concept: [style:noto, style-noto, 'a b']}",
        "space: {concept: [front, Front]}",
        "space: {model.path: [" + "x" * 200 + ", " + "x" * 201 + "]}",
        "space: {learner.lr: [0.1, 0.10001, 0.100011], critic.lr: [1e-3]}",
        "space: {reward.anchor: [[], [dog], [dog, cat]], model.revision: [null, main]}",
    ],
)
def test_names_are_safe_and_different(text: str, tmp_path: Path) -> None:
    one = space(text, tmp_path)
    names = [Namer(one).name(settings) for settings in one.enumerated()]
    assert len({name.lower() for name in names}) == one.trials
    assert all(re.fullmatch(NAME, name) for name in names)
    assert "front" not in names


def test_drawn_settings_that_look_alike_have_different_names(tmp_path: Path) -> None:
    namer = Namer(space("space: {learner.lr: {uniform: [0.1, 0.2]}}\nsamples: 2", tmp_path))
    first, second = namer.name({"learner.lr": 0.123456}), namer.name({"learner.lr": 0.123457})
    assert first != second
    assert first.startswith("lr0.1235-")
    assert namer.name({"learner.lr": 0.123456}) == first


# -- the table -------------------------------------------------------------------------------------


def test_the_chosen_look_is_that_of_the_version_the_run_returned() -> None:
    validations = [
        {"score": score, "best": best}
        for score, best in ((0.5, True), (0.9, True), (0.97, False), (0.8, False))
    ]
    assert results.chosen(validations)["score"] == 0.9, "0.97 lost too much of the rest"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "study")


def test_a_row_is_the_mean_over_seeds_with_its_interval(root: Path) -> None:
    rows = table.rows(table.read_trials(root))
    assert [row.label for row in rows] == ["bad", "mild", "good", "dead"]
    good = rows[2]
    assert (good.means["ua"].value, good.means["ua"].n) == (90.0, 3)
    # 80, 90, 100: deviation 10; Student's 0.975 quantile for 2 degrees of freedom is 4.302653
    assert good.means["ua"].half == pytest.approx(4.302653 * 10 / math.sqrt(3), rel=1e-6)
    assert good.means["images"].value == 1001
    assert (good.means["images_until"].value, good.means["images_until"].n) == (250.0, 2)
    assert good.kept == 92.0
    assert rows[0].means["ua"].half is None
    assert "images_until" not in rows[0].means
    assert rows[3].means == {}


def test_the_front_is_what_nothing_beats(root: Path) -> None:
    rows = table.rows(table.read_trials(root))
    assert [row.label for row in front.front(rows)] == ["mild", "good"]
    assert front.front([]) == []


def test_the_summary_is_written_from_run_folders_alone(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # a second time replaces the first
        outcome = summarize(root)
    text = (root / "table.md").read_text()
    assert (
        "| good ★ | 3 | 90.0 ± 24.8 | 90.0 | 87.0 ± 5.0 | 97.0 ± 5.0 "
        "| 83.0 ± 12.7 (2 of 3) | 42 ± 6 (2 of 3) | 1.00 ± 6.35 (2 of 3) "
        "| 1,001 ± 2 | 30 | 60 | 250 ± 635 (2 of 3) |" in text
    )
    assert "| bad | 1 | 30.0 | 90.0 | 55.0 | 65.0 |  |  |  | 1,000 | 30 | 60 |  |" in text
    assert "`dead-seed0`, failed: no luck" in text
    assert outcome["failed"] == {"dead-seed0": "no luck"}
    listed = list(csv.DictReader((root / "table.csv").open()))
    assert [row["setting"] for row in listed] == ["bad", "mild", "good", "dead"]
    assert float(listed[2]["ua"]) == 90.0
    assert listed[2]["front"] == "1"
    stored = json.loads((root / "results.json").read_text())["settings"]
    assert stored[2]["ua"]["mean"] == 90.0
    assert len(stored[2]["trials"]) == 3
    for name in ("front.png", "curves.png"):
        assert (root / name).read_bytes().startswith(b"\x89PNG")
    # Of a setting's seeds the selection CLIP's favourite: 0.95 for seed 0.
    assert sorted(path.name for path in (root / "front").iterdir()) == ["good-seed0", "mild-seed0"]

    assert main(["sweep", "--table", "study", f"output={root.parent}", "--json"]) == 4
    said = json.loads(capfd.readouterr().out)
    assert (said["trials"], said["finished"], said["exit_code"]) == (6, 5, 4)
    assert said["report"] == str(root / "report.html")


def test_pictures_of_many_settings_and_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PANELS", 3)

    def row(i: int) -> table.Row:
        figures = {"ua": 10.0 + i, "ira": 90.0 - i / 2, "cra": 95.0}
        curve = tuple((100.0 * j, min(1.0, 0.02 * i * j)) for j in range(5))
        trial = table.Trial(Path("x"), f"s{i}", {}, "finished", None, figures, curve, 0.5)
        means = {name: table.mean([value]) for name, value in figures.items()}
        return table.Row(f"s{i}", {}, (trial,), means)

    many = [row(i) for i in range(14)]
    assert pictures.draw_curves(many, "m").startswith(b"\x89PNG")
    assert pictures.draw_front(many, front.front(many), "m").startswith(b"\x89PNG")
    assert pictures.draw_curves([], "m").startswith(b"\x89PNG")
    assert pictures.draw_front([], [], "m").startswith(b"\x89PNG")


# -- the report ------------------------------------------------------------------------------------


def words_of(root: Path, out: Path | None = None) -> str:
    text = page.write_page(SweepFolder(root), out).read_text()
    return " ".join(re.sub("<[^>]*>", " ", text[text.index("<body>") :]).split())


def test_the_report_of_a_sweep_says_what_came_of_each_trial(root: Path, tmp_path: Path) -> None:
    (root / "mild-seed0" / "report.html").write_text("x")
    draw_samples(root / "mild-seed0", tiny.config())
    words = words_of(root)
    assert "5 finished, 1 failed." in words
    assert "beats in both forgetting and keeping: mild, good." in words
    assert "concept good, mild, bad, dead, late" in words
    assert re.search(r"3 good ★ on the front 3 90\.0 ± 24\.8 ", words)
    assert re.search(r"1\.00 ± 6\.35, 2 of 3 ", words), "two of three have an anchor"
    assert "4 dead 0 of 1 not judged" in words
    assert "dead-seed0 4 failed: no luck – –" in words
    assert "What the trials draw" in words
    text = (root / "report.html").read_text()
    assert text.count('<a href="mild-seed0/report.html">mild-seed0</a>') == 2
    assert "<a href" not in text.replace('<a href="mild-seed0/report.html">', "")
    page.write_page(SweepFolder(root), tmp_path / "apart.html")
    assert '<a href="study/mild-seed0/report.html">' in (tmp_path / "apart.html").read_text()


def test_an_unfinished_sweep_has_a_report_that_says_so(root: Path, tmp_path: Path) -> None:
    ask_for(root, "space: {concept: [good, mild, bad, dead, late], seed: [0, 1, 2]}\n")
    words = words_of(root)
    assert "9 not begun" in words
    assert "This sweep is not complete. 5 of 15 trials have a result" in words
    assert f"sweep --resume --name study output={tmp_path}" in words
    ask_for(tmp_path / "none", "space: {learner.lr: {loguniform: [1e-4, 1e-2]}}\nsamples: 2\n")
    words = words_of(tmp_path / "none")
    assert "No trial has begun." in words
    assert "learner.lr evenly by magnitude from 0.0001 to 0.01" in words
    assert "What forgetting costs" not in words
    for name in ("base.yaml", "space.yaml"):
        (tmp_path / "none" / name).unlink()
        with pytest.raises(ConfigError, match="holds no sweep"):
            page.write_page(SweepFolder(tmp_path / "none"))


def test_a_trade_off_is_drawn_where_there_is_one(root: Path) -> None:
    rows = table.rows(table.read_trials(root))
    members = front.front(rows)
    drawn = page.trade_off(rows, members)
    assert drawn is not None
    places = {mark.label: (mark.x, mark.y, mark.hue) for mark in drawn[0].marks}
    assert places.keys() == {"1", "2", "3"}
    assert [places[number][2] for number in ("1", "2", "3")] == [0, 2, 2]
    assert drawn[1] == " ".join(f"{x},{y}" for x, y, _ in (places["2"], places["3"]))
    assert page.trade_off(rows[:1], members) is None
    alike = [replace(rows[1], label=str(i)) for i in range(3)]
    assert page.trade_off(alike, front.front(alike)) is None


def test_the_verb_writes_the_report_of_a_sweep(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(root), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["report"] == str(root / "report.html")
    assert "Sweep “study”" in (root / "report.html").read_text()
    assert main(["report", str(root / "good-seed0"), str(root)]) == 2
    assert "name it alone" in capfd.readouterr().err


# -- the command -----------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    assert main(["sweep", *argv]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("space: {seed: [0, 1]}\n")
    out = f"output={tmp_path / 'out'}"
    assert "--space NAME_OR_FILE" in fails(capsys, out)
    assert "no such file" in fails(capsys, out, "--space", str(tmp_path / "none.yaml"))
    assert "--name N" in fails(capsys, out, "--resume")
    assert "holds no sweep" in fails(capsys, out, "--resume", "--name", "mine")
    assert "holds no sweep" in fails(capsys, out, "--table", "mine")
    assert "letters" in fails(capsys, out, "--space", str(file), "--name", "../up")

    folder = SweepFolder(tmp_path / "out" / "mine")
    base = settings.load([], ["cluster.inline=true"])
    with folder.running(base, read(file, base)):
        assert "already holds a sweep" in fails(capsys, out, "--space", str(file))
        with (
            pytest.raises(ConfigError, match="another sweep is writing"),
            folder.running(base, read(file, base)),
        ):
            pass
    assert strict_yaml.read(folder.space) == {"space": {"seed": [0, 1]}}
    file.write_text("space: {seed: [0, 1, 2]}\nconcurrent: 1\n")
    again = (out, "--resume", "--space", str(file))
    assert "space.seed, concurrent" in fails(capsys, *again)
    assert "learner.lr" in fails(capsys, out, "--resume", "--name", "mine", "learner.lr=0.1")
    assert "holds no trial yet" in fails(capsys, out, "--table", "mine", code=5)


@pytest.mark.parametrize(
    "file", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda file: file.name
)
def test_a_shipped_space_is_valid_and_says_how_it_is_used(file: Path) -> None:
    space = read(file, settings.load([str(CONFIGS / "canvas.yaml")]))
    names = {Namer(space).name(found) for found in space.enumerated()}
    assert space.trials == (8 if space.drawn else len(names)) > 1
    assert f"--space experiments/configs/sweeps/{file.name}" in file.read_text(encoding="utf-8")
