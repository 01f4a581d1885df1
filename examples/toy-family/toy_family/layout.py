"""Folders of Toy, which hold what Stable Diffusion's do; told without torch."""

from dataclasses import replace

from rl_unlearn.layouts import stable_diffusion

LAYOUT = replace(
    stable_diffusion.LAYOUT,
    pipeline="ToyPipeline",
    architecture=lambda _parts: ("toy", "toy"),
)
