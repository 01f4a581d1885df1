"""Stage `unet`: text encoder and UNet trained together on latents, by v-prediction with data
parallelism.

Two processes of one thread each are faster on two cores than one process of two threads.
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.canvas import latents, vocabulary
from experiments.canvas.data import CONCEPTS
from experiments.canvas.training import Curve, RunningAverage, cosine
from rl_unlearn.canvas import OBJECTS, STYLES, caption
from rl_unlearn.files.tensor_file import save_tensors

SEED = 31
STEPS = 5500
BATCH = 128
PEAK = 2e-3
SAVE_EVERY = 100

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
        return self.text_encoder(self.tokens[unique]).last_hidden_state[inverse]

    def forward(self, noisy: Tensor, steps: Tensor, prompts: Tensor) -> Tensor:
        return self.unet(noisy, steps, self.text(prompts)).sample


def prompt_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids of PROMPTS, (189, 12)."""
    return tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids


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


class Latents:
    """Noisy training latents, drawn from the shards of the work folder."""

    def __init__(self, work: Path, generator: torch.Generator) -> None:
        self.mean, self.deviation, self.concepts = latents.load(work)
        self.signal = scheduler().alphas_cumprod
        self.generator = generator

    def clean(self, count: int) -> tuple[Tensor, Tensor]:
        """Latents (B, 4, 8, 8) of unit deviation, and their concepts (B,)."""
        index = torch.randint(len(self.concepts), (count,), generator=self.generator)
        eps = torch.randn(count, *self.mean.shape[1:], generator=self.generator)
        return self.mean[index].float() + self.deviation[index].float() * eps, self.concepts[index]

    def noisy(self, clean: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and v of clean latents at steps (B,)."""
        alpha = self.signal[steps].sqrt()[:, None, None, None]
        sigma = (1 - self.signal[steps]).sqrt()[:, None, None, None]
        noise = torch.randn(clean.shape, generator=self.generator)
        return alpha * clean + sigma * noise, alpha * noise - sigma * clean


class Checkpoint:
    """Model, running average and optimizer moments in one safetensors file; the step is in its
    metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self, step: int, model: nn.Module, average: RunningAverage, optimizer: torch.optim.Optimizer
    ) -> None:
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in average.state.items()}
        for name, parameter in model.named_parameters():
            state = optimizer.state[parameter]
            if not state:  # frozen
                continue
            tensors |= {
                f"moment{i}.{name}": state[key] for i, key in enumerate(("exp_avg", "exp_avg_sq"))
            }
        partial = self.path.with_suffix(".partial")
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            partial,
            {"step": str(step)},
        )
        partial.rename(self.path)

    def restore(
        self, model: nn.Module, average: RunningAverage, optimizer: torch.optim.Optimizer
    ) -> int:
        """Load in place, if there is a file; returns the next step."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        def part(kind: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)}

        model.load_state_dict(part("model."))
        average.state, average.steps = part("average."), step
        first, second = part("moment0."), part("moment1.")
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }
        return step


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, in place."""
    if dist.is_initialized():
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        )
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


def join(rank: int, processes: int, work: Path, name: str) -> None:
    """Enter the process group of `processes` peers, one thread each."""
    torch.set_num_threads(1)
    if processes > 1:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(
                0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]}
            )
        dist.init_process_group(
            "gloo", f"file://{work}/{name}.rendezvous", rank=rank, world_size=processes
        )


def train(rank: int, processes: int, work: Path, weights: Path) -> None:
    """One process of the training; the first one keeps the average and the files."""
    join(rank, processes, work, "unet")
    torch.manual_seed(SEED)
    model = Denoiser()
    average = RunningAverage(model, 0.999)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    checkpoint = Checkpoint(work / "unet.safetensors")
    first = checkpoint.restore(model, average, optimizer)
    generator = torch.Generator().manual_seed(SEED + 1000 * first + rank)
    data = Latents(work, generator)
    curve = Curve(weights / "curves" / "unet.json", every=50)
    curve.resume(first)
    parameters = list(model.parameters())
    for step in range(first, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * cosine(step, STEPS, warmup=300)
        clean, concepts = data.clean(BATCH // processes)
        steps = torch.randint(1000, (len(clean),), generator=generator)
        noisy, target = data.noisy(clean, steps)
        loss = (model(noisy, steps, drop_words(concepts, generator)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if rank == 0:
            average.update(model)
            curve.add(step, loss=loss.detach())
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == STEPS:
                checkpoint.save(step + 1, model, average, optimizer)
    if processes > 1:
        dist.destroy_process_group()


def averaged(work: Path, name: str = "unet") -> Denoiser:
    """The running average of a checkpoint, as a model."""
    model = Denoiser()
    with safe_open(work / f"{name}.safetensors", "pt") as file:
        names = [n for n in file.keys() if n.startswith("average.")]  # noqa: SIM118
        model.load_state_dict({n.removeprefix("average."): file.get_tensor(n) for n in names})
    return model.eval()


def export(work: Path, weights: Path, model: Denoiser) -> None:
    """Write the pipeline folder with the current decoder, replacing the former one in one step."""
    vae = AutoencoderKL.from_pretrained(work / ("vae" if (work / "vae").exists() else "vae-joint"))
    fresh, folder, old = weights / "pipeline.fresh", weights / "pipeline", work / "pipeline.old"
    vocabulary.save(work / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=model.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh)
    _name_as_ever(fresh / "text_encoder" / "model.safetensors")
    vocabulary.save(fresh / "tokenizer")
    for path in fresh.rglob("*config.json"):  # leave no trace of the machine that built it
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    if folder.exists():
        folder.rename(work / f"{old.name}-{len(list(work.glob('pipeline.old*')))}")
    fresh.rename(folder)


def _name_as_ever(file: Path) -> None:
    """Writes `text_model.` before the names of the text encoder's weights: transformers 4 knows
    them only so.
    """
    plain = {name.removeprefix("text_model."): tensor for name, tensor in load_file(file).items()}
    save_tensors(
        {f"text_model.{name}": tensor for name, tensor in plain.items()}, file, {"format": "pt"}
    )


def build(work: Path, weights: Path, processes: int = 2) -> None:
    """Train, or go on training, and export the pipeline."""
    (work / "unet.rendezvous").unlink(missing_ok=True)
    if processes > 1:
        torch.multiprocessing.spawn(train, (processes, work, weights), nprocs=processes)
    else:
        train(0, 1, work, weights)
    export(work, weights, averaged(work))
