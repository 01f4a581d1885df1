"""What a model's text encoder reads of a prompt: its context is short, and what is beyond it has no
effect.
"""

import functools
from pathlib import Path
from typing import Any

from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.models.model_folder import read_layout, read_parts
from rl_unlearn.prompts import PromptBook

_SHOWN = 80
"""Characters of a prompt, or of what is cut, that a line quotes."""


class TokenLimit:
    """The tokenizer of a pipeline that reads most, without its text encoder; raises DataError if it
    cannot be read.
    """

    def __init__(self, folder: Path):
        import transformers

        layout = read_layout(folder)
        name, most = layout.reads(read_parts(folder))
        kind = getattr(
            transformers, layout.tokenizers[name]
        )  # AutoTokenizer takes seconds to find it out
        try:
            self._tokenizer: Any = kind.from_pretrained(folder / name, local_files_only=True)
            self._framed = functools.partial(layout.framed, self._tokenizer)
            (empty,) = self._rows([""])
        except Exception as error:  # its library raises bare ones, too
            raise DataError(
                f"{folder / name} cannot be read: {str(error).splitlines()[0]}"
            ) from error
        if not isinstance(most, int) or most < 3:
            raise DataError(f"{folder}: a text encoder's config.json names no length: {most!r}")
        self.tokens = min(int(self._tokenizer.model_max_length), most)
        """Most tokens of a prompt, its marks among them."""
        self._ends = int(empty[-1:] == [self._tokenizer.eos_token_id])
        """Tokens that close each prompt, also one that is cut."""

    def read(self, texts: list[str]) -> list[tuple[int, ...]]:
        """Returns the tokens that have an effect, an end mark left out."""
        return [tuple(row[: min(len(row), self.tokens) - self._ends]) for row in self._rows(texts)]

    def cut(self, texts: list[str]) -> dict[str, str]:
        """Returns what is cut off of each prompt that is too long."""
        rows = zip(texts, self._rows(texts), strict=True)
        lost = {text: row[self.tokens - self._ends : len(row) - self._ends] for text, row in rows}
        return {text: self._tokenizer.decode(row) for text, row in lost.items() if row}

    def notes(self, texts: list[str]) -> list[str]:
        """Returns a line for a person if any prompt is too long; it quotes what has no effect."""
        lost = self.cut(list(dict.fromkeys(texts)))
        if not lost:
            return []
        text, rest = next(iter(lost.items()))
        count = f"{len(lost)} prompts are" if len(lost) > 1 else "a prompt is"
        return [
            f"{count} longer than the {self.tokens} tokens that the model reads: of "
            f"{text[:_SHOWN]!r} the end has no effect, {rest[:_SHOWN]!r}"
        ]

    def check(self, book: PromptBook) -> list[str]:
        """:meth:`notes` of all prompts; raises ConfigError if one to forget and one to keep are the
        same to the model.
        """
        texts = [prompt.text for prompt in book.prompts]
        forgotten = {}
        rows = self.read(texts)
        for prompt, row in zip(book.prompts, rows, strict=True):
            if prompt.target:
                forgotten[row] = prompt.text
        for prompt, row in zip(book.prompts, rows, strict=True):
            if not prompt.target and row in forgotten:
                raise ConfigError(
                    f"the prompts {forgotten[row][:_SHOWN]!r}, to be forgotten, and "
                    f"{prompt.text[:_SHOWN]!r}, to be kept, are the same to the model: it reads "
                    f"{self.tokens} tokens; shorten or change them"
                )
        return self.notes(texts)

    def _rows(self, texts: list[str]) -> list[list[int]]:
        framed = [self._framed(text) for text in texts]
        return [
            list(row) for row in self._tokenizer(framed, truncation=False, verbose=False).input_ids
        ]
