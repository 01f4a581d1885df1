"""Names of functions of the image alone: `classifier:FOLDER:LABEL`, `canvas:TRAIT`, or the caller's
own; and the concept `image:NAME`, which is what such a function sees.
"""

_CLASSIFIER = "classifier:"
_CANVAS = "canvas:"
_IMAGE = "image:"


def classifier(name: str) -> tuple[str, str] | None:
    """Folder and label of such a name, either empty if it is not whole; None for another
    function.
    """
    if not name.startswith(_CLASSIFIER):
        return None
    folder, _, label = name.removeprefix(_CLASSIFIER).rpartition(":")
    return folder, label


def named(folder: str, label: str) -> str:
    """Inverse of :func:`classifier`."""
    return f"{_CLASSIFIER}{folder}:{label}"


def canvas_trait(name: str) -> str | None:
    """Returns the trait that one of the canvas's networks is asked for; None for another
    function.
    """
    return name.removeprefix(_CANVAS) if name.startswith(_CANVAS) else None


def concept(name: str) -> str:
    """Inverse of :func:`trait`."""
    return f"{_IMAGE}{name}"


def trait(concept: str) -> str | None:
    """Returns the function whose sight a concept is; None for one that a word names."""
    return concept.removeprefix(_IMAGE).strip() if concept.startswith(_IMAGE) else None
