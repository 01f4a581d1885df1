"""What words name in a world: a class of objects or of styles, or several of one kind."""

import difflib
import re

from rl_unlearn.errors import ConfigError
from rl_unlearn.files.text import same


def parts_of(concept: str) -> list[str]:
    """Returns the concepts named, each as `object:NAME` or `style:NAME`."""
    parts = [part.strip() for part in concept.split(",")]
    return [part if part.startswith(("object:", "style:")) else f"object:{part}" for part in parts]


def names(text: str, name: str) -> bool:
    """Tells whether a prompt has a name in it as a word of its own, whatever its case."""
    return re.search(rf"(?<!\w){re.escape(same(name))}(?!\w)", same(text)) is not None


def classes_of(
    concept: str, known: dict[str, tuple[str, ...]], key: str = "concept"
) -> tuple[str, tuple[int, ...]]:
    """Domain and classes of what `concept`, the value of that key, names: one, or several of one
    domain with commas between them.
    """
    pairs = []
    for part in parts_of(concept):
        domain, name = part.split(":", 1)
        if name not in known[domain]:
            part = part.removeprefix("object:")
            everything = [*known["object"], *(f"style:{s}" for s in known["style"])]
            near = difflib.get_close_matches(part, everything, n=1) or [
                f"style:{s}" for s in difflib.get_close_matches(name, known["style"], n=1)
            ]
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{key} {part!r} is not in this world: {hint}objects are "
                f"{', '.join(known['object'])}; styles are "
                f"{', '.join(f'style:{s}' for s in known['style'])}"
            )
        pairs.append((domain, known[domain].index(name)))
    if len({domain for domain, _ in pairs}) > 1:
        if key != "concept":
            raise ConfigError(f"{key} {concept!r} mixes objects and styles: name one kind")
        raise ConfigError(
            f"concept {concept!r} mixes objects and styles: forget one kind first, the other on "
            "top of it"
        )
    return pairs[0][0], tuple(dict.fromkeys(index for _, index in pairs))
