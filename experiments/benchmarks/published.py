"""What the makers of some models publish of the sizes of their parts.

Stable Diffusion 1.5 (Rombach et al. 2022, arXiv 2112.10752) and XL (Podell et al. 2023, arXiv
2307.01952), Stable Diffusion 3.5 medium (Esser et al. 2024, arXiv 2403.03206), FLUX.1-dev (Black
Forest Labs 2024).
"""

from dataclasses import dataclass
from typing import Any

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
    "projection_dim": 1280, "hidden_act": "gelu",
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


@dataclass(frozen=True)
class Published:
    """One model."""

    pipeline: str
    """Its class."""
    pixels: int
    """Height and width of its images."""
    parts: dict[str, dict[str, Any]]
    """Configurations by the name of the component."""


MODELS = {
    "sd15": Published("StableDiffusionPipeline", 512, {
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
    "sdxl": Published("StableDiffusionXLPipeline", 1024, {
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
        "vae": _vae(4, 0.13025, force_upcast=True), "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G, "scheduler": _DDIM,
    }),
    "sd35_medium": Published("StableDiffusion3Pipeline", 512, {
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
    "flux_dev": Published("FluxPipeline", 512, {
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
