"""The family of a pipeline, and what of it needs no weights: the shape of its latents and its
kernel.
"""

from pathlib import Path

from rl_unlearn.config import Config
from rl_unlearn.families.family import Family
from rl_unlearn.families.flux import Flux
from rl_unlearn.families.flux2 import Flux2
from rl_unlearn.families.qwen_image import QwenImage
from rl_unlearn.families.sana import Sana
from rl_unlearn.families.sd3 import StableDiffusion3
from rl_unlearn.families.sdxl import StableDiffusionXL
from rl_unlearn.families.stable_diffusion import StableDiffusion
from rl_unlearn.families.z_image import ZImage
from rl_unlearn.kernel import Kernel
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import latent_shape, read_layout

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "QwenImagePipeline": QwenImage,
    "Flux2KleinPipeline": Flux2,
    "ZImagePipeline": ZImage,
    "SanaPipeline": Sana,
}
"""By the class of the pipeline; `model_folder.LAYOUTS` has the same keys."""


def family_of(folder: Path) -> type[Family]:
    """Returns the family of a pipeline's folder; raises DataError for an unknown one."""
    return FAMILIES[read_layout(folder).pipeline]


def read_shape_and_kernel(config: Config) -> tuple[tuple[int, int, int], Kernel]:
    """Latent shape (channels, height, width) and kernel of a model, from its configuration files
    alone.
    """
    folder = fetched_folder(config.model)
    family, shape = family_of(folder), latent_shape(folder, config.model)
    scheduler = family.process.read_scheduler(folder)
    return shape, family.process.kernel(scheduler, config.sampler.steps, config.sampler.eta, shape)
