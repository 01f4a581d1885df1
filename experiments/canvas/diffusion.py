"""Stage `unet`: text encoder and UNet trained together on latents, by v-prediction."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.canvas import vocabulary
from experiments.canvas.denoiser import Denoiser, averaged, drop_words, scheduler
from experiments.canvas.latents import Latents
from experiments.canvas.parallel import Plan, Training, joined, run_in_processes
from rl_unlearn.files.tensor_file import save_tensors

SEED = 31
STEPS = 5500
BATCH = 128
PEAK = 2e-3


def train(rank: int, processes: int, work: Path, weights: Path) -> None:
    """Trains, or goes on training, in one of several processes."""
    plan = Plan("unet", STEPS, PEAK, warmup=300, decay=0.999)
    with joined(rank, processes, work, plan.name):
        torch.manual_seed(SEED)
        model = Denoiser()
        optimizer = torch.optim.AdamW(
            model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        training = Training(plan, rank, work, weights, model, optimizer)
        first = training.restore()
        generator = torch.Generator().manual_seed(SEED + 1000 * first + rank)
        data = Latents(work, scheduler(), generator)

        def loss() -> Tensor:
            clean, concepts = data.clean(BATCH // processes)
            steps = torch.randint(1000, (len(clean),), generator=generator)
            noisy, target = data.noisy(clean, steps)
            predicted: Tensor = model(noisy, steps, drop_words(concepts, generator))
            return (predicted - target).square().mean()

        training.run(loss, first)


def export(work: Path, weights: Path, model: Denoiser) -> None:
    """Writes the pipeline folder with the current decoder, replacing the former one in one step."""
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
    """Trains, or goes on training, and exports the pipeline."""
    run_in_processes(train, processes, work, weights, "unet")
    export(work, weights, averaged(work))
