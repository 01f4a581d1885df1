"""The documentation's site: what the code says of itself is whole, and the site can be built."""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

import rl_unlearn
from experiments import presets, settings
from experiments.__main__ import VERBS, make_parser
from experiments.completion import verbs
from experiments.site import __main__ as site
from experiments.site import commands, configuration, contents, links, modules
from rl_unlearn.errors import ConfigError, UserError

# -- links and headings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Plain words", "plain-words"),
        ("On the canvas: step sizes", "on-the-canvas-step-sizes"),
        ("A round's `k = 8` – twice", "a-rounds-k--8--twice"),
        ("[A link](x.md) to_it", "a-link-to_it"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert links.anchors(f"text\n\n## {heading}\n\ntext") == {anchor}


def test_a_heading_that_stands_twice_is_counted() -> None:
    assert links.anchors("# A\n\n## B\n\n## B\n") == {"a", "b", "b-1"}


def test_links_in_code_are_none() -> None:
    text = (
        "[a](a.md#x) `[b](b.md)`\n\n```\n[c](c.md)\n# no heading\n```\n\n![d](d.png) [e](https://e)"
    )
    assert links.local(text) == ["a.md#x", "d.png"]
    assert links.anchors(text) == set()


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# There\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[1](other.md#there) [2](#here) [3](other.md#gone) [4](none.md) [5](#away)\n"
    )
    assert list(links.broken(page)) == ["other.md#gone", "none.md", "#away"]


# -- references ------------------------------------------------------------------------------------


def test_the_reference_has_every_key_with_its_description() -> None:
    page = configuration.page()
    for key, field in settings.fields().items():
        if settings.is_section(field):
            assert f"\n## {key}\n" in page
            continue
        (row,) = re.findall(rf"^\| `{re.escape(key)}` \| .*$", page, re.MULTILINE)
        assert " ".join((field.description or "").split()).replace("|", "\\|") in row


@pytest.mark.parametrize(
    ("key", "kind", "default"),
    [
        ("learner.lr", "number, > 0, < 1", "`0.003`"),
        ("learner.step_kl", "number, > 0", "`1.33333`"),
        ("seed", "integer, ≥ 0, < 2147483648", "`0`"),
        ("model.size", "list of 2 times integer, ≥ 8, ≤ 8192 or `null`", "`null`"),
        ("model.path", "string, at least 1 letter", "`canvas`"),
        ("rollout.actors_min", "integer, ≥ 1 or `null`", "`null`"),
        ("model.dtype", "`fp32`, `fp16`, `bf16`", "`fp32`"),
        ("tensorboard", "`true`, `false`", "`true`"),
        ("attack.relearn_steps", "list of integer", "`[10, 40, 160]`"),
        ("prompts.objects", "list of string", "`[]`"),
        ("reward.images", "mapping to number", "`{}`"),
        ("erase.method", "`uce`, `esd`, `ca`", "`uce`"),
    ],
)
def test_a_row_has_type_bounds_and_default(key: str, kind: str, default: str) -> None:
    assert f"| `{key}` | {kind} | {default} |" in configuration.page()


def test_every_shipped_configuration_is_shown_whole() -> None:
    page = configuration.shipped()
    for name in presets.names():
        assert f"## {name}\n" in page
        assert presets.shipped(name).read_text() in page


def test_the_reference_has_every_verb_and_option() -> None:
    page = commands.page()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(VERBS)
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    for verb in verbs(make_parser()):
        for option in verb.options:
            assert option.flag == "--help" or f"{option.flag}" in sections[verb.name]
    assert "`--format diffusers\\|kohya\\|merged` |" in page


def test_the_reference_has_every_public_name_of_the_science() -> None:
    pages = modules.pages(ROOT)
    whole = "\n".join(pages.values())
    assert next(iter(pages)) == "rl_unlearn"
    for path in (ROOT / "rl_unlearn").rglob("*.py"):
        if path.name.startswith("_"):
            continue
        name = modules.dotted(path, ROOT)
        assert f"\n## {name}\n" in whole
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert f"\n### {node.name}\n" in whole


def test_the_python_api_has_a_page_with_its_examples() -> None:
    page = modules.api(ROOT)
    assert page.startswith("# rl_unlearn\n")
    for name in rl_unlearn.__all__:
        assert name == "UserError" or f"\n## {name}\n" in page
    assert "```python\n>>> import rl_unlearn\n" in page
    assert not re.search(r"\n\n>>> ", page), "a quotation"


def test_a_long_signature_has_a_line_for_each_argument() -> None:
    source = (
        "def f(a: dict[str, tuple[int, ...]], *, b: int = 0, " + "c" * 60 + ": int) -> int: ..."
    )
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    assert modules._function(node).splitlines()[1:5] == [
        "def f(", "    a: dict[str, tuple[int, ...]],", "    *,", "    b: int=0,",
    ]  # fmt: skip


# -- the site --------------------------------------------------------------------------------------


def test_the_pages_are_laid_out_with_what_they_link_to(tmp_path: Path) -> None:
    contents.lay_out(tmp_path)
    for page in tmp_path.rglob("*.md"):
        if not page.is_relative_to(tmp_path / "code"):  # whose headings are names with dots
            assert not list(links.broken(page)), page
    home = (tmp_path / "README.md").read_text()
    assert home.count("{toctree}") == len(contents.PAGES)
    assert (tmp_path / "docs/pictures/demo.png").is_file()
    assert (tmp_path / "experiments/configs/unlearncanvas.yaml").is_file()


def test_a_folder_that_is_no_site_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else than a site"):
        site._clear(tmp_path)
    assert (tmp_path / "mine.txt").is_file()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    out = tmp_path / "site"
    for _ in range(2):  # the second replaces the first
        first = site.build(out)
    assert first == out / "index.html"
    assert "learner.lr" in (out / "reference/configuration.html").read_text()
    architecture = (out / "docs/architecture.html").read_text()
    assert 'id="glossary"' in architecture
    assert 'href="../docs/reliability.html"' in architecture or "reliability.html" in architecture


@pytest.mark.slow
def test_a_broken_link_fails_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

    def lay_out(folder: Path) -> None:
        (folder / "README.md").write_text("# Home\n\n[there](README.md#gone)\n")

    monkeypatch.setattr(contents, "lay_out", lay_out)
    with pytest.raises(UserError, match="1 warnings: mend what they name"):
        site.build(tmp_path / "site")
