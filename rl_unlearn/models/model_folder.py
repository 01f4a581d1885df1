"""The folder of a pipeline, looked at without its weights and without torch: what is there, and
whether it fits.

Everything here is told by small JSON files and by the headers of the weights, so that a wrong model
is named in a second, before anything is loaded.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rl_unlearn import canvas, plugins
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.files.json_file import read_object
from rl_unlearn.files.tensor_header import read_header
from rl_unlearn.layouts import flux, flux2, qwen_image, sana, sd3, sdxl, stable_diffusion, z_image
from rl_unlearn.layouts.layout import REMEDY, Layout, Parts
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models import weight_names

_MODULES = (stable_diffusion, sdxl, sd3, flux, qwen_image, flux2, z_image, sana)
LAYOUTS: dict[str, Layout] = {module.LAYOUT.pipeline: module.LAYOUT for module in _MODULES}
"""The families of this project, by the class of their pipeline; packages may add others."""
_TEMPLATE = "chat_template.jinja"
_INFINITE = frozenset({"lambda_min_clipped"})
"""What diffusers writes as -Infinity into the configuration of many a sampler."""


def named_folder(model: Model) -> Path | None:
    """Returns the canvas's folder, or the one that ``model.path`` names, None for a hub id; raises
    DataError for what is neither.
    """
    if model.path == "canvas":
        return canvas.pipeline_path()
    if Path(model.path).is_dir():
        return Path(model.path)
    if model.path.startswith((".", "/", "~")) or model.path.count("/") != 1:
        raise DataError(
            f"model.path {model.path!r} is no folder or file, and no hub id of the form owner/name"
        )
    return None


def check(
    folder: Path,
    sampler: Sampler | None,
    size: tuple[int, int] | None = None,
    variant: str | None = None,
) -> list[str]:
    """Says what a person should know of the model in a folder; raises DataError, or ConfigError for
    the sampler, if given.

    Weights are compared with the names that the networks have;
    :func:`rl_unlearn.families.pipeline.load_pipeline` compares what was loaded once more.
    """
    layout, parts = read_layout(folder), read_parts(folder)
    if variant is not None:
        _check_variant(folder, components(folder), variant)
    for name in layout.networks:
        if name in parts:
            check_weights(folder, name, parts[name], variant)
    for name in layout.tokenizers:
        if name in components(folder):
            _check_tokenizer(folder, name, name in layout.templates)
    try:
        layout.check(parts)
        layout.latent(parts, size)
        return list(layout.notes(parts, sampler))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"a configuration in model folder {str(folder)!r} is damaged ({error}): {REMEDY}"
        ) from error


def check_schedule(folder: Path, schedule: Schedule | None) -> None:
    """Raises ConfigError for a schedule that a pipeline's images cannot be drawn by."""
    if schedule is None:
        return
    read_layout(folder).scheduler(schedule.name)
    trained = read_parts(folder)["scheduler"].get("num_train_timesteps", 1000)
    if schedule.steps >= trained:
        raise ConfigError(
            f"evaluation.steps={schedule.steps} must be below the {trained} steps that the model "
            "was made in"
        )


def read_layout(folder: Path) -> Layout:
    """Returns the family of a pipeline's folder; raises DataError, which names those that are
    known, for another one.
    """
    kind, added = _read_index(folder).get("_class_name"), plugins.names(plugins.LAYOUTS)
    if isinstance(kind, str) and kind in LAYOUTS:
        return LAYOUTS[kind]
    if kind not in added:
        known = ", ".join([*LAYOUTS, *added])
        raise DataError(f"model folder {str(folder)!r} holds a {kind}: only {known} can be trained")
    layout = plugins.load(plugins.LAYOUTS, kind)
    if not isinstance(layout, Layout) or layout.pipeline != kind:
        package = plugins.version(plugins.LAYOUTS, kind)
        raise ConfigError(f"{kind!r} of the package {package} is no Layout of a {kind}: mend it")
    return layout


def components(folder: Path) -> list[str]:
    """Folders of the parts that a pipeline's folder has."""
    return read_layout(folder).present(_read_index(folder))


def read_parts(folder: Path) -> Parts:
    """Configurations of networks and scheduler; raises DataError for another kind of pipeline, or
    one that is not whole.
    """
    layout, index, present = read_layout(folder), _read_index(folder), components(folder)
    for name, network in layout.networks.items():
        row = index.get(name)
        if name in present and (not isinstance(row, list) or row[1:] != [network.kind]):
            raise DataError(
                f"model folder {str(folder)!r}: its {name} is {row}, not a {network.kind}"
            )
    parts = {
        name: read_object(folder / name / "config.json", REMEDY)
        for name in layout.networks
        if name in present
    }
    scheduler = read_object(
        folder / "scheduler" / "scheduler_config.json", REMEDY, infinite=_INFINITE
    )
    return parts | {"scheduler": scheduler, "pipeline": index}


