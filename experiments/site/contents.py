"""What pages the site has and in which order; all of them in one folder, laid out as here."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from experiments.files import make_folder, write_text
from experiments.site import commands, configuration, links, modules

ROOT = Path(__file__).parents[2]
HOME = "README"
PAGES = {
    "Learn": ["docs/tutorial"],
    "How to": [
        "docs/how-to/install",
        "docs/how-to/python",
        "docs/how-to/own-model",
        "docs/how-to/own-reward",
        "docs/how-to/one-card",
        "docs/how-to/cluster",
        "docs/how-to/sweep",
        "docs/how-to/compare-with-erasers",
        "docs/how-to/comfyui",
    ],
    "Concepts": [
        "docs/architecture", "docs/canvas", "docs/models", "docs/reliability",
        "docs/observability", "docs/performance", "cluster/README",
    ],
    "Reference": [
        "reference/python", "reference/configuration", "reference/shipped", "reference/commands",
    ],
    "Code": [],
    "Studies": ["docs/studies/README"],
    "Project": ["examples/README", "CONTRIBUTING", "CHANGELOG"],
}  # fmt: skip
"""Captions of the contents with their pages; code and studies are found."""


def generated() -> dict[str, str]:
    """Returns the pages that the code says itself, by name."""
    pages = {
        "reference/python": modules.api(ROOT),
        "reference/configuration": configuration.page(),
        "reference/shipped": configuration.shipped(),
        "reference/commands": commands.page(),
    }
    return pages | {f"code/{name}": page for name, page in modules.pages(ROOT).items()}


def order(made: Iterable[str]) -> dict[str, list[str]]:
    """Returns the pages below each caption, with those that are `made` and those of the studies."""
    studies = [f"docs/studies/{path.stem}" for path in sorted((ROOT / "docs/studies").glob("*.md"))]
    found = {
        "Code": [name for name in made if name.startswith("code/")],
        "Studies": [name for name in studies if name not in PAGES["Studies"]],
    }
    return {caption: [*names, *found.get(caption, [])] for caption, names in PAGES.items()}


def lay_out(folder: Path) -> None:
    """Writes all pages into a folder, with the files that they show or link to."""
    made = generated()
    listed = order(made)
    for name in [HOME, *(name for names in listed.values() for name in names)]:
        text = made.get(name) or (ROOT / f"{name}.md").read_text(encoding="utf-8")
        if name not in made:
            _copy_linked(ROOT / f"{name}.md", text, folder)
        if name == HOME:
            text += "".join(map(_contents, listed, listed.values()))
        make_folder((folder / name).parent, "choose another --out")
        write_text(folder / f"{name}.md", text)
    for path in (ROOT / "docs").rglob("*.md"):  # one that is in no list is an error of the site's
        if not (folder / path.relative_to(ROOT)).exists():
            write_text(folder / path.relative_to(ROOT), path.read_text(encoding="utf-8"))


def _copy_linked(page: Path, text: str, folder: Path) -> None:
    for link in links.local(text):
        path = (page.parent / link.partition("#")[0]).resolve()
        if path.suffix != ".md" and path.is_file() and path.is_relative_to(ROOT):
            copy = folder / path.relative_to(ROOT)
            make_folder(copy.parent, "choose another --out")
            shutil.copyfile(path, copy)


def _contents(caption: str, names: list[str]) -> str:
    lines = "\n".join(names)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
