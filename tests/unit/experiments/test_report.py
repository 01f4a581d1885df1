"""The report: true to the run folder, one file, harmless whatever the prompts say."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
import torch

from experiments import settings
from experiments.evaluation import pictures, samples
from experiments.report import curves
from experiments.report.report import write_report
from experiments.runs.rows import read_rows
from rl_unlearn.prompts import PromptBook

HOSTILE = (
    '<script>alert(1)</script>"><img src=https://evil.example/x onerror=alert(1)> {{ 7*7 }} {% '
    "raw %} ../ \u202e"
)


def make_run(folder: Path, concept: str = "cat", evaluated: bool = True) -> Path:
    folder.mkdir()
    config = tiny.config(concept=concept, prompts={"template": "A {object} image " + HOSTILE[:200]})
    (folder / "config.yaml").write_text(settings.dump(config))
    side = {"ua": 97.9, "ira": 98.25, "cra": 99.0, "coherence": 91.5}
    evaluation = {
        "before": side | {"ua": 1.0},
        "after": side,
        "counts": {
            "target_images": 96,
            "other_images": 304,
        },
        "models": [
            side | {"name": "untouched", "ua": 1.0},
            side | {"name": "run", "seen_as": {HOSTILE: 90, "dog": 6}},
        ],
    }
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    state = {
        "argv": ["python", "-m", "experiments", "train", f"name={HOSTILE}"],
        "packages": {"torch": "2.14.1"},
        "training": {"images_used": 2720, "updates": 80, "wall_seconds": 151.2},
    }
    (folder / "run_state.json").write_text(json.dumps(state))
    (folder / "samples.png").write_bytes(pictures.to_png(pictures.to_image(torch.rand(3, 16, 16))))
    rows = [
        {"event": "round", "round": i, "reward": i / 9, "kl": 0.1, "ratio_max": [1.0, 1.1]}
        for i in range(5)
    ]
    (folder / "curves.png").write_bytes(curves.draw_curves(rows))
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "run")).read_text()


def test_headline_shows_coherence_beside_ua(text: str) -> None:
    words = Page(text).words
    assert re.search(r"UA\s*97\.9\s*%\s*1\.0 before", words)
    assert words.index("UA") < words.index("Coherence") < words.index("IRA") < words.index("CRA")
    for part in (
        "Forgetting “cat”",
        "target images 96",
        "other images 304",
        "2,720",
        "151",
        "torch 2.14.1",
        "dog 6",
    ):
        assert part in words


def test_hostile_text_stays_text(text: str) -> None:
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"iframe", "object", "link", "form", "base"} == set()
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert not [
        attribute
        for _, attributes in page.tags
        for attribute in attributes
        if attribute.startswith("on")
    ]
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words


def test_nothing_is_fetched(text: str) -> None:
    page = Page(text)
    (policy,) = [
        a["content"] or ""
        for tag, a in page.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    assert not [a for _, a in page.tags if "style" in a]
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        found = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{found}'" in policy
    links = [
        a.get(name) or ""
        for _, a in page.tags
        for name in ("src", "href", "action", "srcset")
        if name in a
    ]
    assert len(links) == 1
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert all(base64.b64decode(link.partition(",")[2]).startswith(b"\x89PNG") for link in links)
    assert "url(" not in text
    assert "@import" not in text


def test_readable_for_everybody(text: str) -> None:
    page = Page(text)
    assert all(len(a.get("alt") or "") > 20 for tag, a in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in page.tags)
    assert "prefers-color-scheme: dark" in text


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", evaluated=False)).read_text())
    assert "not judged" in page.words


# -- pictures --------------------------------------------------------------------------------------


def test_curves_survive_a_cut_line_and_missing_values(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"event": "round", "round": 1, "reward": null}\n{"event": "round", "round": 2, "kl": '
        '[0.1, 0.3]}\n{"eve'
    )
    rows = read_rows(file)
    assert len(rows) == 2
    assert curves.series(rows, "round", "kl") == ([2.0], [0.2])
    assert curves.series(rows, "round", "reward") == ([], [])
    assert curves.draw_curves([]).startswith(b"\x89PNG")


def test_the_picture_begins_with_several_concepts() -> None:
    table, rows, _ = samples.choose(PromptBook.from_config(tiny.config(concept="fish,cat")))
    assert rows == ["fish (to forget)", "cat (to forget)", "dog"]
    assert [[prompt.target for prompt in row] for row in table] == [
        [True, True],
        [True, True],
        [False, False],
    ]
    many = tiny.config(concept=",".join("abcdef"), prompts={"objects": tuple("abcdefgh")})
    _, rows, _ = samples.choose(PromptBook.from_config(many))
    assert len(rows) == samples.ROWS
    assert "to forget" not in rows[-1], "something that is kept is always there to compare"
    assert all("to forget" in row for row in rows[:-1])


@pytest.mark.parametrize("concept", ["cat", "style:flat"])
def test_the_picture_begins_with_the_concept(concept: str) -> None:
    table, rows, columns = samples.choose(PromptBook.from_config(tiny.config(concept=concept)))
    assert all(prompt.target for prompt in table[0])
    assert not any(prompt.target for row in table[1:] for prompt in row)
    assert "to forget" in rows[0]
    assert all(len(row) == len(columns) for row in table)


def test_the_picture_of_prompt_lists(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a cat\na kitten\n")
    (tmp_path / "r.txt").write_text("\n".join(f"a dog number {i}" for i in range(100)))
    files = {"target_file": str(tmp_path / "t.txt"), "retain_file": str(tmp_path / "r.txt")}
    table, rows, columns = samples.choose(PromptBook.from_config(tiny.config(prompts=files)))
    assert [prompt.text for prompt in table[0]] == ["a cat", "a kitten"]
    assert len(table) == len(rows) == samples.ROWS
    assert max(map(len, table)) == len(columns)


def test_small_images_grow_without_smoothing() -> None:
    image = pictures.to_image(torch.tensor([0.0, 1.0]).repeat(3, 2, 1))
    assert image.size == (96, 96)
    assert set(image.get_flattened_data()) == {(0, 0, 0), (255, 255, 255)}
    assert pictures.to_image(torch.rand(3, 512, 512)).size == (512, 512)
