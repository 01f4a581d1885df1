"""The kernel of models that were trained by flow matching: noise is mixed in along a straight line."""

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.kernel import Kernel


def kernel(sigmas: Float[Tensor, " levels"], eta: float) -> Kernel:
    """Steps between shares of noise that fall from 1, or a little less, to 0; networks answer noise less x0.

    At an eta of 1 a step is the exact posterior, and at 0 it would be Euler's. The stochastic samplers that are common
    for these models (Liu et al. 2025, arXiv 2505.05470) leave several times the texture of the data as noise at few
    steps, and the critic's gradients have the right size at every step under the posterior alone.
    """
    sigmas = sigmas.to("cpu", torch.float64)
    start, end = sigmas[:-1], sigmas[1:]
    ones = torch.ones_like(start)
    return Kernel((1000 * start).float(), 1 - start, start, 1 - end, end, -ones, ones, eta)
