"""A program that replaces a run, killed before and after each of its steps on the disk; run by
test_replacing.py.

It is a process of its own with one thread, so that it may fork for each kill.
"""

import itertools
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.runs import replacing, run_folder
from experiments.runs.run_state import read_state
from rl_unlearn.errors import ConfigError

STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
KILLED = 9


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def killed(act: Callable[[], None], step: int, after: bool) -> bool:
    """Whether `act`, in a process of its own, was killed at this step; False if it came to its end
    before.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, KILLED):
            raise SystemExit(f"step {step}: exit code {code}")
        return code == KILLED
    count = itertools.count(1)

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def at(*args: Any, **options: Any) -> Any:
            now = next(count) == step
            if now and not after:
                os._exit(KILLED)
            try:
                return call(*args, **options)
            finally:
                if now:
                    os._exit(KILLED)

        return at

    for name in STEPS:
        setattr(os, name, wrapped(getattr(os, name)))
    try:
        act()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def moments() -> Iterator[tuple[int, bool]]:
    """Before and after each step."""
    return ((step, after) for step in itertools.count(1) for after in (False, True))


def start(output: Path, begins: bool, seed: int = 1) -> None:
    """A run of the name `r`, without its training; one that does not begin ends with an error."""
    config = settings.load(overrides=[f"output={output}", "name=r", f"seed={seed}"], environ={})
    replacing.restore(output / "r")
    folder = run_folder.reserve(config, overwrite=True)
    with suppress(ZeroDivisionError), folder.running(config, ["test"]):
        (folder / "metrics.jsonl").write_text("new\n")
        (folder / "tensorboard").mkdir()
        (folder / "tensorboard" / "events").write_text("new\n")
        if not begins:
            raise ZeroDivisionError
        folder.begin()
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text("new\n")


def old_run(output: Path) -> dict[str, bytes]:
    start(output, begins=True, seed=0)
    folder = output / "r"
    for name in ("checkpoints/round-1/learner", ".replaced/mine", "notes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old\n")
    return contents(folder)


def check(output: Path, old: dict[str, bytes], where: str) -> bool:
    """Whether the new run is there after the next start; else the old one must be, byte by byte."""
    replacing.restore(output / "r")
    assert [path.name for path in output.iterdir()] == ["r"], where
    if contents(output / "r") == old:
        return False
    state = read_state(output / "r")
    assert state.begun is True, f"{where}: neither the old run nor one that has begun"
    assert json.loads((output / "r" / "run_state.json").read_text())["argv"] == ["test"]
    assert not (output / "r" / "notes").exists(), where
    return True


def main(root: Path) -> None:
    seen = {"kills": 0, "kills of the next start": 0, "old": 0, "new": 0}
    old = old_run(root / "old")
    for begins in (True, False):
        for step, after in moments():
            output = root / f"{begins}-{step}-{after}"
            shutil.copytree(root / "old", output)
            if not killed(lambda output=output, begins=begins: start(output, begins), step, after):
                assert check(output, old, "undisturbed") == begins
                shutil.rmtree(output)
                break
            seen["kills"] += 1
            for again, late in moments():
                copy = root / "copy"
                shutil.copytree(output, copy)
                more = killed(lambda copy=copy: replacing.restore(copy / "r"), again, late)
                seen[
                    "new" if check(copy, old, f"{output.name}, then {again}-{late}") else "old"
                ] += 1
                shutil.rmtree(copy)
                if not more:
                    break
                seen["kills of the next start"] += 1
            shutil.rmtree(output)
    sys.stdout.write(json.dumps(seen))


def race(root: Path) -> None:
    """Many starts of one name at once: each has it alone, is refused, or is killed; no run is
    lost."""
    old_run(root / "out")
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            dice = random.Random(number)
            for _ in range(25):
                step = dice.choice([0, 0, dice.randint(1, 60)])
                try:
                    if step:
                        begins = dice.random() < 0.5
                        killed(
                            lambda begins=begins: refused_or(root / "out", begins),
                            step,
                            after=False,
                        )
                    else:
                        refused_or(root / "out", dice.random() < 0.5)
                except SystemExit as error:
                    sys.stderr.write(f"{error}\n")
                    os._exit(1)
                except BaseException as error:
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")
                    os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes
    replacing.restore(root / "out" / "r")
    assert [path.name for path in (root / "out").iterdir()] == ["r"]
    assert read_state(root / "out" / "r").begun is True
    assert (root / "out" / "r" / "metrics.jsonl").read_text() == "new\n"


def refused_or(output: Path, begins: bool) -> None:
    try:
        start(output, begins)
    except ConfigError as error:
        if not re.search("another run is|is no run folder", str(error)):
            raise


if __name__ == "__main__":
    {"kills": main, "race": race}[sys.argv[1]](Path(sys.argv[2]))
