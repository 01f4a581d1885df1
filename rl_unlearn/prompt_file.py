"""Prompt lists of the user, one prompt a line."""

from pathlib import Path

from rl_unlearn.errors import DataError
from rl_unlearn.files.text import cleaned

MAX_PROMPT_CHARACTERS = 1_000
MAX_PROMPTS = 10_000
MAX_FILE_BYTES = 2**20


def read_prompts(path: str | Path) -> list[str]:
    """Reads a prompt list, blank lines skipped, each line as :func:`rl_unlearn.files.text.cleaned`
    leaves it.

    Raises DataError for a missing, undecodable, empty or oversized file (1 MiB, 10,000 prompts of
    1,000 characters).
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        lines = path.read_bytes().split(b"\n") if size <= MAX_FILE_BYTES else _overlong(path)
    except OSError as error:
        raise DataError(
            f"prompt list {str(path)!r} cannot be read: {error.strerror or error}"
        ) from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = cleaned(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"prompt list {str(path)!r}, line {number}, is not UTF-8: save it as UTF-8 text"
            ) from error
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise DataError(
                f"prompt list {str(path)!r}, line {number}, has {len(text)} characters: "
                f"{MAX_PROMPT_CHARACTERS} at most"
            )
        if text:
            prompts.append(text)
    if not prompts:
        raise DataError(f"prompt list {str(path)!r} holds no prompt: write one on each line")
    if len(prompts) > MAX_PROMPTS:
        raise DataError(
            f"prompt list {str(path)!r} holds {len(prompts)} prompts: {MAX_PROMPTS} at most"
        )
    return prompts


def _overlong(path: Path) -> list[bytes]:
    """Raises DataError for an oversized file, with the line that is too long if there is one."""
    with path.open("rb") as file:
        for number in range(1, MAX_PROMPTS + 2):
            line = file.readline(4 * MAX_PROMPT_CHARACTERS + 1)
            if len(line) > 4 * MAX_PROMPT_CHARACTERS:
                raise DataError(
                    f"prompt list {str(path)!r}, line {number}, is longer than "
                    f"{MAX_PROMPT_CHARACTERS} characters"
                )
    raise DataError(f"prompt list {str(path)!r} is larger than {MAX_FILE_BYTES} bytes: split it")
