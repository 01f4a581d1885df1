"""All that must be seen once on one GPU, in one command, on a model of real size, random weights.

    python -m experiments.benchmarks.real_size --out FOLDER [--family sd15|sdxl] [override ...]
    python -m experiments.benchmarks.real_size --out FOLDER --tiny    # rehearsed on a CPU

Asks no network for anything and needs no Ray. The shipped configuration of the family is taken as
it is, but for the model and the CLIPs, which have the shapes that it names and random weights, for
the number of images, and for what KEY=VALUE says. FOLDER/real_size.json is written after each part:

model    the folder of the model is made
ratio    before the first update every importance ratio is 1, by number type
floor    K0, what rounding alone shows, by number type at the configured guidance
flops    of a guided forward, counted and planned
rollout  a rollout beside bare diffusers, by turns: speed, and the share of what the device can do
compile  the same with compiled blocks, and the first ratios; only if asked for: it takes minutes
roles    peak memory of each actor alone, beside the plan's, and its speed
fp16     a whole training run: peak memory of all actors together, and what the controllers did
bf16     the same in another type, and
fp32     in the third one

What does not begin within ``--minutes`` is skipped and named. A part that fails leaves its error in
place of its figures, and the others go on; the exit code is then 4.
"""

import argparse
import functools
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.benchmarks import command
from experiments.doctor.machine import DRIVER
from experiments.files import make_folder, to_json, write_json
from experiments.runs.run_folder import package_versions
from rl_unlearn.config import Config
from rl_unlearn.errors import UserError

GIBIBYTE = 2**30
CONFIGS = Path(__file__).parents[1] / "configs"
TYPES = ("fp32", "fp16", "bf16")
RUNS = ("fp16", "bf16", "fp32")
PARTS = ("model", "ratio", "floor", "flops", "rollout", "roles", *RUNS, "compile")
USUAL = PARTS[:-1]
CLIPS = ("reward", "selection")
PIXELS = {"sd15": 512, "sdxl": 1024}
ROOM = {"sd15": 20, "sdxl": 44}
"""GiB that a run may take: of a card of 24 GB, and of one of 48 GB."""
HERE = ("model.device=auto", "cluster.inline=true", "selection.floor=0", "loop.checkpoint_every=0")
SMALL = {
    "ratio": ("sampler.steps=10", "rollout.images=8", "learner.batch=8", "critic.warmup_images=8"),
    "roles": (
        "rollout.images=2", "learner.batch=2", "learner.minibatches=1", "critic.warmup_images=8",
    ),
    "run": (
        "loop.rounds=8", "rollout.images=8", "learner.batch=8", "critic.warmup_images=16",
        "critic.warmup_steps=32", "critic.steps=4", "selection.images=4", "selection.every=8",
        "learner.lr_constant=1",
    ),
}  # fmt: skip
"""Less of the same: how many images, not how large or how many at once."""
TINY = (
    "sampler.steps=4", "lora.rank=2", "critic.layers=1", "critic.grid=4", "critic.minibatch=8",
    "loop.rounds=2", "rollout.images=4", "learner.batch=4", "learner.kl_states=4",
    "critic.warmup_images=8", "critic.warmup_steps=2",
    "learner.kl_budget=1e3", "learner.step_kl=1e3",
)  # fmt: skip


