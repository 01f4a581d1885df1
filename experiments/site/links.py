"""Links and headings of Markdown, as GitHub reads them."""

import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(r"(`+)[^`].*?\1", re.DOTALL)
_LINK = re.compile(r"\]\(\s*([^)\s]+)(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def local(text: str) -> list[str]:
    """Returns the targets of a page's links that are no addresses, in their order."""
    plain = _QUOTED.sub("", _FENCE.sub("", text))
    return [link for link in _LINK.findall(plain) if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """Returns what may stand behind the `#` of a link to a page."""
    found: dict[str, int] = {}
    names = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        name = slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def slug(heading: str) -> str:
    """Returns the anchor of a heading: small letters, digits, `-` and `_`, `-` for each space."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(page: Path) -> Iterator[str]:
    """Yields the links of a page whose file, or whose heading in it, is not there."""
    for link in local(page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        missing = anchor and target.is_file() and anchor not in anchors(target.read_text("utf-8"))
        if missing or not target.exists():
            yield link
