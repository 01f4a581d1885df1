"""Fingerprints of networks: whether two of them are the same, whatever they are called."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's parameters: the same weights are the same network under any name or
    folder.

    Names and order of the tensors do not count, and values count in bfloat16, so that a copy stored
    in half precision or by another program is found out.
    """
    rows = []
    for tensor in weights.values():
        if tensor.is_floating_point() and tensor.ndim > 0:
            values = tensor.detach().cpu().bfloat16().contiguous().view(torch.uint8).numpy()
            rows.append(
                hashlib.sha256(str(tuple(tensor.shape)).encode() + values.tobytes()).hexdigest()
            )
    return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()