def latent_shape(folder: Path, model: Model) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a model's images."""
    return read_layout(folder).latent(read_parts(folder), model.size)


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"model folder {str(folder)!r} has no model_index.json: give a pipeline in diffusers "
            "layout"
        )
    return read_object(folder / "model_index.json", REMEDY)


def weight_files(folder: Path, component: str, variant: str | None = None) -> list[Path]:
    """Returns the files that a component's weights are read from: one, or the shards of its index.

    ``variant``: see `weight_names.entry`. Raises DataError if there is none, naming what lies there
    instead.
    """
    first = first_file(folder, component, variant)
    if not weight_names.is_index(first.name):
        return [first]
    return [first.parent / name for name in shards(first)]


def first_file(folder: Path, component: str, variant: str | None = None) -> Path:
    """Returns the single file of a component's weights, or the index of their shards; raises
    DataError if there is neither.
    """
    place, stem = folder / component, read_layout(folder).networks[component].stem
    names = _names(place)
    file = weight_names.entry(names, stem, variant)
    if file is not None:
        return place / file
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickled = sorted(name for name in names if name.endswith(".bin"))
    variants = sorted({*filter(None, (weight_names.variant_of(name, stem) for name in names))})
    hint = f"no {stem}.safetensors" + (
        f", only {others[0]}: rename it, or fetch the whole model" if others else ""
    )
    if variants:
        hint = f"no {stem}.safetensors, only {', '.join(variants)}: set model.variant={variants[0]}"
    if pickled and not others:
        hint = "only pickled weights, which are refused; convert them to safetensors"
    raise DataError(f"model folder {str(folder)!r} holds {hint} in {component}/")


def shards(index: Path) -> list[str]:
    """Names the files of weights beside an index; raises DataError if the index is damaged."""
    weight_map = read_object(index, REMEDY).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(f"{index} names no files beside it: {REMEDY}")
    return sorted(names)


def _names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if path.is_file()} if place.is_dir() else set()


def _check_variant(folder: Path, present: list[str], variant: str) -> None:
    """Raises DataError unless at least one network has weights of the variant asked for."""
    networks, known = read_layout(folder).networks, set()
    for name in networks.keys() & {*present}:
        known |= {
            weight_names.variant_of(file, networks[name].stem) for file in _names(folder / name)
        }
    if variant not in known:
        has = ", ".join(sorted(filter(None, known))) or "none"
        problem = f"model folder {str(folder)!r} has no variant {variant!r} (there: {has})"
        raise DataError(f"{problem}: leave model.variant out")


def check_weights(
    folder: Path, component: str, config: Mapping[str, Any], variant: str | None = None
) -> None:
    """Raises DataError, which names component and keys, unless the files hold all weights of the
    network and no others.
    """
    network = read_layout(folder).networks[component]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, component, variant):
        shapes |= read_header(file, REMEDY).shapes
    try:
        expected = network.names(config)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"{folder / component / 'config.json'} is damaged ({error}): {REMEDY}"
        ) from error
    if expected is not None:
        present = network.known_as(shapes)
        compare(folder, component, expected - present, present - expected)


def compare(folder: object, component: str, missing: set[str], unexpected: set[str]) -> None:
    """Raises DataError unless both are empty."""
    if not missing and not unexpected:
        return
    lacks = f"lacks {len(missing)} weights, such as {min(missing)}" if missing else ""
    has = (
        f"has {len(unexpected)} that have no place, such as {min(unexpected)}" if unexpected else ""
    )
    problem = " and ".join(filter(None, (lacks, has)))
    raise DataError(
        f"folder {str(folder)!r}: {component} {problem}: its answers would be noise; fetch it again"
    )


def _check_tokenizer(folder: Path, name: str, talks: bool) -> None:
    files = ("vocab.json", "tokenizer.json", "spiece.model")
    if not any((folder / name / file).is_file() for file in files):
        raise DataError(
            f"model folder {str(folder)!r} has no {name}/{' or '.join(files)}: {REMEDY}"
        )
    if not talks or (folder / name / _TEMPLATE).is_file():
        return
    if not read_object(folder / name / "tokenizer_config.json", REMEDY).get("chat_template"):
        problem = f"model folder {str(folder)!r}: {name} has no chat template, {_TEMPLATE}"
        raise DataError(f"{problem}: {REMEDY}")


def check_device(model: Model) -> Iterator[str]:
    """Says what a person should know of the number type on this machine's processor."""
    if model.dtype == "fp32" or model.device == "cuda" or Path("/dev/nvidia0").exists():
        return
    flags = _processor_flags()
    wanted = {
        "bf16": {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"},
        "fp16": {"avx512_fp16", "amx_fp16", "fphp"},
    }
    if flags is not None and not wanted[model.dtype] & flags:
        yield (
            f"model.dtype={model.dtype}: this processor has no units for it and takes 6 to 11 "
            "times as long; use fp32"
        )


def _processor_flags() -> set[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(
        (
            set(line.partition(":")[2].split())
            for line in lines
            if line.startswith(("flags", "Features"))
        ),
        None,
    )
