"""Stage `measure`: the shipped files, loaded as a user loads them, judged on seeds that no stage
has seen.
"""

import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from experiments.canvas import traits
from experiments.canvas.autoencoder import decode, encode
from experiments.canvas.clip import CAPTIONS, zero_shot
from experiments.canvas.data import CONCEPTS, to_bytes
from experiments.canvas.sampling import ETA, GUIDANCE, STEPS
from rl_unlearn.canvas import (
    OBJECTS,
    STYLES,
    WITH_TRAITS,
    Head,
    TraitRole,
    caption,
    clip_path,
    pipeline_path,
    sprites_path,
)
from rl_unlearn.canvas.clip import load_clip
from rl_unlearn.canvas.judges import load_judge
from rl_unlearn.canvas.render import render

SEED = 91
PER_CONCEPT = 24


def load_pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_path())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, guidance: float = GUIDANCE
) -> Tensor:
    """Images (N, 3, 32, 32) in [0, 1] of the default sampler, in batches of 80."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(prompts), 80):
        made = pipeline(
            prompts[start : start + 80],
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            eta=ETA,
            generator=generator,
            output_type="pt",
        )
        parts.append(made.images)
    return torch.cat(parts)


@torch.no_grad()
def judged(images: Tensor, concepts: Tensor) -> dict[str, object]:
    """Accuracy of both judges, overall and for each object and style, and their mean confidence in
    the label.
    """
    labels = {"object": concepts // len(STYLES), "style": concepts % len(STYLES)}
    result: dict[str, object] = {}
    heads: dict[Head, tuple[str, ...]] = {"object": OBJECTS, "style": STYLES}
    for head, names in heads.items():
        logits = torch.cat([load_judge(head)(chunk) for chunk in images.split(256)])
        hits = (logits.argmax(1) == labels[head]).float()
        sure = logits.softmax(1).gather(1, labels[head][:, None])
        result[head] = round(hits.mean().item(), 4)
        result[f"{head}_confidence"] = round(sure.mean().item(), 4)
        result[f"by_{head}"] = {
            name: round(hits[labels[head] == i].mean().item(), 4) for i, name in enumerate(names)
        }
    return result


@torch.no_grad()
def of_traits(pipeline: StableDiffusionPipeline, images: int) -> dict[str, object]:
    """Accuracy of the three networks on unseen renders and reconstructions, by trait; and of
    generated images, which have no label, the share that has it by the network that judges, and on
    how many the one that rewards agrees with it.
    """
    roles: tuple[TraitRole, ...] = ("reward", "selection", "judge")
    real, _, labels = traits.examples("test", images, SEED)
    prompts = [caption(name, style) for name in WITH_TRAITS for style in STYLES] * images
    made = to_bytes(generate(pipeline, prompts, SEED))
    seen = {role: traits.seen(role, made) for role in roles}
    return {
        "renders": {role: traits.accuracies(role, real, labels) for role in roles},
        "reconstructions": {
            role: traits.accuracies(role, traits.reconstructed(real), labels) for role in roles
        },
        "generated_share": traits.by_name(seen["judge"]),
        "generated_agreement": traits.by_name(seen["judge"] == seen["reward"]),
    }


def speed(pipeline: StableDiffusionPipeline) -> float:
    """Images a second of one thread with the default sampler, batch 64, decoding included."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    prompts = [caption("cat", "noto")] * 64
    generate(pipeline, prompts, 0)
    start = time.monotonic()
    generate(pipeline, prompts, 1)
    seconds = time.monotonic() - start
    torch.set_num_threads(threads)
    return round(64 / seconds, 1)


def build(weights: Path, per_concept: int = PER_CONCEPT) -> None:
    """Writes `quality.json`."""
    concepts = torch.arange(CONCEPTS).repeat(per_concept)
    real = render(
        concepts // len(STYLES), concepts % len(STYLES), torch.Generator().manual_seed(SEED), "test"
    )
    pipeline = load_pipeline()
    vae: AutoencoderKL = pipeline.vae
    again = decode(vae, encode(vae, real)[0])
    made = generate(pipeline, CAPTIONS[:CONCEPTS] * per_concept, SEED)
    kinds = {"renders": real, "reconstructions": again, "generated": made}
    clips = {}
    for name in ("reward", "selection"):
        model, tokenizer = load_clip(clip_path(name))
        tokens = tokenizer(CAPTIONS)
        clips[name] = {
            kind: zero_shot(model, tokens, images, concepts) for kind, images in kinds.items()
        }
    quality = {
        "images_per_concept": per_concept,
        "sampler": {"scheduler": "DDIM", "steps": STEPS, "eta": ETA, "guidance": GUIDANCE},
        "judges": {kind: judged(images, concepts) for kind, images in kinds.items()},
        "clip_zero_shot": clips,
        "traits": of_traits(pipeline, per_concept),
        "images_a_second_one_thread": speed(pipeline),
        "megabytes": round(
            sum(p.stat().st_size for p in sprites_path().parent.rglob("*") if p.is_file()) / 2**20,
            2,
        ),
    }
    (weights / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    print(json.dumps(quality, indent=2))
