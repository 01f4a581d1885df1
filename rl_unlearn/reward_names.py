"""Names in `reward.images` that mean a classifier: `classifier:FOLDER:LABEL`."""

_CLASSIFIER = "classifier:"


def classifier(name: str) -> tuple[str, str] | None:
    """Folder and label of such a name, either empty if it is not whole; None for another reward."""
    if not name.startswith(_CLASSIFIER):
        return None
    folder, _, label = name.removeprefix(_CLASSIFIER).rpartition(":")
    return folder, label


def named(folder: str, label: str) -> str:
    """Inverse of :func:`classifier`."""
    return f"{_CLASSIFIER}{folder}:{label}"
