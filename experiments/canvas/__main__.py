"""`python -m experiments.canvas [stage ...] --work DIR`: make the canvas again, stage by stage.

A stage reads what the former ones left in the work folder and in the weights folder; without names
all of them run in order. What takes long goes on from its files when started again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from experiments.extras import EXTRAS, installed

STAGES = (
    "sprites",
    "autoencoder",
    "judges",
    "panel",
    "traits",
    "latents",
    "clip",
    "unet",
    "distill",
    "clip-robust",
    "measure",
    "pictures",
)


def stages(
    work: Path, weights: Path, pictures: Path, processes: int
) -> dict[str, Callable[[], None]]:
    """Returns what each stage does; the heavy imports happen here, after the arguments are read."""
    from experiments.canvas import (
        autoencoder,
        clip,
        diffusion,
        distillation,
        generated,
        judges,
        latents,
        measure,
        robust,
        traits,
    )
    from rl_unlearn.canvas import PANEL

    def make_sprites() -> None:  # needs resvg_py and npm, which no other stage does
        if not installed("resvg_py"):
            raise SystemExit(f"error: stage sprites: no resvg_py; {EXTRAS['resvg_py'].remedy}")
        from experiments.canvas import sprites

        sprites.build(work, weights)

    def clip_robust() -> None:
        generated.build(work)
        robust.build("reward", work, weights)
        robust.build("selection", work, weights)

    def both_judges() -> None:
        for head in judges.HEADS:
            judges.build(head, work)

    def panel() -> None:
        for member in PANEL:
            for head in judges.HEADS:
                judges.build(head, work, member)

    def all_traits() -> None:
        for role in traits.SEEDS:
            traits.build(role, work)

    def both_clips() -> None:
        clip.build("reward", work, weights)
        clip.build("selection", work, weights)

    def draw_pictures() -> None:
        from experiments.canvas import pictures as drawing

        drawing.build(weights, pictures)

    return {
        "sprites": make_sprites,
        "autoencoder": lambda: autoencoder.build(work, weights),
        "judges": both_judges,
        "panel": panel,
        "traits": all_traits,
        "latents": lambda: latents.build(work),
        "clip": both_clips,
        "unet": lambda: diffusion.build(work, weights, processes),
        "distill": lambda: distillation.build(work, weights, processes),
        "clip-robust": clip_robust,
        "measure": lambda: measure.build(weights),
        "pictures": draw_pictures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.canvas", description=__doc__)
    parser.add_argument(
        "stage", nargs="*", help=f"one of {', '.join(STAGES)}; all of them by default"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for packages, pools and checkpoints (4 GB)"
    )
    parser.add_argument(
        "--pictures", type=Path, default=Path("docs/pictures"), help="folder of the pictures"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="processes of the UNet's training, a core each"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.stage if name not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")

    import torch

    from rl_unlearn.canvas import sprites_path

    torch.set_num_threads(1)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    made = stages(work, sprites_path().parent, arguments.pictures, arguments.processes)
    for name in arguments.stage or STAGES:
        print(f"stage {name}", flush=True)
        made[name]()


if __name__ == "__main__":
    main()
