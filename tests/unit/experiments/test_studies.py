"""The tables of the studies, from run folders made up for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments import strict_yaml
from experiments.studies import breadth, compare, front, rounds, step_sizes


def run_folder(
    root: Path,
    label: str,
    concept: str,
    seed: int,
    forgotten: list[float],
    per_round: int,
    **place: float,
) -> None:
    folder = root / f"{label}-{concept}-seed{seed}".replace(":", "-")
    folder.mkdir(parents=True)
    trial = {
        "label": f"{label}-{concept}".replace(":", "-"),
        "settings": {"concept": concept, "seed": seed},
    }
    (folder / "run_state.json").write_text(json.dumps({"trial": trial, "state": "finished"}))
    (folder / "config.yaml").write_text(
        strict_yaml.dump(
            {
                "concept": concept,
                "seed": seed,
                "rollout": {"images": per_round},
                "critic": {"warmup_images": 100},
            }
        )
    )
    after = {"ua": 100 * forgotten[-1], "coherence": 100.0, "ira": 99.0, "cra": 98.0, **place}
    (folder / "evaluation.json").write_text(
        json.dumps(
            {"after": after, "images_used": 1, "updates": len(forgotten), "wall_seconds": 1.0}
        )
    )
    validations = [
        {"event": "selection", "round": round, "policy_version": round - 1, "images": 9,
         "seconds": 2.0 * round,
         "forgotten": share, "coherence": 1.0, "retained": 1.0, "other": 1.0, "score": share,
         "best": True}
        for round, share in enumerate(forgotten, 1)
    ]  # fmt: skip
    learned = [
        {
            "event": "round",
            "round": round,
            "kl": round - 1.0,
            "explained_variance": [-round, None if seed else 0.5],
        }
        for round in range(1, len(forgotten) + 1)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in validations + learned)
    )


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    root = tmp_path / "sweep"
    for seed in (0, 1, 2):
        run_folder(root, "k1", "cat", seed, [0.0, 0.5, 0.9, 1.0], 24)
        run_folder(root, "k4", "cat", seed, [0.0, 0.2, 0.4, 0.6 if seed == 2 else 0.9], 6)
    run_folder(root, "k4", "style:noto", 0, [0.0, 0.9], 6)
    (root / "space.yaml").write_text("together:\n  - {name: k4}\n  - {name: k1}\n")
    return root


def test_settings_are_compared_over_concepts_and_seeds(sweep, tmp_path, capsys):
    compare.main([str(sweep), str(tmp_path / "out.json"), str(tmp_path / "out.png")])
    found = json.loads((tmp_path / "out.json").read_text())
    four, one = found["rows"]
    assert (four["setting"], one["setting"]) == ("k4", "k1"), "in the order of the space file"
    assert (one["n"], one["reached"], four["n"], four["reached"]) == (3, 3, 4, 3)
    assert (one["updates_until"], one["rollouts_until"], one["images_until"]) == (2, 72, 172)
    assert four["rollouts_until"] == 24, "the median of 12, 24, 24 and never"
    assert four["ua"]["min"] == pytest.approx(60)
    assert four["ua"]["mean"] == pytest.approx(82.5)
    assert {run["concept"] for run in found["runs"]} == {"cat", "style:noto"}
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "| k1 | 3 | 100.0 (100.0) | 100.0 | 99.0 | 98.0 | 3 of 3 | 2 | 72 | 172 |" in printed


def test_differences_are_those_of_the_same_concept_and_seed(sweep, tmp_path, capsys):
    out = [str(sweep), str(tmp_path / "out.json"), str(tmp_path / "out.png")]
    compare.main([*out, "--than", "k1"])
    last = capsys.readouterr().out.splitlines()[-3:]
    assert last == [
        "| setting | figure | pairs | less that of k1 | by concept |",
        "|---|---|--:|--:|--:|",
        "| k4 | ua | 3 | -20.0 ± 43.0 | -20.0 |",
    ]
    with pytest.raises(SystemExit):
        compare.main([*out, "--than", "k2"])
    assert "no setting 'k2' here; there are k4, k1" in capsys.readouterr().err


def test_what_stands_in_the_place_is_compared_with_its_worst_runs(tmp_path, capsys):
    root = tmp_path / "sweep"
    worth = {"plain": (80.0, 40.0, 1.0), "held": (90.0, 85.0, -0.1)}
    for label, (anchor, spread, kid) in worth.items():
        for concept in ("cat", "horse"):
            for seed in (0, 1):
                place = {"anchor": anchor + seed, "spread": spread - seed, "anchor_kid": kid}
                run_folder(root, label, concept, seed, [0.0, 1.0], 24, **place)
    (root / "space.yaml").write_text("together:\n  - {name: plain}\n  - {name: held}\n")
    compare.main([str(root), str(tmp_path / "o.json"), str(tmp_path / "o.png"), "--than", "plain"])
    printed = capsys.readouterr().out
    assert "| plain | 80.5 ± 0.9 (80.0) | 40 ± 1 (39) | 1.00 (1.00) |" in printed
    assert "| held | 90.5 ± 0.9 (90.0) | 84 ± 1 (84) | -0.10 (-0.10) |" in printed
    assert "| held | spread | 4 | 45.0 | 45.0 |" in printed
    assert "| held | anchor_kid | 4 | -1.10 | -1.10 |" in printed
    held = json.loads((tmp_path / "o.json").read_text())["rows"][1]
    assert held["anchor"]["mean"] == pytest.approx(90.5)


def test_a_front_has_a_line_for_each_value_of_one_key_and_a_point_for_each_of_another(
    sweep, tmp_path, capsys
):
    front.main(
        [str(sweep), "rollout.images", "concept", str(tmp_path / "o.json"), str(tmp_path / "o.png")]
    )
    rows = capsys.readouterr().out.splitlines()
    assert rows[2:] == [
        "| 6 | cat | 3 | 80.0 ± 43.0 | 100.0 | 99.0 | 98.0 | 1.50 |",
        "| 6 | style:noto | 1 | 90.0 | 100.0 | 99.0 | 98.0 | 0.50 |",
        "| 24 | cat | 3 | 100.0 | 100.0 | 99.0 | 98.0 | 1.50 |",
    ]
    assert len(json.loads((tmp_path / "o.json").read_text())["runs"]) == 7
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_recorded_is_taken_run_by_run(sweep, tmp_path, capsys):
    picture = tmp_path / "kl.png"
    rounds.main(
        [
            str(sweep),
            "kl",
            "explained_variance",
            "--last",
            "3",
            "--digits",
            "1",
            "--picture",
            str(picture),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "| setting | runs | kl | lowest, highest |",
        "|---|--:|--:|--:|",
        # the median of rounds 2 to 4 in three runs, of both in the fourth
        "| k4 | 4 | 1.6 ± 1.2 | 0.5, 2.0 |",
        "| k1 | 3 | 2.0 | 2.0, 2.0 |",
        "",
        "| explained_variance | | |",
        "|---|--:|--:|",
        "| k4 | -2.6 | 0.5 |",
        "| k1 | -3.0 | 0.5 |",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_setting_that_records_less_has_an_empty_cell(sweep, tmp_path, capsys):
    for file in sweep.glob("k1*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row.pop("kl", None)
            row.pop("explained_variance", None)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rounds.main(
        [
            str(sweep),
            "kl",
            "explained_variance",
            "--digits",
            "1",
            "--picture",
            str(tmp_path / "kl.png"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert "| k1 | 3 |  |  |" in lines
    assert lines[-1] == "| k1 |  |  |"
    assert lines[-2].startswith("| k4 | -")


def test_looks_have_a_lowest(sweep, capsys):
    rounds.main(
        [str(sweep), "forgotten", "--event", "selection", "--first", "3", "--take", "highest"]
    )
    assert "| k4 | 4 | 0.53 ± 0.40 | 0.40, 0.90 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("curves", "chosen"),
    [
        ({"1e-3": [0.5, 0.6], "1e-2": [0.5, 0.8]}, 1e-2),  # the score decides
        ({"1e-3": [0.5, 0.95], "1e-2": [0.94, 0.5]}, 1e-2),  # as good, and sooner
        ({"1e-3": [0.5, 0.96], "1e-2": [0.94, 0.5]}, 1e-3),  # sooner, but worse
        ({"1e-3": [0.5, 0.6], "1e-2": [0.605, 0.3]}, 1e-2),  # neither is ever forgotten
    ],
)
def test_the_step_size_is_the_selections_choice(tmp_path, capsys, curves, chosen):
    for lr, forgotten in curves.items():
        for concept in ("cat", "horse"):
            run_folder(tmp_path / "s", f"terminal-{lr}", concept, 0, forgotten, 24)
            folder = tmp_path / "s" / f"terminal-{lr}-{concept}-seed0"
            config = {
                "estimator": {"name": "terminal"},
                "learner": {"lr": float(lr)},
                "concept": concept,
            }
            (folder / "config.yaml").write_text(strict_yaml.dump(config))
            validations = [
                json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            best = max(range(len(forgotten)), key=forgotten.__getitem__)
            for place, validation in enumerate(validations[: len(forgotten)]):
                validation |= {"images": 100 * place, "best": place <= best}
            (folder / "metrics.jsonl").write_text(
                "".join(json.dumps(validation) + "\n" for validation in validations)
            )
    step_sizes.main([str(tmp_path / "s"), str(tmp_path / "o.json")])
    row = capsys.readouterr().out.splitlines()[2]
    assert ["**" in cell for cell in row.split("|")[2:4]] == [chosen == 1e-3, chosen == 1e-2]
    runs = json.loads((tmp_path / "o.json").read_text())["runs"]
    assert {run["lr"] for run in runs if run["chosen"]} == {chosen}


def test_a_key_that_was_never_recorded_is_named(sweep, capsys):
    with pytest.raises(SystemExit):
        rounds.main([str(sweep), "loss"])
    assert (
        "none of these rows has a value of 'loss'; recorded are: event, explained_variance, kl"
        in capsys.readouterr().err
    )


def test_what_half_of_the_runs_never_reach_has_no_median(tmp_path, capsys):
    for seed, last in enumerate((0.9, 0.1)):
        run_folder(tmp_path / "sweep", "k1", "cat", seed, [0.0, last], 24)
    (tmp_path / "sweep" / "space.yaml").write_text("space: {seed: [0, 1]}\n")
    compare.main(
        [
            str(tmp_path / "sweep"),
            str(tmp_path / "a.json"),
            str(tmp_path / "a.png"),
            "--against",
            "seconds",
        ]
    )
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (row["reached"], row["images_until"]) == (1, None)
    assert "| 1 of 2 |  |  |  |" in capsys.readouterr().out


def test_rows_of_earlier_runs_are_kept_on_request(tmp_path, monkeypatch, capsys):
    def row(run: Path, _: Any) -> dict[str, Any]:
        concept, _, seed = run.name.partition("-seed")
        figures = dict.fromkeys(
            ("ua", "coherence", "ira", "cra"), 90.0 if concept == "cat" else 100.0
        )
        return {
            "concept": concept,
            "seed": int(seed),
            **figures,
            "panel": figures,
            "seen_as": {"dog": 3},
        }

    monkeypatch.setattr(breadth, "row", row)
    monkeypatch.setattr(breadth, "gallery", lambda runs: Image.new("RGB", (8, 8)))
    arguments = [str(tmp_path), str(tmp_path / "rows.json"), str(tmp_path / "rows.png")]
    for folders, more in (
        (("dog-seed0", "cat-seed0"), []),
        (("fox-seed0", "cat-seed0"), ["--keep"]),
    ):
        for folder in tmp_path.glob("*-seed*"):
            (folder / "evaluation.json").unlink()
            folder.rmdir()
        for name in folders:
            (tmp_path / name).mkdir()
            (tmp_path / name / "evaluation.json").write_text("{}")
        breadth.main([*arguments, *more])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert sorted((one["concept"], one["seed"]) for one in rows) == [
        ("cat", 0),
        ("dog", 0),
        ("fox", 0),
    ]
    table = capsys.readouterr().out.rpartition("| concept")[2].splitlines()
    assert table[2].startswith("| cat | 0 | 90.0 |"), "the lowest first"
    assert table[-1].startswith("| **mean** | | **96.7** |")
