"""Stage `distill`: a student that predicts at once what its teacher predicts with guidance.

Sampling then needs one forward pass a step instead of two. Teacher and student start as the trained
UNet; the text encoder stays as it is. Null prompts keep the teacher's unguided prediction, so that
guidance still works.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from experiments.canvas.diffusion import (
    BATCH,
    SAVE_EVERY,
    Checkpoint,
    Latents,
    average_gradients,
    averaged,
    drop_words,
    export,
    join,
    scheduler,
)
from experiments.canvas.sampling import NULL
from experiments.canvas.sampling import STEPS as SAMPLER_STEPS
from experiments.canvas.training import Curve, RunningAverage, cosine

SEED = 51
STEPS = 1500
PEAK = 5e-4
GUIDANCE = 2.0
ON_SCHEDULE = 0.7
"""Share of training steps drawn from the ten that the default sampler visits; the rest is
uniform."""


def train(rank: int, processes: int, work: Path, weights: Path) -> None:
    """One process of the distillation."""
    join(rank, processes, work, "distill")
    torch.manual_seed(SEED)
    teacher, model = averaged(work).requires_grad_(False), averaged(work)
    model.text_encoder.requires_grad_(False)
    average = RunningAverage(model, 0.998)
    parameters = list(model.unet.parameters())
    optimizer = torch.optim.AdamW(parameters, PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    curve = Curve(weights / "curves" / "distill.json")
    generator = torch.Generator().manual_seed(SEED + rank)
    data = Latents(work, generator)
    sampler = scheduler()
    sampler.set_timesteps(SAMPLER_STEPS)
    text = teacher.text(torch.arange(NULL + 1))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * cosine(step, STEPS)
        clean, concepts = data.clean(BATCH // processes)
        count = len(clean)
        visited = sampler.timesteps[torch.randint(SAMPLER_STEPS, (count,), generator=generator)]
        anywhere = torch.randint(1000, (count,), generator=generator)
        steps = torch.where(torch.rand(count, generator=generator) < ON_SCHEDULE, visited, anywhere)
        noisy, _ = data.noisy(clean, steps)
        prompts = drop_words(concepts, generator)
        guided = prompts != NULL
        with torch.no_grad():
            towards = teacher.unet(noisy, steps, text[prompts]).sample
            base = teacher.unet(
                noisy[guided], steps[guided], text[NULL].expand(int(guided.sum()), -1, -1)
            ).sample
            target = towards.clone()
            target[guided] = base + GUIDANCE * (towards[guided] - base)
        loss = (model.unet(noisy, steps, text[prompts]).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if rank == 0:
            average.update(model)
            curve.add(step, loss=loss.detach())
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == STEPS:
                Checkpoint(work / "distill.safetensors").save(step + 1, model, average, optimizer)
    if processes > 1:
        dist.destroy_process_group()


def build(work: Path, weights: Path, processes: int = 2) -> None:
    """Distil, and export the pipeline with the student."""
    (work / "distill.rendezvous").unlink(missing_ok=True)
    if processes > 1:
        torch.multiprocessing.spawn(train, (processes, work, weights), nprocs=processes)
    else:
        train(0, 1, work, weights)
    export(work, weights, averaged(work, "distill"))
