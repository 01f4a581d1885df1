"""What of a run folder is copied: a checkpoint with the records that it needs, or all of it."""

from contextlib import ExitStack
from pathlib import Path

from experiments.files import read_json
from experiments.mirror.copies import Content
from experiments.runs.ledger import AHEAD, LEDGER
from experiments.runs.manifest import MANIFEST, PARTS
from experiments.runs.run_state import NAME

# Rows that are cut from the ledger are in AHEAD before: read in this order, none is missed.
_RECORDS = ("config.yaml", NAME, "metrics.jsonl", LEDGER, AHEAD)
_LEFT_OUT = ("replay",)
"""Folders that a run alone needs while it is at work."""


def of_checkpoint(run: Path, round: int, opened: ExitStack) -> dict[str, Content]:
    """Returns the files from which another machine goes on after this round.

    All are open or read when this returns: the checkpoint may be deleted while it is copied. Raises
    FileNotFoundError if it already was.
    """
    folder = run / "checkpoints" / f"round-{round:06d}"
    contents: dict[str, Content] = {}
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        raise FileNotFoundError(folder)
    parts = [folder / f"{part}.safetensors" for part in PARTS]
    for path in (*parts, folder.parent / Path(manifest["warm_up"]).name):
        contents[str(path.relative_to(run))] = opened.enter_context(path.open("rb"))
    contents[str((folder / MANIFEST).relative_to(run))] = (folder / MANIFEST).read_bytes()
    for name in _RECORDS:
        if (run / name).is_file():
            contents[name] = (run / name).read_bytes()
    return contents


def of_run(run: Path) -> dict[str, Content]:
    """Returns all files of a finished run.

    Links are left out, which may lead anywhere, and so is what is hidden.
    """
    contents: dict[str, Content] = {}
    for path in sorted(run.rglob("*")):
        inside = path.relative_to(run)
        hidden = any(part.startswith(".") for part in inside.parts)
        above = [run / parent for parent in inside.parents]
        if (
            path.is_file()
            and not hidden
            and inside.parts[0] not in _LEFT_OUT
            and not any(part.is_symlink() for part in (path, *above[:-1]))
            and str(inside).isprintable()
            and "\\" not in str(inside)
        ):
            contents[inside.as_posix()] = path
    return contents
