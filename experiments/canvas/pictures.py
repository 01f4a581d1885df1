"""Stage `pictures`: all 160 concepts as the pipeline draws them, first try, and the training
curves.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.canvas.clip import CAPTIONS
from experiments.canvas.data import CONCEPTS
from experiments.canvas.measure import generate, load_pipeline
from rl_unlearn.canvas import OBJECTS, STYLES

SEED = 101


def concepts(folder: Path) -> None:
    """`canvas.png`: a row a style, a column an object, one image each, not picked."""
    images = generate(load_pipeline(), CAPTIONS[:CONCEPTS], SEED).permute(0, 2, 3, 1).numpy()
    figure, axes = plt.subplots(len(STYLES), len(OBJECTS), figsize=(16, 7))
    for index, image in enumerate(images):
        row, column = index % len(STYLES), index // len(STYLES)
        axis = axes[row, column]
        axis.imshow(image, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
        if row == 0:
            axis.set_title(OBJECTS[column], fontsize=9)
        if column == 0:
            axis.set_ylabel(STYLES[row], fontsize=9, rotation=0, ha="right", va="center")
    figure.subplots_adjust(0.055, 0.01, 0.995, 0.955, 0.05, 0.05)
    figure.savefig(folder / "canvas.png", dpi=100)
    plt.close(figure)


def curves(weights: Path, folder: Path) -> None:
    """`canvas-curves.png`: the recorded loss of every stage."""
    files = sorted((weights / "curves").glob("*.json"))
    columns = 4
    rows = -(-len(files) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(13, 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(files) :]:
        axis.set_visible(False)
    for axis, file in zip(axes.flat, files, strict=False):
        points = json.loads(file.read_text())
        axis.plot([p["step"] for p in points], [p["loss"] for p in points], linewidth=1)
        axis.set_yscale("log")
        axis.set_title(f"{file.stem}  ({points[-1]['seconds'] / 60:.0f} min)", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel("loss", fontsize=8)
        axis.tick_params(labelsize=7, which="both")
    figure.tight_layout()
    figure.savefig(folder / "canvas-curves.png", dpi=90)
    plt.close(figure)


def build(weights: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    concepts(folder)
    curves(weights, folder)
