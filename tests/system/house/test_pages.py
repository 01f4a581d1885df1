"""What the pages name and link to is there, and what they say to type can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT

from experiments import settings
from experiments.__main__ import VERBS, parse
from experiments.site import contents, links
from experiments.verbs import common

PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [
    *PAGES,
    *(ROOT / name for name in ("examples/README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
FILES = [
    f"/{path.relative_to(ROOT)}"
    for top in (*PACKAGES, "tests", "examples")
    for path in (ROOT / top).rglob("*.py")
] + ["/hatch_build.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_file_that_is_not_there(page: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", page.read_text()))
    wanted = {name for name in named if not name.endswith("NAME.py")}
    assert not [name for name in wanted if not any(file.endswith(f"/{name}") for file in FILES)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_stands_on_lines_of_its_own(page: Path) -> None:
    lines = [line.partition("#")[0].rstrip() for line in page.read_text().splitlines()]
    begun = [(i, line) for i, line in enumerate(lines) if re.match(r" *python -m \w", line)]
    broken = []
    for i, line in begun:
        while line.endswith("\\") and i + 1 < len(lines):
            line, i = line.removesuffix("\\") + lines[i + 1], i + 1
        if line.count("python -m") > 1 or (i + 1 < len(lines) and lines[i + 1].startswith(" " * 8)):
            broken.append(line)
    assert not broken


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert not list(links.broken(page))


def test_every_page_is_in_the_contents_of_the_site() -> None:
    listed = {name for names in contents.order(contents.generated()).values() for name in names}
    written = {str(path.relative_to(ROOT).with_suffix("")) for path in LINKING}
    assert written - listed == {contents.HOME}
    assert {name for name in listed if "/" not in name} <= written


def commands(page: Path) -> list[list[str]]:
    """The words of our commands in the blocks of a page, each without what runs it."""
    lines = re.sub(r"\\\n", " ", page.read_text()).splitlines()
    found = []
    for line in lines:
        whole = re.fullmatch(r" *(?:python -m experiments|rl-unlearn) (.*)", line)
        if whole and whole[1].split()[0] in VERBS:
            found.append(shlex.split(whole[1], comments=True))
    return found


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one_that_can_be_given(page: Path) -> None:
    for words in commands(page):
        args = parse(words)
        given = [word for word in getattr(args, "overrides", []) if "=" in word]
        given += common.scheduler_overrides(args) if "scheduler" in args else []
        settings.combined(settings.from_overrides(given))


def test_the_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in LINKING) > 50
