"""Folders of Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952), its base model."""

from rl_unlearn.layouts import networks, schedulers, stable_diffusion, variance_preserving
from rl_unlearn.layouts.layout import Layout, Parts, check_words


def _check(parts: Parts) -> None:
    stable_diffusion.check_unet(parts)
    encoders = parts["text_encoder"], parts["text_encoder_2"]
    check_words(
        sum(encoder.get("hidden_size", 512) for encoder in encoders),
        parts["unet"].get("cross_attention_dim", 1280),
        "text encoders together",
    )


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    pooled = parts["text_encoder_2"].get("projection_dim", 512)
    return {"text": stable_diffusion.words(parts), "pooled": (pooled,), "size": (6,)}


LAYOUT = Layout(
    pipeline="StableDiffusionXLPipeline",
    trained="unet",
    networks={
        "unet": networks.UNET,
        "vae": networks.VAE,
        "text_encoder": networks.CLIP_TEXT,
        "text_encoder_2": networks.CLIP_PROJECTED,
    },
    tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
    latent=stable_diffusion.latent,
    reads=stable_diffusion.reads,
    told=_told,
    check=_check,
    notes=variance_preserving.notes,
    schedulers=schedulers.VARIANCE_PRESERVING,
    architecture=lambda _parts: ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    single_file=True,
    kohya="counted",
)
