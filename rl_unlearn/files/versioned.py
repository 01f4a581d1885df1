"""JSON files of one type each: read as what they should be, of a version that is known, or refused
in one line.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, Field, StrictInt, ValidationError

from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object


class Versioned(BaseModel):
    """The content of such a file; files from before they carried a version are of version 1."""

    VERSION: ClassVar[int] = 1
    """The newest version that is known."""
    schema_version: Annotated[StrictInt, Field(ge=1)] = 1

    def content(self) -> dict[str, Any]:
        """Returns what is written: the version, and whatever was set, if only to nothing."""
        stated = self.model_dump(exclude_unset=True, by_alias=True, exclude={"schema_version"})
        return {"schema_version": self.VERSION, **stated}


Content = TypeVar("Content", bound=BaseModel)
File = TypeVar("File", bound=Versioned)


def read_versioned(path: Path, kind: type[File], remedy: str) -> File | None:
    """Returns the file's content, None where there is no file; DataError, which names the file, if
    it is damaged or of a newer version.
    """
    if not path.exists():
        return None
    content = read_object(path, remedy)
    version = content.get("schema_version")
    if isinstance(version, int) and version > kind.VERSION:
        raise DataError(
            f"{path} was written by a newer rl-unlearn (its schema_version is above "
            f"{kind.VERSION}): update rl-unlearn"
        )
    return validated(path, content, kind, remedy)


def validated(path: object, content: dict[str, Any], kind: type[Content], remedy: str) -> Content:
    """Returns what was read from `path` as its type; DataError names the first key that is
    wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged ({key}: {first['msg'].lower()}): {remedy}") from error
