"""The family of a pipeline, and what of it needs no weights: the shape of its latents and its
kernel.
"""

from pathlib import Path
from pkgutil import resolve_name

from rl_unlearn import plugins
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.family import Family
from rl_unlearn.kernel import Kernel
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import latent_shape, read_layout

FAMILIES = {
    "StableDiffusionPipeline": "rl_unlearn.families.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "rl_unlearn.families.sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "rl_unlearn.families.sd3:StableDiffusion3",
    "FluxPipeline": "rl_unlearn.families.flux:Flux",
    "QwenImagePipeline": "rl_unlearn.families.qwen_image:QwenImage",
    "Flux2KleinPipeline": "rl_unlearn.families.flux2:Flux2",
    "ZImagePipeline": "rl_unlearn.families.z_image:ZImage",
    "SanaPipeline": "rl_unlearn.families.sana:Sana",
}
"""Module and class by the class of the pipeline; `model_folder.LAYOUTS` has the same keys. A
process imports the one that it needs: all of them take it seconds."""


def family_of(folder: Path) -> type[Family]:
    """Returns the family of a pipeline's folder; raises DataError for an unknown one, ConfigError
    for a package that does not add what it says."""
    pipeline = read_layout(folder).pipeline
    if pipeline in FAMILIES:
        family: type[Family] = resolve_name(FAMILIES[pipeline])
        return family
    if pipeline not in plugins.names(plugins.FAMILIES):
        package = plugins.version(plugins.LAYOUTS, pipeline)
        raise ConfigError(
            f"the package {package} adds a layout of {pipeline} and no family: mend it"
        )
    added = plugins.load(plugins.FAMILIES, pipeline)
    if not isinstance(added, type) or not issubclass(added, Family):
        package = plugins.version(plugins.FAMILIES, pipeline)
        raise ConfigError(f"{pipeline!r} of the package {package} is no Family: mend it")
    return added


def read_shape_and_kernel(config: Config) -> tuple[tuple[int, int, int], Kernel]:
    """Latent shape (channels, height, width) and kernel of a model, from its configuration files
    alone.
    """
    folder = fetched_folder(config.model)
    family, shape = family_of(folder), latent_shape(folder, config.model)
    scheduler = family.process.read_scheduler(folder)
    return shape, family.process.kernel(scheduler, config.sampler.steps, config.sampler.eta, shape)
