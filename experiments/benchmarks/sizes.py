"""What real models cost, counted from their published configurations, without any weights.

    python -m experiments.benchmarks.sizes [NAME ...]

One line for each: parameters of the network that is trained, FLOPs of one pass, what one image and
one branch of the guidance keep for the backward pass with an adapter of rank 16 on the attention
layers, the memory in use at once in forward and backward with checkpointing and without, and the
adapter with its gradient and AdamW's moments. All of it is `train --plan`'s own count, so a line is
right where the plan is.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from experiments.plan import costs, hollow
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook

GIBIBYTE = 2**30
_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 768,
    "model_type": "clip_text_model",
}  # fmt: skip
_CLIP_G = _CLIP_L | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}  # fmt: skip
_T5_XXL = {
    "model_type": "t5", "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def _vae(channels: int, scale: float, **more: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL", "latent_channels": channels, "layers_per_block": 2,
        "scaling_factor": scale,
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "sample_size": 512, **more,
    }  # fmt: skip


_DDIM = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False, "steps_offset": 1, "num_train_timesteps": 1000,
}  # fmt: skip
_FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
_UNQUANTIZED = {"use_quant_conv": False, "use_post_quant_conv": False}

SIZES: dict[str, tuple[str, int, dict[str, dict[str, Any]]]] = {
    "sd15": ("StableDiffusionPipeline", 512, {
        "unet": {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "attention_head_dim": 8, "down_block_types": [_CROSS] * 3 + [_PLAIN],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "vae": _vae(4, 0.18215), "text_encoder": _CLIP_L, "scheduler": _DDIM,
    }),
    "sdxl": ("StableDiffusionXLPipeline", 1024, {
        "unet": {
            "_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2, "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
            "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
            "down_block_types": [_PLAIN, _CROSS, _CROSS],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        },
        "vae": _vae(4, 0.13025), "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G,
        "scheduler": _DDIM,
    }),
    "sd35_medium": ("StableDiffusion3Pipeline", 512, {
        "transformer": {
            "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096, "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)),
            "qk_norm": "rms_norm",
        },
        "vae": _vae(16, 1.5305, shift_factor=0.0609, **_UNQUANTIZED), "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G, "text_encoder_3": _T5_XXL, "scheduler": _FLOW,
    }),
    "flux_dev": ("FluxPipeline", 512, {
        "transformer": {
            "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
            "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
        },
        "vae": _vae(16, 0.3611, shift_factor=0.1159, **_UNQUANTIZED), "text_encoder": _CLIP_L,
        "text_encoder_2": _T5_XXL, "scheduler": _FLOW | {"use_dynamic_shifting": True},
    }),
}  # fmt: skip
"""Pipeline, pixels a side, and what its makers publish of its parts."""
_KINDS = {
    ("StableDiffusionXLPipeline", "text_encoder_2"): "CLIPTextModelWithProjection",
    ("StableDiffusion3Pipeline", "text_encoder"): "CLIPTextModelWithProjection",
    ("StableDiffusion3Pipeline", "text_encoder_2"): "CLIPTextModelWithProjection",
}


def write(name: str, folder: Path) -> None:
    """A pipeline's folder of configurations alone."""
    pipeline, _, parts = SIZES[name]
    index: dict[str, Any] = {"_class_name": pipeline}
    for part, config in parts.items():
        usual = "T5EncoderModel" if config.get("model_type") == "t5" else "CLIPTextModel"
        kind = config.get("_class_name") or _KINDS.get((pipeline, part), usual)
        index[part] = ["diffusers" if "_class_name" in config else "transformers", kind]
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(config), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def count(name: str, folder: Path, **learner: Any) -> tuple[hollow.Hollow, costs.Costs]:
    """The plan's view of a folder that :func:`write` has made."""
    config = Config.model_validate({
        "concept": "cat", "model": {"path": str(folder), "size": SIZES[name][1], "dtype": "bf16"},
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
    for name in arguments.names or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write(name, Path(folder))
            model, plain = count(name, Path(folder), checkpointing="off")
            again = count(name, Path(folder), checkpointing="on")[1]
        adapter = sum(p.numel() for p in model.adapter)
        frozen = sum(p.numel() for p in model.network.parameters()) - adapter
        found = (
            f"{frozen / 1e9:.2f} B", f"{plain.step.forward / 1e12:.2f}",
            f"{plain.step.kept / GIBIBYTE:.2f}",
            f"{plain.step.learning / GIBIBYTE:.2f}", f"{again.step.learning / GIBIBYTE:.2f}",
            f"{16 * adapter / GIBIBYTE:.2f} GiB",
        )  # fmt: skip
        print(f"{name:12}" + "".join(f"{figure:>16}" for figure in found), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[*SIZES, []], metavar="NAME", help="of these alone"
    )
    main(parser.parse_args())
