"""Pages of numbers that are missing, single, equal, huge or negative; links and pictures that
lie."""

import itertools
import json
import os
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_runs import ask_for, make_run, make_trial

from experiments.report import charts, curves
from experiments.report.charts import Curve
from experiments.report.figures import drawable
from experiments.report.report import write_report
from experiments.sweep.summary import summarize
from rl_unlearn.errors import DataError

SERIES: dict[str, list[Any]] = {
    "no number": [None, None, None], "nothing": [], "one": [0.5], "one and null": [None, 2.0],
    "equal": [3.0] * 5,
    "equal and huge": [1e99] * 3, "huge": [1e308, -1e308, 1e99, -1e99, 1.0],
    "beyond": [10**400, -(10**400)],
    "negative": [-5.0, -1e-30, -7], "tiny": [5e-324, 1e-310],
    "words": ["x", {}, True, [1], "9" * 999],
    "lists": [[None], [], [1, None], ["x"], [1e308, 1e308]],
}  # fmt: skip
LAST: list[Any] = [
    [None],
    [],
    [None, None],
    [1e308, -1e308],
    [float(10**300)],
    ["x", True],
    [0.5, None],
]
KEYS = (
    "reward",
    "kl",
    "ratio_max",
    "ess",
    "policy_lag",
    "images_per_second",
    "forgotten",
    "images",
)


@pytest.mark.parametrize(("name", "last"), list(zip(SERIES, itertools.cycle(LAST), strict=False)))
def test_a_page_and_curves_are_drawn_of_any_numbers(
    tmp_path: Path, name: str, last: list[Any]
) -> None:
    folder = make_run(tmp_path / "run")
    rows = [
        {"event": event, "round": i, **dict.fromkeys(KEYS, value), "explained_variance": last}
        for i, value in enumerate(SERIES[name], start=1)
        for event in ("round", "selection")
    ]
    rows.append({"event": "round", "round": 9, "explained_variance": last})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(folder).read_text()
    assert not re.search(r"\b(nan|inf|-inf)\b", re.sub(r"base64,[^\"]+", "", text))
    assert curves.draw_curves(rows).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", SERIES)
def test_a_chart_stays_in_its_box(name: str) -> None:
    points = [(i, drawable(value)) for i, value in enumerate(SERIES[name])]
    given: Any = [Curve("a", 1, 0, points), Curve("b", 1, 0, [(1e99, 1.0), (-1e99, 2.0)])]
    for chosen in (given[:1], given):
        chart = charts.line_chart("t", "u", "x", chosen, limit=(1e50, "limit"))
        places = [place for line in (chart.lines if chart else []) for place in line.dots]
        assert all(-1 <= x <= charts.WIDTH + 1 and -1 <= y <= charts.HEIGHT + 1 for x, y in places)


@pytest.mark.parametrize("value", [-1e99, -3.0, 0.0, 50.0, 100.0, 1e99])
def test_a_sweep_is_drawn_of_any_figures(tmp_path: Path, value: float) -> None:
    for seed in range(2):
        make_trial(tmp_path / "sweep", "cat", seed, value, value, [0.0, 1.0])
        make_trial(tmp_path / "sweep", "dog", seed, 50.0, 50.0, [])
    none = make_trial(tmp_path / "sweep", "null", 0, 1.0, 1.0, [0.5])
    (none / "evaluation.json").write_text(json.dumps({"after": {"ua": None}, "images_used": 1}))
    shutil.copytree(tmp_path / "sweep" / "cat-seed0", tmp_path / "sweep" / ".cat-seed0.replaced")
    ask_for(tmp_path / "sweep", "space: {seed: [0, 1]}\n")
    outcome = summarize(tmp_path / "sweep")
    assert outcome["trials"] == 5, "what a killed start has set aside is no trial"
    assert (tmp_path / "sweep" / "front.png").is_file()
    text = (tmp_path / "sweep" / "report.html").read_text()
    assert not re.search(r"\b(nan|inf|-inf)\b", text)
    places = re.findall(r'c[xy]="(-?[\d.e+]+)"', text)
    assert places
    assert all(-1 <= float(place) <= charts.WIDTH for place in places)


@pytest.mark.parametrize(
    "name",
    ["samples.png", "evaluation.json", "attacks.json", "metrics.jsonl", "config.yaml",
     "run_state.json",
     "samples/before.png", "samples/samples.json"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_link_that_leads_out_of_the_run_is_not_followed(
    tmp_path: Path, name: str, how: str
) -> None:
    folder = make_run(tmp_path / "run")
    if name == "samples.png":
        shutil.rmtree(folder / "samples")
        Image.new("RGB", (8, 8)).save(folder / name)
    if how == "folder" and "/" in name:
        (folder / "samples").rename(tmp_path / "secret")
        (folder / "samples").symlink_to(tmp_path / "secret")
    else:
        (folder / name).rename(tmp_path / "secret")
        (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="leads out of the run folder"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_run_folder_may_be_a_link_and_hold_links_to_itself(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "elsewhere" / "run")
    (folder / "evaluation.json").rename(folder / "kept.json")
    (folder / "evaluation.json").symlink_to("kept.json")
    (tmp_path / "link").symlink_to(folder)
    assert "97.9" in write_report(tmp_path / "link").read_text()


def bomb(width: int, height: int) -> bytes:
    """A PNG file of some bytes that says that it is huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"<svg onload=alert(1)>", b"root:x:0:0", bomb(60_000, 60_000),
                bomb(20_000, 4_000),
     bomb(200, 200)],
    ids=["empty", "GIF", "SVG", "text", "bomb", "large", "cut"],
)  # fmt: skip
def test_what_is_no_picture_is_not_shown(tmp_path: Path, content: bytes) -> None:
    folder = make_run(tmp_path / "run")
    shutil.rmtree(folder / "samples")
    (folder / "samples.png").write_bytes(content)
    with pytest.raises(DataError, match=r"samples.png is no readable PNG picture"):
        write_report(folder)
    (folder / "samples.png").unlink()
    os.mkfifo(folder / "samples.png")
    with pytest.raises(DataError, match=r"samples.png is no file"):
        write_report(folder)
