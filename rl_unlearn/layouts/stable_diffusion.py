"""Folders of Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752)."""

from rl_unlearn.errors import DataError
from rl_unlearn.layouts import networks, schedulers, variance_preserving
from rl_unlearn.layouts.layout import (
    Layout,
    Parts,
    check_autoencoder,
    check_words,
    image_latent,
)


def latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Returns the UNet's latent shape; it halves latents once a block but for the last."""
    unet = parts["unet"]
    halvings = len(unet.get("block_out_channels", (320, 640, 1280, 1280))) - 1
    return image_latent(
        parts, size, unet.get("in_channels", 4), unet.get("sample_size"), 2**halvings
    )


def check_unet(parts: Parts) -> None:
    """Raises DataError for a UNet of another kind of model."""
    check_autoencoder(parts, parts["unet"].get("in_channels", 4))
    if parts["unet"].get("time_cond_proj_dim") is not None:
        raise DataError(
            "the model's unet is told the guidance scale (a latent consistency model): it cannot "
            "be trained"
        )


def _check(parts: Parts) -> None:
    check_unet(parts)
    check_words(
        parts["text_encoder"].get("hidden_size", 512),
        parts["unet"].get("cross_attention_dim", 1280),
    )


def reads(parts: Parts) -> tuple[str, int]:
    """CLIP's tokens."""
    return "tokenizer", parts["text_encoder"].get("max_position_embeddings", 77)


def words(parts: Parts) -> tuple[int, int]:
    """Shape of the words that the UNet reads."""
    return reads(parts)[1], parts["unet"].get("cross_attention_dim", 1280)


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    return {"text": words(parts)}


def _architecture(parts: Parts) -> tuple[str, str]:
    predicts_v = parts["scheduler"].get("prediction_type") == "v_prediction"
    if (
        parts["unet"].get("cross_attention_dim") == 1024
    ):  # the text encoder that came with the second version
        return (
            ("stable-diffusion-v2-768-v", "sd_v2_v")
            if predicts_v
            else ("stable-diffusion-v2-512", "sd_v2")
        )
    return "stable-diffusion-v1", "sd_v1_v" if predicts_v else "sd_v1"


LAYOUT = Layout(
    pipeline="StableDiffusionPipeline",
    trained="unet",
    networks={
        "unet": networks.UNET,
        "vae": networks.VAE,
        "text_encoder": networks.CLIP_TEXT,
    },
    tokenizers={"tokenizer": "CLIPTokenizer"},
    latent=latent,
    reads=reads,
    told=_told,
    check=_check,
    notes=variance_preserving.notes,
    schedulers=schedulers.VARIANCE_PRESERVING,
    architecture=_architecture,
    one_vocabulary=True,
    single_file=True,
    kohya="plain",
)
