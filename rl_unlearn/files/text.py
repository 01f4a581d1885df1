"""What people type: prompts and names as one line of plain text, and how two of them are
compared."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Zero-width, but part of how Persian, Hindi or an emoji is spelled."""


def cleaned(text: str) -> str:
    """Returns one line: any white space, of any script, is one space; what cannot be printed is
    left out.
    """
    # No-break and thin spaces come with pasted text; dropped, they would glue two words together.
    line = " ".join(text.split())
    return "".join(c for c in line if c.isprintable() or c in _JOINERS)


def same(text: str) -> str:
    """Returns what two texts have in common that ask for the same: neither case nor outer nor
    double spaces count.
    """
    return unicodedata.normalize("NFKC", cleaned(text)).casefold()


def twice(texts: tuple[str, ...]) -> str | None:
    """Returns the first text that stands there a second time."""
    seen: set[str] = set()
    for text in texts:
        if same(text) in seen:
            return text
        seen.add(same(text))
    return None


def plain_name(text: str) -> str:
    """ASCII letters, digits and `._-` alone, as a folder may be called; accents go, what has no
    such letter too.
    """
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in ascii_only)
