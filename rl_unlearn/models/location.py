"""Where a model's folder is: the canvas's, one that is named, made of a single file, or fetched
from the hub.
"""

from pathlib import Path

from rl_unlearn.config import Model
from rl_unlearn.models import hub, single_file
from rl_unlearn.models.model_folder import named_folder, read_layout


def local_folder(model: Model) -> Path | None:
    """Returns the folder on this machine, also of a single file, which is made into one; None for a
    hub id.

    Raises DataError for what is neither.
    """
    return single_file.converted(model) if single_file.named(model) else named_folder(model)


def fetched_folder(model: Model) -> Path:
    """Returns the same for a hub id, too: what a pipeline needs of it is downloaded, or taken from
    the hub's cache.

    Raises DataError if it cannot be had.
    """
    return local_folder(model) or hub.fetch(model)


def described_folder(model: Model) -> Path:
    """Returns the same, with no weights: of a hub id only configurations and vocabularies are
    downloaded.

    Raises DataError if they cannot be had.
    """
    return local_folder(model) or hub.fetch_small(model)


def whole_folder(model: Model) -> Path:
    """Returns the model's folder, with all that a copy for others holds: cards, licences, and parts
    that draw no image.

    Of a hub id they are fetched now if there is a network; what is absent without one stays absent.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    folder = hub.fetch(model)
    hub.complete(model, folder)
    return folder


def pinned(model: Model) -> Model:
    """Returns the same model by its commit, so that whoever asks again, and wherever, gets the same
    files.

    A folder stays what it is.
    """
    if local_folder(model) is not None:
        return model
    commit = hub.commit(hub.fetch(model))
    return model if commit is None else model.model_copy(update={"revision": commit})


def trained(model: Model) -> str:
    """Returns the component of a model that its adapter belongs to."""
    return read_layout(fetched_folder(model)).trained