class Report:
    """The file, and the clock."""

    def __init__(self, folder: Path, minutes: float, head: dict[str, Any]):
        self._file, self._start = folder / "real_size.json", time.monotonic()
        self.until = self._start + 60 * minutes
        self._content: dict[str, Any] = {**head, "seconds": 0.0, "skipped": [], "parts": {}}
        self.failed = False
        if self._file.exists():
            stamp = datetime.fromtimestamp(self._file.stat().st_mtime, UTC)
            self._file.rename(aside := folder / f"real_size-{stamp:%Y%m%d-%H%M%S}.json")
            print(f"kept: {aside}, of an earlier time", flush=True)

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Does it, if there is time; its figures, or why there are none, are written at once."""
        start = time.monotonic()
        if start > self.until:
            self._content["skipped"].append(name)
            print(f"{name}: skipped, the time is over", flush=True)
            self._write()
            return
        try:
            result = work()
        except Exception as error:  # the other parts are worth their time all the same
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            known = self._content["parts"].get(name, {})
            result, self.failed = known | {"failed": f"{kind}{error}"}, True
        self.note(name, result | {"part_seconds": time.monotonic() - start})
        shown = {key: _short(value) for key, value in result.items() if key != "updates"}
        print(f"{name}: {to_json(shown)}", flush=True)

    def note(self, name: str, result: dict[str, Any]) -> None:
        """Writes down what is known of a part so far."""
        self._content["parts"][name] = result
        self._write()

    def _write(self) -> None:
        self._content["seconds"] = time.monotonic() - self._start
        write_json(self._file, self._content)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(argv: list[str]) -> int:
    """Does one part after another; returns the exit code."""
    arguments = _parse(argv)
    return command.run(lambda: _measure(arguments, argv))


def _measure(arguments: argparse.Namespace, argv: list[str]) -> int:
    import diffusers
    import torch
    import transformers

    from experiments.benchmarks import controllers, passes, random_models

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    family, tiny, cpu = arguments.family, arguments.tiny, not torch.cuda.is_available()
    size = arguments.size or (64 if tiny else PIXELS[family])
    folder, shipped = Path(arguments.out).absolute(), str(CONFIGS / f"{family}_object.yaml")
    place = folder / (f"{family}-tiny" if tiny else family)
    made = [*HERE, f"model.path={place / 'model'}", f"model.size={size}", f"output={folder}"]
    made += [f"{clip}.clip={'canvas' if tiny else place / clip}" for clip in CLIPS]
    made += ["cluster.rollout_gpus=0", "cluster.critic_gpus=0", "cluster.learner_gpus=0"] * cpu

    def load(*more: str, of: str = "run") -> Config:
        small = (*SMALL[of], *(TINY if tiny else ()))
        return settings.load([shipped], [*made, *small, *arguments.overrides, *more], environ={})

    def build() -> dict[str, Any]:
        named = settings.load([shipped], environ={})
        clips = {} if tiny else {clip: getattr(named, clip).clip for clip in CLIPS}
        random_models.save_world(place, family, size, clips, tiny)
        sizes = [file.stat().st_size for file in place.rglob("*.safetensors")]
        return {"folder": str(place), "bytes": sum(sizes)}

    def train(dtype: str) -> dict[str, Any]:
        def tell(result: dict[str, Any]) -> None:
            report.note(dtype, result)
            row = result["updates"][-1]
            cells = (f"{name} {row[name]:.4g}" for name in controllers.COLUMNS)
            print("  " + "  ".join(cells), flush=True)

        result = controllers.run(load(f"model.dtype={dtype}"), report.until, tell)
        room = ROOM[family] * GIBIBYTE
        return result | {"room_bytes": room, "fits": None if cpu else result["bytes"] <= room}

    def ratios() -> dict[str, Any]:
        return {name: passes.ratio(load(f"model.dtype={name}", of="ratio")) for name in TYPES}

    def compiled() -> dict[str, Any]:
        found = passes.rollouts(load("model.compile=true"))
        return found | {"ratio": passes.ratio(load("model.compile=true", of="ratio"))}

    work: dict[str, Callable[[], dict[str, Any]]] = {
        "model": build,
        "ratio": ratios,
        "floor": lambda: passes.floors(load, 2 if tiny else 16),
        "flops": lambda: passes.flops(load()),
        "rollout": lambda: passes.rollouts(load()),
        "compile": compiled,
        "roles": lambda: passes.roles(lambda *more: load(*more, of="roles")),
    } | {dtype: functools.partial(train, dtype) for dtype in RUNS}
    load()  # what is wrong with it is told before anything is made
    make_folder(folder, "choose another place with --out")
    report = Report(folder, arguments.minutes, _head(arguments, argv, size))
    if cpu:
        print("no GPU here: its memory has no figures, and speeds are this CPU's", flush=True)
    for name in PARTS:
        if name in arguments.parts or name == "model":
            report.part(name, work[name])
    print(f"written: {folder / 'real_size.json'}")
    return 4 if report.failed else 0


def _head(arguments: argparse.Namespace, argv: list[str], size: int) -> dict[str, Any]:
    import torch

    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    asked = ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)  # noqa: S603
        commit = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "command": shlex.join(["python", "-m", "experiments.benchmarks.real_size", *argv]),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit,
        "family": arguments.family, "size": size, "tiny": arguments.tiny,
        "overrides": arguments.overrides,
        "card": card.name if card else None, "card_bytes": card.total_memory if card else None,
        "driver": DRIVER.read_text().splitlines()[0] if DRIVER.exists() else None,
        "cuda": torch.version.cuda,
        "host": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "packages": package_versions(),
    }  # fmt: skip


def _parse(argv: list[str]) -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="where the file goes, and the model")
    add("--family", choices=[*PIXELS], default="sd15", help="which model (sd15)")
    add("--size", type=int, metavar="PIXELS", help="of an image (512; sdxl 1024, --tiny 64)")
    add("--minutes", type=float, default=10.0, help="what begins later is skipped (10)")
    add("--tiny", action="store_true", help="networks of hardly any width, for a CPU")
    add("--parts", default=",".join(USUAL), metavar="A,B", help="only these, and the model")
    add("overrides", nargs="*", metavar="override", help="KEY=VALUE on top of the configuration")
    arguments = parser.parse_args(argv)
    arguments.parts = arguments.parts.split(",")
    for name in set(arguments.parts) - {*PARTS}:
        parser.error(f"--parts: there is no part {name!r}, but {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
