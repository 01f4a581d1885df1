"""Flow matching whose shift depends on the number of steps, too, as FLUX.2's does."""

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from rl_unlearn.families import flow_matching
from rl_unlearn.families.flow_matching import read_scheduler
from rl_unlearn.kernel import Kernel

__all__ = ["kernel", "read_scheduler"]


def kernel(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    eta: float,
    latent_shape: tuple[int, int, int],
) -> Kernel:
    """Returns the steps of a scheduler; how far it shifts them depends on the number of tokens and
    of steps.
    """
    mu = compute_empirical_mu(flow_matching.tokens(latent_shape), steps)
    return flow_matching.shifted(scheduler, steps, eta, mu)
