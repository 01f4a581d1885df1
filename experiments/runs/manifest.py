"""What a checkpoint's folder holds, and whether its files are as written; without torch."""

import hashlib
from pathlib import Path

from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object

PARTS = ("learner", "critic", "replay", "loop")
MANIFEST = "MANIFEST.json"


def sha256(content: bytes) -> str:
    """Returns the digest as it stands in manifests and names."""
    return hashlib.sha256(content).hexdigest()


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint's files, None if they are as they were written.

    Neither its format nor whose it is is looked at.
    """
    try:
        manifest = read_object(folder / MANIFEST)
        files = {f"{part}.safetensors": "" for part in PARTS}
        files |= {name: manifest["files"][name]["sha256"] for name in files}
        warm_up = Path(manifest["warm_up"]).name
        files[f"../{warm_up}"] = warm_up.removeprefix("warm-up-").removesuffix(".safetensors")
        for name, expected in files.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return f"{Path(name).name} is not what was written"
    except (OSError, KeyError, TypeError, AttributeError, DataError) as error:
        return str(error) or type(error).__name__
    return None
