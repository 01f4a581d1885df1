"""`generate`: images of a model, with or without an adapter."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import settings
from experiments.files import write_bytes
from experiments.verbs import common
from rl_unlearn.errors import ConfigError

HELP = "draw images with or without an adapter"
MAX_PICTURES = 400


def add_arguments(parser: ArgumentParser) -> None:
    """What `generate` takes."""
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="what to draw; may be repeated")
    parser.add_argument("--prompts", metavar="FILE", help="prompt list, one a line")
    parser.add_argument("--adapter", metavar="DIR", help="run folder, adapter folder or .safetensors file")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="strength of the adapter (default 1)")
    parser.add_argument("--seeds", default="0", metavar="N,N", help="one image a prompt for each seed (default 0)")
    parser.add_argument("--out", default="images.png", metavar="FILE", help="one PNG grid (default images.png)")
    common.add_config(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Draw a grid: a row for each prompt, a column for each seed."""
    out, seeds = Path(args.out), _seeds(args.seeds)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {args.out}: must end in .png")
    if not args.prompt and not args.prompts:
        raise ConfigError("nothing to draw: give --prompt TEXT or --prompts FILE")
    config = settings.load(args.config, args.overrides)
    from rl_unlearn.prompts import MAX_PROMPT_CHARACTERS, read_prompts

    for prompt in args.prompt:
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ConfigError(f"--prompt has {len(prompt)} characters: {MAX_PROMPT_CHARACTERS} at most")
    prompts = args.prompt + (read_prompts(args.prompts) if args.prompts else [])
    if len(prompts) * len(seeds) > MAX_PICTURES:
        raise ConfigError(
            f"{len(prompts)} prompts x {len(seeds)} seeds: one picture holds {MAX_PICTURES} images; ask for fewer"
        )
    from experiments import pictures
    from experiments.models import load_model
    from rl_unlearn.adapter import read_adapter
    from rl_unlearn.policy import DiffusionPolicy

    if args.adapter:
        state = read_adapter(args.adapter)
        config = common.run_config(Path(args.adapter), args.overrides)
    policy = DiffusionPolicy(load_model(config.model), config)
    if args.adapter:
        policy.load_adapter(state, args.scale)
    with console.status("drawing"), policy.adapter_enabled(bool(args.adapter)):
        texts = [prompt for prompt in prompts for _ in seeds]
        drawn = iter(policy.generate(texts, seeds * len(prompts), config.evaluation.batch))
    rows = [[pictures.to_image(next(drawn)) for _ in seeds] for _ in prompts]
    write_bytes(out, pictures.to_png(pictures.grid(rows, prompts, [f"seed {seed}" for seed in seeds])))
    console.print(f"{len(texts)} images: {out}", soft_wrap=True, highlight=False, markup=False)
    return {"file": str(out), "prompts": prompts, "seeds": seeds, "adapter": args.adapter, "scale": args.scale}


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or any(not 0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds {text}: must be whole numbers with commas between, such as 0,1,2")
    return seeds
