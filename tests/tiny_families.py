"""Tiny pipelines of random weights in their real layouts, one for each family, saved as their
makers save them.
"""

import functools
from pathlib import Path

import tiny
import tiny_sana
import tiny_z_image
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_flux2 import flux2
from tiny_qwen_image import qwen_image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 16
"""Features of a token of each CLIP."""


def _clip(kind: type, seed: int, **changes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tiny.tokenizer()), "hidden_size": WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": tiny.CONTEXT, "bos_token_id": 188,
        "eos_token_id": 189,
        "pad_token_id": 189, "projection_dim": WIDTH,
    }  # fmt: skip
    return kind(CLIPTextConfig(**settings | changes))


def t5_tokenizer() -> T5TokenizerFast:
    """Every letter is a token."""
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(chr(c), -3.0) for c in range(33, 127)]
    words = Tokenizer(models.Unigram(letters, unk_id=2))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=words, extra_ids=0, model_max_length=512)


def _t5() -> T5EncoderModel:
    torch.manual_seed(3)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False,
        )
    )  # fmt: skip


def _autoencoder(channels: int, **changes: float | bool) -> AutoencoderKL:
    torch.manual_seed(4)
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=channels, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **changes,
    )  # fmt: skip


@functools.cache
def sdxl(layers: int = 1, second: int = WIDTH) -> Path:
    """Stable Diffusion XL: it predicts the noise, and its scheduler is Euler's; two ``layers`` a
    block as it comes.

    ``second``: width of the second text encoder, which is wider than the first as it comes.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=layers, block_out_channels=(8, 16), norm_num_groups=4,
        cross_attention_dim=WIDTH + second, attention_head_dim=(1, 2), use_linear_projection=True,
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(4, scaling_factor=0.13025, force_upcast=True), unet=unet,
        scheduler=scheduler,
        text_encoder=_clip(CLIPTextModel, 1), text_encoder_2=_clip(CLIPTextModelWithProjection, 2,
        hidden_size=second),
        tokenizer=tiny.tokenizer(), tokenizer_2=tiny.tokenizer(), add_watermarker=False,
    )  # fmt: skip
    return _saved(pipeline, f"sdxl-{layers}-{second}")


@functools.cache
def sd3(third: bool = True, dual: bool = True) -> Path:
    """Stable Diffusion 3.5, with the blocks of its medium size or without; ``third``: whether T5
    comes along.
    """
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8, dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        vae=_autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                         use_post_quant_conv=False),
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=_clip(CLIPTextModelWithProjection, 1),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 2),
        text_encoder_3=_t5() if third else None, tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(),
        tokenizer_3=t5_tokenizer() if third else None,
    )  # fmt: skip
    return _saved(pipeline, f"sd3-{third}-{dual}")


@functools.cache
def flux(guided: bool = True) -> Path:
    """FLUX.1-dev; without ``guided`` as schnell, which is not told the scale."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=WIDTH, guidance_embeds=guided,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    pipeline = FluxPipeline(
        vae=_autoencoder(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                         use_post_quant_conv=False),
        transformer=transformer, scheduler=scheduler, text_encoder=_clip(CLIPTextModel, 1),
        text_encoder_2=_t5(),
        tokenizer=tiny.tokenizer(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip
    return _saved(pipeline, f"flux-{guided}")


@functools.cache
def z_image() -> Path:
    """Z-Image, behind the autoencoder of FLUX."""
    vae = _autoencoder(
        16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return _saved(tiny_z_image.pipeline(vae), "z-image")


@functools.cache
def sana() -> Path:
    """Sana, which brings an autoencoder of its own."""
    return _saved(tiny_sana.pipeline(), "sana")


def _saved(pipeline, name: str) -> Path:
    folder = tiny._root() / name
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


FOLDERS = {
    "stable_diffusion": tiny.epsilon_folder, "sdxl": sdxl, "sd3": sd3,
    "sd3 without t5": lambda: sd3(third=False),
    "sd3 plain": lambda: sd3(dual=False), "flux": flux, "qwen_image": qwen_image, "flux2": flux2,
    "z_image": z_image,
    "sana": sana,
}  # fmt: skip
KINDS = ["stable_diffusion", "sdxl", "sd3", "flux", "qwen_image", "flux2", "z_image", "sana"]
"""One of each family."""
SIZE = (16, 16)
"""Pixels that all of them are asked for."""
