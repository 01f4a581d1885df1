"""What the pages name is there: a file that is renamed is renamed in the docs, too."""

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
