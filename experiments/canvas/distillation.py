"""Stage `distill`: a student that predicts at once what its teacher predicts with guidance.

Sampling then needs one forward pass a step instead of two. Teacher and student start as the trained
UNet; the text encoder stays as it is. Null prompts keep the teacher's unguided prediction, so that
guidance still works.
"""

from pathlib import Path

import torch
from torch import Tensor

from experiments.canvas.denoiser import averaged, drop_words, scheduler
from experiments.canvas.diffusion import BATCH, export
from experiments.canvas.latents import Latents
from experiments.canvas.parallel import Plan, Training, joined, run_in_processes
from experiments.canvas.sampling import NULL
from experiments.canvas.sampling import STEPS as SAMPLER_STEPS

SEED = 51
STEPS = 1500
PEAK = 5e-4
GUIDANCE = 2.0
ON_SCHEDULE = 0.7
"""Share of training steps drawn from the ten that the default sampler visits; the rest is
uniform."""


def train(rank: int, processes: int, work: Path, weights: Path) -> None:
    """Distils in one of several processes."""
    plan = Plan("distill", STEPS, PEAK, warmup=100, decay=0.998)
    with joined(rank, processes, work, plan.name):
        torch.manual_seed(SEED)
        teacher, student = averaged(work).requires_grad_(False), averaged(work)
        student.text_encoder.requires_grad_(False)
        optimizer = torch.optim.AdamW(
            student.unet.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=0.0
        )
        training = Training(plan, rank, work, weights, student, optimizer)
        generator = torch.Generator().manual_seed(SEED + rank)
        sampler = scheduler()
        data = Latents(work, sampler, generator)
        sampler.set_timesteps(SAMPLER_STEPS)
        text = teacher.text(torch.arange(NULL + 1))

        def draw_steps(count: int) -> Tensor:
            visited = sampler.timesteps[torch.randint(SAMPLER_STEPS, (count,), generator=generator)]
            anywhere = torch.randint(1000, (count,), generator=generator)
            on_schedule = torch.rand(count, generator=generator) < ON_SCHEDULE
            return torch.where(on_schedule, visited, anywhere)

        @torch.no_grad()
        def teach(noisy: Tensor, steps: Tensor, prompts: Tensor) -> Tensor:
            guided = prompts != NULL
            towards: Tensor = teacher.unet(noisy, steps, text[prompts]).sample
            base = teacher.unet(
                noisy[guided], steps[guided], text[NULL].expand(int(guided.sum()), -1, -1)
            ).sample
            target = towards.clone()
            target[guided] = base + GUIDANCE * (towards[guided] - base)
            return target

        def loss() -> Tensor:
            clean, concepts = data.clean(BATCH // processes)
            steps = draw_steps(len(clean))
            noisy, _ = data.noisy(clean, steps)
            prompts = drop_words(concepts, generator)
            predicted: Tensor = student.unet(noisy, steps, text[prompts]).sample
            return (predicted - teach(noisy, steps, prompts)).square().mean()

        training.run(loss)


def build(work: Path, weights: Path, processes: int = 2) -> None:
    """Distils, and exports the pipeline with the student."""
    run_in_processes(train, processes, work, weights, "distill")
    export(work, weights, averaged(work, "distill"))
