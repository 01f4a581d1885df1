"""What real models cost, counted from their published configurations, without any weights.

    python -m experiments.benchmarks.sizes [NAME ...]

One line for each: parameters of the network that is trained, FLOPs of one pass, what one image and
one branch of the guidance keep for the backward pass with an adapter of rank 16 on the attention
layers, the memory in use at once in forward and backward with checkpointing and without, and the
adapter with its copy, its gradient and AdamW's moments. All of it is `train --plan`'s own count, so
a line is right where the plan is.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.published import MODELS
from experiments.plan import costs, hollow
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook

GIBIBYTE = 2**30
_KINDS = {
    ("StableDiffusionXLPipeline", "text_encoder_2"): "CLIPTextModelWithProjection",
    ("StableDiffusion3Pipeline", "text_encoder"): "CLIPTextModelWithProjection",
    ("StableDiffusion3Pipeline", "text_encoder_2"): "CLIPTextModelWithProjection",
}


def write(name: str, folder: Path) -> None:
    """Writes a pipeline's folder of configurations alone."""
    model = MODELS[name]
    index: dict[str, Any] = {"_class_name": model.pipeline}
    for part, config in model.parts.items():
        usual = "T5EncoderModel" if config.get("model_type") == "t5" else "CLIPTextModel"
        kind = config.get("_class_name") or _KINDS.get((model.pipeline, part), usual)
        index[part] = ["diffusers" if "_class_name" in config else "transformers", kind]
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(config), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def count(name: str, folder: Path, **learner: Any) -> tuple[hollow.Hollow, costs.Costs]:
    """Returns the plan's view of a folder that :func:`write` has made."""
    config = Config.model_validate({
        "concept": "cat",
        "model": {"path": str(folder), "size": MODELS[name].pixels, "dtype": "bf16"},
        "lora": {"rank": 16, "layers": "attention"}, "sampler": {"steps": 10, "guidance": 3.5},
        "learner": learner,
    })  # fmt: skip
    model = hollow.build(config, "cuda")
    return model, costs.of(config, PromptBook.from_config(config), model)


def main(arguments: argparse.Namespace) -> None:
    """Prints a line for each model as soon as it is counted."""
    columns = (
        "parameters",
        "TFLOP a pass",
        "GiB kept",
        "GiB at once",
        "checkpointed",
        "adapter, AdamW",
    )
    print(f"{'':12}" + "".join(f"{column:>16}" for column in columns))
    for name in arguments.names or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            write(name, Path(folder))
            model, plain = count(name, Path(folder), checkpointing="off")
            again = count(name, Path(folder), checkpointing="on")[1]
        adapter = sum(p.numel() for p in model.adapter)
        frozen = sum(p.numel() for p in model.network.parameters()) - adapter
        figures = (
            f"{frozen / 1e9:.2f} B", f"{plain.step.forward / 1e12:.2f}",
            f"{plain.step.kept / GIBIBYTE:.2f}",
            f"{plain.step.learning / GIBIBYTE:.2f}", f"{again.step.learning / GIBIBYTE:.2f}",
            f"{(16 + model.dtype.itemsize) * adapter / GIBIBYTE:.2f} GiB",
        )  # fmt: skip
        print(f"{name:12}" + "".join(f"{figure:>16}" for figure in figures), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[*MODELS, []], metavar="NAME", help="of these alone"
    )
    main(parser.parse_args())
