"""Fingerprints of networks: whether two of them are the same, whatever they are called."""

import hashlib
from collections.abc import Mapping

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's parameters: the same weights are the same network under any name or folder.

    Names and order of the tensors do not count, and values count in bfloat16, so that a copy stored in half precision
    or by another program is found out.
    """
    rows = []
    for tensor in weights.values():
        if tensor.is_floating_point() and tensor.ndim > 0:
            values = tensor.detach().cpu().bfloat16().contiguous().view(torch.uint8).numpy()
            rows.append(hashlib.sha256(str(tuple(tensor.shape)).encode() + values.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()


def pipeline_digest(pipeline: StableDiffusionPipeline) -> str:
    """SHA-256 over what decides a pipeline's images: names, sums and first values of all weights, and the schedule.

    A sample of each tensor, not all of it: this must be quick on gigabytes, and training changes every value.
    """
    sha = hashlib.sha256(repr(sorted(pipeline.scheduler.config.items(), key=str)).encode())
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        for name, tensor in part.state_dict().items():
            if ".lora_" not in name:
                values = tensor.detach().double()
                sha.update(name.encode())
                sha.update(values.flatten()[:64].cpu().numpy().tobytes())
                sha.update(values.sum().cpu().numpy().tobytes())
    return sha.hexdigest()
