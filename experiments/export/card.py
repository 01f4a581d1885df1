"""The model card beside the weights: what was forgotten, how well, and how to use it; written
without any network.
"""

from contextlib import suppress
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from experiments.evaluation.headline import HEADLINE
from experiments.files import write_bytes, write_text
from experiments.report import run_view
from experiments.runs.own_files import inside, picture
from rl_unlearn import reward_names
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.config import Config
from rl_unlearn.evaluation.comparison import definitions
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import read_layout

TEMPLATE = Path(__file__).parents[1] / "report" / "card.md.j2"
NAME, PICTURE = "README.md", "samples.png"
LEARNED = (
    "Critic-guided reinforcement learning on a LoRA adapter of the denoising network, by "
    "[CGRU](https://arxiv.org/abs/2601.03213)."
)
STARTED = "It went on from another adapter, not from the untouched model."
ERASED = {
    "uce": "A closed-form edit of the cross-attention, written as a LoRA adapter: Unified Concept "
    "Editing ([UCE](https://arxiv.org/abs/2308.14761)).",
    "esd": "A LoRA adapter of the denoising network that steers away from the concept: Erased "
    "Stable Diffusion ([ESD](https://arxiv.org/abs/2303.07345)).",
    "ca": "A LoRA adapter of the denoising network that answers as it would for the anchor: "
    "Concept Ablation ([CA](https://arxiv.org/abs/2303.13516)).",
}
"""How an adapter came to be, by what its run says of it."""


def write_card(
    source: Path, out: Path, config: Config, format: str = "diffusers", file: str = FILE_NAME,
    pictured: bool = False,
) -> Path:  # fmt: skip
    """Writes `README.md` into `out`, and with `pictured` the picture that it then shows.

    Figures and picture come from `source` if it is a run folder, else the card has none.
    """
    whole = (source / "config.yaml").is_file() and (source / "run_state.json").is_file()
    run = run_view.read(source, 1) if whole else None
    shown = picture(inside(source, PICTURE)) if whole and pictured else None
    if shown is not None:
        write_bytes(out / PICTURE, shown[0])
    write_text(out / NAME, str(make_card(config, run, format, file, shown is not None)))
    return out / NAME


def make_card(
    config: Config, run: run_view.Run | None, format: str, file: str, pictured: bool = False
) -> ModelCard:
    """Returns the card of a run, or of an adapter of which only the configuration is known."""
    before, after = (run.before, run.after) if run else (None, None)
    meanings = definitions(reward_names.trait(config.concept) is not None)
    rows, results = [], []
    for key, label in HEADLINE.items():
        old, new = run_view.figure(before, key), run_view.figure(after, key)
        if new is None:
            continue
        spread = None if new.low is None or new.high is None else {"low": new.low, "high": new.high}
        interval = f"{new.low:.1f} to {new.high:.1f}" if spread else "not computed"
        rows.append(
            (
                label,
                meanings[key],
                f"{old.value:.1f}" if old else "–",
                f"{new.value:.1f}",
                interval,
            )
        )
        results.append(
            EvalResult(
                task_type="text-to-image", dataset_type="prompts", dataset_name=_prompts(config),
                metric_type=key,
                metric_name=label, metric_value=round(new.value, 4), metric_args=spread,
            )
        )  # fmt: skip
    hub = config.model.path.count("/") == 1 and not Path(config.model.path).is_dir()
    data = ModelCardData(
        base_model=config.model.path if hub else None, library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["concept-unlearning"] + ([] if format == "merged" else ["lora"]),
        model_name=config.run_name,
        eval_results=results or None,
    )  # fmt: skip
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=config.run_name,
        concept=_plain(config.concept),
        summary=_plain(
            run_view.summary(run) if run else f"Trained to stop drawing “{config.concept}”."
        ),
        rows=rows,
        judge=_plain(run.judge) if run else "",
        broken=bool(after and after.broken),
        usage=_usage(config, format, file),
        method=_method(config, run),
        facts=[
            *(run_view.cost(run) if run else [("seed", str(config.seed))]),
            ("LoRA rank", str(config.lora.rank)),
        ],
        picture=PICTURE if pictured else "",
        licence=_licence(config),
        command=run.command.replace("`", "'") if run else "",
    )
    return card


def _method(config: Config, run: run_view.Run | None) -> str:
    if run is None:
        return "A LoRA adapter of the denoising network."
    if run.state.eraser is not None:
        return ERASED[run.state.eraser]
    return LEARNED if config.lora.start is None else f"{LEARNED} {STARTED}"


def _licence(config: Config) -> str:
    """Returns what is known here of the base model's licence, in a sentence."""
    if config.model.path == "canvas":
        return (
            "The base model is rl-unlearn's emoji canvas; its NOTICE names the drawings' licences."
        )
    page = Path(config.model.path) / NAME
    with suppress(OSError, ValueError, YAMLError):
        named = ModelCard.load(page).data.license if page.is_file() else None
        if named:
            return (
                f"The base model says that its licence is {_plain(str(named))}; it holds here, too."
            )
    return "The base model's licence holds here, too: see where that model comes from."


def _prompts(config: Config) -> str:
    return "the emoji canvas" if config.model.path == "canvas" else "prompts of the run"


def _usage(config: Config, format: str, file: str) -> str:
    base = "canvas.pipeline_path()" if config.model.path == "canvas" else repr(config.model.path)
    kind = (
        "StableDiffusionPipeline" if config.model.path == "canvas" else "DiffusionPipeline"
    )  # finds the class
    lines = [f"from diffusers import {kind}"]
    if format == "merged":
        variant = f", variant={config.model.variant!r}" if config.model.variant else ""
        lines += ["", f'pipe = {kind}.from_pretrained("this folder"{variant})']
    else:
        lines += ["from rl_unlearn import canvas"] * (config.model.path == "canvas")
        chosen = {"revision": config.model.revision, "variant": config.model.variant}
        single = config.model.config is not None  # a checkpoint in one file
        chosen |= {"config": config.model.config} if single else {}
        words = [base, *(f"{key}={value!r}" for key, value in chosen.items() if value)]
        kind = read_layout(fetched_folder(config.model)).pipeline if single else kind
        lines[0] = f"from diffusers import {kind}"
        lines += [
            "",
            f"pipe = {kind}.from_{'single_file' if single else 'pretrained'}({', '.join(words)})",
        ]
        for below in config.model.adapters:  # what it stands on is part of the model
            lines += [
                f"pipe.load_lora_weights({below!r})",
                "pipe.fuse_lora()",
                "pipe.unload_lora_weights()",
            ]
        lines += [f'pipe.load_lora_weights("this folder", weight_name={file!r})']
    text = "````python\n" + "\n".join(line.replace("`", "'") for line in lines) + "\n````"
    if format == "kohya":
        text += "\n\nThe tensors carry kohya's names, which other programs read as a LoRA file."
    steps, eta = config.sampler.steps, config.sampler.eta
    sampler = f"stochastic DDIM, {steps} steps, eta {eta:g}, guidance {config.sampler.guidance:g}"
    return f"{text}\n\nIt was trained and judged with {sampler}."


def _plain(text: str) -> str:
    """Returns text of any origin without Markdown or HTML in it."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"&#{ord(mark)};")
    return " ".join(text.split())
