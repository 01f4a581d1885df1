"""Damaged files: what a disk, an editor or an enemy makes of a valid one, the same from every
seed."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from rl_unlearn.errors import UserError

LIMIT = 10.0
"""Seconds of CPU that reading one small file may take."""
HOSTILE = (
    b"null", b"[]", b"{}", b"true", b"-1", b"5", b'"x"', b"NaN", b"Infinity", b"-Infinity",
    b"1e999", b"-1e308",
    b"1e308", b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b'"\\u0000"',
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"\x00", b"!!python/object:os.system x", b"&a [*a]", b"2020-01-01", b"0x10", b"1_000",
    b"18446744073709551616",
    b"[null]", b"[[1]]", b'{"x": null}', b"\n", b"", b"../../../etc/passwd", b"s3://x",
)  # fmt: skip
_TOKEN = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\"[^\"\n]*\"|\w+|[\[\]{}:,]")


@dataclass
class Count:
    """How a reader took its inputs."""

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0


def mutated(content: bytes, seed: int) -> bytes:
    """The content with one to three changes."""
    dice = random.Random(seed)
    for _ in range(dice.choice([1, 1, 2, 3])):
        content = dice.choice(_WAYS)(content, dice)
    return content


def put_through(
    content: bytes, inputs: int, read: Callable[[bytes], object], first: int = 0
) -> Count:
    """Reads so many damaged files; nothing but a UserError may escape, and none may take long."""
    count = Count()
    for seed in range(first, first + inputs):
        damaged = mutated(content, seed)
        start = time.process_time()
        try:
            read(damaged)
        except UserError:
            count.refused += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        took = time.process_time() - start
        assert took < LIMIT, f"seed {seed} took {took:.1f} s"
        count.inputs, count.slowest = count.inputs + 1, max(count.slowest, took)
    return count


def _flip(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(max(1, len(content)))
    return (
        content[:place]
        + bytes(b ^ (1 << dice.randrange(8)) for b in content[place : place + 1])
        + content[place + 1 :]
    )


def _delete(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(max(1, len(content)))
    return content[:place] + content[place + dice.randint(1, 20) :]


def _insert(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.randbytes(dice.randint(1, 20)) + content[place:]


def _double(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(max(1, len(content)))
    return content[:place] + content[place : place + dice.randint(1, 200)] + content[place:]


def _truncate(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _swap(content: bytes, dice: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _replace(content: bytes, dice: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(content[:100_000]))
    if not tokens:
        return content
    token = dice.choice(tokens)
    return content[: token.start()] + dice.choice(HOSTILE) + content[token.end() :]


_WAYS = (_flip, _delete, _insert, _double, _truncate, _swap, _replace, _replace, _replace)
