"""The tokenizer of the canvas: a byte-pair CLIPTokenizer in which each word of the captions is one
token.

Other words fall apart into letters, whose embeddings stay zero, and other signs become the unknown
token.
"""

import json
import re
from pathlib import Path

from transformers import CLIPTokenizer

from rl_unlearn.canvas import OBJECTS, STYLES, caption

CONTEXT = 12
"""Tokens of a prompt, with the two marks; the longest caption takes nine."""

UNKNOWN, START, END = "<|unknown|>", "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """The words of all captions, in alphabetical order."""
    captions = [caption(o, s) for o in OBJECTS for s in STYLES] + [caption(style=s) for s in STYLES]
    return sorted({word for text in captions for word in re.findall(r"[a-z]+|\.", text.lower())})


def merged(parts: list[str], left: str, right: str) -> list[str]:
    """`parts` with every neighbouring `left`, `right` joined, from the left: one step of byte-pair
    encoding.
    """
    out: list[str] = []
    for part in parts:
        if out and out[-1] == left and part == right:
            out[-1] = left + right
        else:
            out.append(part)
    return out


def tokenizer() -> CLIPTokenizer:
    """Vocabulary: letters, letters that end a word, prefixes, words, then the three marks (end has
    the highest id).
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["."]
    pieces = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    split = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    while longer := [parts for parts in split if len(parts) > 1]:
        left, right = longer[0][0], longer[0][1]
        merges.append((left, right))
        pieces.append(left + right)
        split = [merged(parts, left, right) for parts in split]
    whole = {word + "</w>" for word in words()}
    ordered = [piece for piece in pieces if piece not in whole] + [
        piece for piece in pieces if piece in whole
    ]
    vocabulary = {token: index for index, token in enumerate([*ordered, UNKNOWN, START, END])}
    made = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )
    for word in words():
        if len(made(word).input_ids) != 3:
            raise RuntimeError(f"{word!r} is not one token but {made.tokenize(word)}")
    return made


def word_ids(made: CLIPTokenizer) -> list[int]:
    """Ids of the tokens that captions use: the words and the three marks."""
    tokens = [word + "</w>" for word in words()] + [UNKNOWN, START, END]
    ids: list[int] = made.convert_tokens_to_ids(tokens)
    return ids


def save(folder: Path) -> None:
    """Writes the tokenizer with `vocab.json` and `merges.txt` beside `tokenizer.json`."""
    made = tokenizer()
    made.save_pretrained(folder)
    model = json.loads(made.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False, indent=0))
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
