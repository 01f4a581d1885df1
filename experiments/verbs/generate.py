"""`generate`: images of a model, with or without adapters, as one grid or as files."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments import settings
from experiments.console import say
from experiments.files import make_folder, write_bytes
from experiments.verbs import common
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.files.text import cleaned

if TYPE_CHECKING:
    from PIL.Image import Image

    from rl_unlearn.adapters.adapter import AdapterState

HELP = "draw images with or without adapters"
MAX_PICTURES = 400
MAX_RANK = 512
MAX_SCALE = 100.0


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `generate` takes."""
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to draw; may be repeated",
    )
    parser.add_argument("--prompts", metavar="FILE", help="prompt list, one a line")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="DIR",
        help=(
            "run folder, adapter folder or .safetensors file; may be repeated, the adapters add "
            "up"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--scale", action="append", default=[], type=_scale, metavar="S",
        help="strength of an adapter (default 1); one for each --adapter, in their order",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", default="0", metavar="N,N", help="one image a prompt for each seed (default 0)"
    )
    common.add_scheduler(parser)
    parser.add_argument(
        "--out", default="images.png", metavar="PATH",
        help="FILE.png for one grid (default images.png), or a folder for one file an image",
    )  # fmt: skip
    common.add_config(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Draws a grid, a row for each prompt and a column for each seed, or as many files."""
    out, seeds = Path(args.out), _seeds(args.seeds)
    if out.suffix.lower() not in ("", ".png") and not out.is_dir():
        raise ConfigError(f"--out {args.out}: must end in .png, or name a folder")
    if not args.prompt and not args.prompts:
        raise ConfigError("nothing to draw: give --prompt TEXT or --prompts FILE")
    if args.scale and len(args.scale) != len(args.adapter):
        raise ConfigError(
            f"{len(args.scale)} --scale for {len(args.adapter)} --adapter: give one for each, or "
            "none"
        )
    args.overrides += common.scheduler_overrides(args)
    config = settings.load(args.config, args.overrides)
    from rl_unlearn.prompt_file import MAX_PROMPT_CHARACTERS, read_prompts

    for prompt in args.prompt:
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ConfigError(
                f"--prompt has {len(prompt)} characters: {MAX_PROMPT_CHARACTERS} at most"
            )
    prompts = [cleaned(prompt) for prompt in args.prompt] + (
        read_prompts(args.prompts) if args.prompts else []
    )
    if len(prompts) * len(seeds) > MAX_PICTURES:
        raise ConfigError(
            f"{len(prompts)} prompts x {len(seeds)} seeds: one call draws {MAX_PICTURES} images; "
            "ask for fewer"
        )
    from experiments.evaluation import pictures
    from experiments.evaluation.models import load_model
    from rl_unlearn.layouts.schedulers import Schedule
    from rl_unlearn.models import model_folder
    from rl_unlearn.models.location import fetched_folder
    from rl_unlearn.models.tokens import TokenLimit
    from rl_unlearn.policy import DiffusionPolicy

    scales = args.scale or [1.0] * len(args.adapter)
    state = None
    if args.adapter:
        state, config = _together([Path(name) for name in args.adapter], scales, args)
    grid = bool(out.suffix) and not out.is_dir()
    make_folder(out.parent if grid else out, "choose another --out")
    for note in TokenLimit(fetched_folder(config.model)).notes(prompts):
        say(console, f"warning: {note}")
    model_folder.check_schedule(fetched_folder(config.model), Schedule.of(config))
    policy = DiffusionPolicy(load_model(config.model), config)
    if state is not None:
        policy.load_adapter(state)
    with console.status("drawing"), policy.adapter_enabled(state is not None):
        texts = [prompt for prompt in prompts for _ in seeds]
        batch, schedule = config.evaluation.batch, Schedule.of(config)
        images = policy.generate(texts, seeds * len(prompts), batch, schedule)
        drawn = [pictures.to_image(pixels) for pixels in images]
    if grid:
        rows = [drawn[i : i + len(seeds)] for i in range(0, len(drawn), len(seeds))]
        write_bytes(
            out, pictures.to_png(pictures.grid(rows, prompts, [f"seed {seed}" for seed in seeds]))
        )
        files = [out]
    else:
        files = _separate(out, drawn, len(prompts), seeds)
    say(console, f"{len(texts)} images: {out}")
    return {
        "file": str(out), "files": [str(file) for file in files], "prompts": prompts,
        "seeds": seeds,
        "adapters": [{"adapter": name, "scale": scale} for name,
                     scale in zip(args.adapter, scales, strict=True)],
    }  # fmt: skip


def _together(
    adapters: list[Path], scales: list[float], args: Namespace
) -> tuple["AdapterState", Config]:
    """Returns the adapters as one, and the first one's configuration made to fit it."""
    from rl_unlearn.adapters.adapter import read_adapter
    from rl_unlearn.adapters.adapter_file import locate
    from rl_unlearn.adapters.combining import combine

    states = [read_adapter(path) for path in adapters]
    configs = [
        common.run_config(path, args.overrides, only_drawn=True, files=args.config)
        for path in adapters
    ]
    models = {
        (m.path, m.config, m.revision, m.variant) for m in (config.model for config in configs)
    }
    if len(models) > 1:
        names = ", ".join(sorted(path for path, *_ in models))
        raise ConfigError(
            f"the adapters belong to different models: {names}; draw with those of one model"
        )
    rank, kinds = (
        sum(config.lora.rank for config in configs),
        {config.lora.layers for config in configs},
    )
    if rank > MAX_RANK:
        raise ConfigError(
            f"the adapters' ranks add up to {rank}: {MAX_RANK} at most; use fewer adapters"
        )
    given = {locate(path).resolve() for path in adapters}
    below = dict.fromkeys(
        below for config in configs for below in config.model.adapters
    )  # what was fused, each once
    fused = tuple(path for path in below if locate(path).resolve() not in given)
    model = configs[0].model.model_copy(update={"adapters": fused})
    lora = {"rank": rank, "layers": kinds.pop() if len(kinds) == 1 else "attention"}
    update = {"lora": configs[0].lora.model_copy(update=lora), "model": model}
    return combine(states, scales), configs[0].model_copy(update=update)


def _separate(folder: Path, drawn: list["Image"], prompts: int, seeds: list[int]) -> list[Path]:
    """Writes one PNG an image, named by prompt number and seed."""
    from experiments.evaluation import pictures

    digits = len(str(prompts))
    names = [f"prompt{i + 1:0{digits}d}-seed{seed}.png" for i in range(prompts) for seed in seeds]
    for name, image in zip(names, drawn, strict=True):
        write_bytes(folder / name, pictures.to_png(image))
    return [folder / name for name in names]


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -MAX_SCALE <= value <= MAX_SCALE:  # nan is no number either
        raise ArgumentTypeError(f"{text!r} is not from {-MAX_SCALE:g} to {MAX_SCALE:g}")
    return value


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or any(not 0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(
            f"--seeds {text}: must be whole numbers with commas between, such as 0,1,2"
        )
    return seeds
