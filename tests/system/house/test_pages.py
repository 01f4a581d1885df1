"""What the pages name is there, and what they say to type can be typed."""

import re
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT

PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = [
    f"/{path.relative_to(ROOT)}"
    for top in (*PACKAGES, "tests")
    for path in (ROOT / top).rglob("*.py")
]


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
