"""The network of the stages `unet` and `distill`, the prompts that it is told, and its noise."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.canvas import vocabulary
from experiments.canvas.data import CONCEPTS
from rl_unlearn.canvas import OBJECTS, STYLES, caption

PROMPTS = (
    [caption(o, s) for o in OBJECTS for s in STYLES]
    + [caption(object=o) for o in OBJECTS]
    + [caption(style=s) for s in STYLES]
    + [""]
)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )


class Denoiser(nn.Module):
    """Text encoder and UNet as one module: noisy latents, steps and prompt ids -> predicted v."""

    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        tokenizer = vocabulary.tokenizer()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=256,
                projection_dim=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=vocabulary.CONTEXT,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(48, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=32,
            norm_num_groups=16,
        )
        self.register_buffer("tokens", prompt_tokens(tokenizer), persistent=False)
        with torch.no_grad():  # letters, which no caption uses, say nothing
            rows = self.text_encoder.get_input_embeddings().weight
            unused = torch.ones(len(rows), dtype=torch.bool)
            unused[vocabulary.word_ids(tokenizer)] = False
            rows[unused] = 0.0

    def text(self, prompts: Tensor) -> Tensor:
        """Hidden states (B, 12, 64) of prompts given as indices into PROMPTS; equal prompts are
        encoded once.
        """
        unique, inverse = prompts.unique(return_inverse=True)
        states: Tensor = self.text_encoder(self.tokens[unique]).last_hidden_state
        return states[inverse]

    def forward(self, noisy: Tensor, steps: Tensor, prompts: Tensor) -> Tensor:
        predicted: Tensor = self.unet(noisy, steps, self.text(prompts)).sample
        return predicted


def prompt_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids of PROMPTS, (189, 12)."""
    ids: Tensor = tokenizer(
        PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def drop_words(concepts: Tensor, generator: torch.Generator) -> Tensor:
    """Prompt of each image as index into PROMPTS: 80 % full, 5 % object only, 5 % style only, 10 %
    null.
    """
    draw = torch.rand(len(concepts), generator=generator)
    prompts = torch.where(draw < 0.90, concepts, len(PROMPTS) - 1)
    prompts = torch.where(
        draw < 0.85, prompts, torch.where(draw < 0.90, CONCEPTS + concepts // len(STYLES), prompts)
    )
    by_style = CONCEPTS + len(OBJECTS) + concepts % len(STYLES)
    return torch.where((draw >= 0.80) & (draw < 0.85), by_style, prompts)


def averaged(work: Path, name: str = "unet") -> Denoiser:
    """The running average of a checkpoint, as a model."""
    model = Denoiser()
    with safe_open(work / f"{name}.safetensors", "pt") as file:
        names = [n for n in file.keys() if n.startswith("average.")]  # noqa: SIM118
        model.load_state_dict({n.removeprefix("average."): file.get_tensor(n) for n in names})
    return model.eval()
