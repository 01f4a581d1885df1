"""Images a CPU-second and images a second beside the peers', the same work in turn.

    python -m experiments.benchmarks.peers [--pairs 9] [--parts rollout,learner,round]
    python -m experiments.benchmarks.peers --model sd15           # 1.5's shape, for a GPU
    python -m experiments.benchmarks.peers --model sd15 --tiny    # rehearsed on a CPU

The peer is TRL's trainer of DDPO, which is installed into ``--peers-folder`` by itself; a bare
diffusers pipeline shows what drawing alone takes. All draw rounds of the same prompts in the same
number of steps, have the same reward, and learn once from the same number of steps of each image,
with an adapter of the same rank on the same layers.

rollout   a round's images drawn and rewarded: ours and TRL's with the adapter and log-probs
learner   forward and backward of all learned steps, one optimizer step, by states in a pass
round     our loop as it is shipped, on Ray and with its validations, beside TRL's whole epoch

Every process has one thread, and all processes of a contestant are counted. ``--threads 1,2`` shows
a round of TRL's with two as well, where nothing else is at work: its threads wait for each other
all the time, and tens of times as long where a core is busy. A pair is one turn of each, one after
the other; the next pair has them in the opposite order. FILE is written anew after each pair.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.benchmarks import command
from experiments.benchmarks.contest import PARTS, Contest
from experiments.benchmarks.loop import short
from experiments.benchmarks.pairs import Pair, rates, rows, shown
from experiments.benchmarks.workers import Worker
from experiments.files import make_folder, write_json
from rl_unlearn.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = {"canvas": "canvas.yaml", "sd15": "sd15_object.yaml"}
LEFT_OUT = {
    "ddpo-pytorch": "it is on no package index, imports what diffusers no longer has "
    "(diffusers.utils.randn_tensor), and has an adapter of which diffusers kept an empty class "
    "(LoRAAttnProcessor); TRL's trainer is made after it",
}
SD15 = ("model.device=auto", "selection.floor=0", "learner.checkpointing=off")
ON_CPU = ("cluster.rollout_gpus=0", "cluster.critic_gpus=0", "cluster.learner_gpus=0")
TINY = (
    "model.dtype=fp32", "sampler.steps=4", "lora.rank=2", "critic.layers=1", "critic.grid=4",
    "critic.minibatch=8", "critic.steps=2", "selection.images=4", "learner.kl_states=4",
    "learner.kl_budget=1e3", "learner.step_kl=1e3",
)  # fmt: skip
_VALIDATIONS = 2
"""Of our loop in a turn, with the rounds between them."""


def main(argv: list[str]) -> int:
    """Measures all pairs; returns the exit code."""
    arguments = _parse(argv)
    return command.run(lambda: _measure(arguments, argv))


def _measure(arguments: argparse.Namespace, argv: list[str]) -> int:
    from experiments.benchmarks import machine, peer_packages

    file = Path(arguments.out)
    make_folder(file.absolute().parent, "choose another place with --out")
    shipped = str(CONFIGS / FILES[arguments.model])
    model, given = _model(arguments, shipped), arguments.overrides
    every = settings.load([shipped], [*model, *given], environ={}).selection.every
    overrides = [*model, *short(_VALIDATIONS * every), *given]
    config = settings.load([shipped], overrides, environ={})
    images = config.rollout.images
    sizes = [size for size in sorted(arguments.sizes) if images % size == 0]
    if not sizes:
        raise ConfigError(f"--sizes: name at least one that divides a round of {images} images")
    ours = [*sizes, *{config.learner.microbatch} - {*sizes}]
    packages = [peer_packages.installed(Path(arguments.peers_folder))]
    head: dict[str, Any] = machine.head("peers", argv) | {
        "model": arguments.model, "tiny": arguments.tiny, "overrides": overrides,
        "peers": {"trl": peer_packages.TRL}, "left_out": LEFT_OUT,
    }  # fmt: skip
    with ExitStack() as stack:

        def worker(module: str, log: str, packages: list[Path] = packages) -> Worker:
            place = f"experiments.benchmarks.{module}"
            log_file = file.absolute().with_name(f"{file.stem}-{log}.log")
            made = Worker(place, [shipped, *overrides], log_file, packages)
            stack.callback(made.close)
            return made

        workers = (
            worker("our_turns", "ours", []),
            worker("our_turns", "diffusers", []),
            worker("trl_turns", "trl"),
        )
        contest = Contest(workers, ours, sizes, arguments.threads)
        contest.warm_up(arguments.parts)
        pairs: list[Pair] = []
        for number in range(1, arguments.pairs + 1):
            pairs.append(contest.pair(number, arguments.parts))
            compared = contest.ratios(pairs)
            found = {"ratios": compared, "rates": rates(pairs), "pairs": rows(pairs)}
            write_json(file, head | found)
            print(f"pair {number} of {arguments.pairs}", flush=True)
    for ratio in compared:
        print(shown(ratio))
    for name, why in LEFT_OUT.items():
        print(f"left out: {name}: {why}")
    print(f"written: {file}")
    return 0


def _model(arguments: argparse.Namespace, shipped: str) -> list[str]:
    """Returns overrides that name the model; one of Stable Diffusion's shape is made if absent."""
    if arguments.model == "canvas":
        return []
    import torch

    from experiments.benchmarks import random_models

    size = 64 if arguments.tiny else 512
    place = Path(arguments.peers_folder).absolute() / ("sd15-tiny" if arguments.tiny else "sd15")
    named = settings.load([shipped], environ={})
    clips = {"reward": named.reward.clip, "selection": named.selection.clip}
    random_models.save_world(place, "sd15", size, {} if arguments.tiny else clips, arguments.tiny)
    made = [f"model.path={place / 'model'}", f"model.size={size}", *SD15]
    made += [f"{clip}.clip={'canvas' if arguments.tiny else place / clip}" for clip in clips]
    return [*made, *([] if torch.cuda.is_available() else ON_CPU), *TINY * arguments.tiny]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command.parser(__doc__, "peers.json")
    add = parser.add_argument
    add("--pairs", type=int, default=9, help="(9)")
    add("--parts", default=",".join(PARTS), metavar="A,B", help="only these")
    add("--model", choices=[*FILES], default="canvas", help="what is trained (canvas)")
    add("--tiny", action="store_true", help="networks of hardly any width, with --model sd15")
    add(
        "--sizes",
        type=_numbers,
        default="8,24",
        metavar="A,B",
        help="states in a pass of the learner (8,24)",
    )
    add(
        "--threads",
        type=_numbers,
        default="1",
        metavar="A,B",
        help="of TRL in a round (1)",
    )
    add("--peers-folder", default="outputs/peers", metavar="FOLDER", help="for the peers' packages")
    arguments = parser.parse_args(argv)
    arguments.parts = arguments.parts.split(",")
    for name in set(arguments.parts) - {*PARTS}:
        parser.error(f"--parts: there is no part {name!r}, but {', '.join(PARTS)}")
    if arguments.tiny and arguments.model != "sd15":
        parser.error("--tiny: the canvas is small as it is; write --model sd15")
    return arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
