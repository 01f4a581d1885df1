"""Judges: classifiers of both domains that training never saw, behind one face whatever they are
made of.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_unlearn import plugins
from rl_unlearn.canvas import Head
from rl_unlearn.canvas.judges import load_judge as load_canvas_judge
from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.evaluation import judge_source
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.image_rewards import classifiers
from rl_unlearn.models.classifier_folders import load_folder
from rl_unlearn.models.fingerprint import weights_digest
from rl_unlearn.prompts import PromptBook

Judge = Callable[[Float[Tensor, "batch 3 height width"]], dict[str, Int[Tensor, " batch"]]]
"""Images in [0, 1] -> the class it sees in each domain."""


@dataclass(frozen=True)
class Judgement:
    """What a judge makes of a batch of images, on the CPU."""

    log_probs: dict[str, Float[Tensor, "batch classes"]]
    """Log-probabilities of the classes of each domain, in the prompt book's order."""
    features: Float[Tensor, "batch features"]
    """What the judge decides by: the place where KID and FID compare images."""


@dataclass(frozen=True)
class ProbabilityJudge:
    """A `Judge` that also says how sure it is and shows its features."""

    name: str
    feature_extractor: str
    """What its features are, for the reader of a KID or FID made with them."""
    classify: Callable[[Float[Tensor, "batch 3 height width"]], Judgement]
    """Images in [0, 1], any size."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Int[Tensor, " batch"]]:
        """Returns the likeliest class of each domain."""
        return {
            domain: log_probs.argmax(dim=1)
            for domain, log_probs in self.classify(images).log_probs.items()
        }


def load_judge(config: Config) -> ProbabilityJudge:
    """Loads the judge that `evaluation.judge` names: `canvas` or one of its panel, an installed
    package's, a folder of two classifiers, or open_clip.

    Raises ConfigError for a network that training or selection used, whatever its name, or the
    canvas's judges on another world; DataError for a judge that cannot be had.
    """
    name, book = config.evaluation.judge, PromptBook.from_config(config)
    device = device_of(config.model)
    judge_source.check(config, book)
    if judge_source.is_of_canvas(name):
        return _canvas(name)
    if judge_source.is_installed(name):
        return _installed(name, config, book)
    if judge_source.is_judge_folder(Path(name)):
        return _classifiers(Path(name), book, config, device)
    return _open_clip(name, book, config, device)


def _installed(name: str, config: Config, book: PromptBook) -> ProbabilityJudge:
    judge = plugins.load(plugins.JUDGES, name)(config)
    package = plugins.version(plugins.JUDGES, name)
    if not isinstance(judge, ProbabilityJudge):
        raise ConfigError(f"evaluation.judge {name!r} of {package} makes no ProbabilityJudge")

    def classify(images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        """Returns what it sees, once that has the shape of a judgement in this world."""
        seen: Judgement = judge.classify(images)
        wanted = {domain: (len(images), len(book.names[domain])) for domain in ("object", "style")}
        if {domain: tuple(seen.log_probs[domain].shape) for domain in seen.log_probs} != wanted:
            raise ConfigError(
                f"evaluation.judge {name!r} of {package} must give log_probs of object and style "
                f"for every class of the prompts: {wanted}"
            )
        return seen

    return replace(judge, name=f"{name} ({package})", classify=classify)


def _canvas(name: str) -> ProbabilityJudge:
    heads: tuple[Head, ...] = ("object", "style")
    members = [
        {head: load_canvas_judge(head, member) for head in heads}
        for member in judge_source.CANVAS[name]
    ]

    @torch.no_grad()
    def classify(images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        images = images.cpu()
        seen, features = [], []
        for judges in members:
            maps = {head: judge.features(images)[-1] for head, judge in judges.items()}
            seen.append(
                {head: judges[head].logits(last).log_softmax(dim=1) for head, last in maps.items()}
            )
            features += [last.mean(dim=(2, 3)) for last in maps.values()]
        together = {
            head: torch.stack([member[head] for member in seen]).logsumexp(dim=0) for head in heads
        }
        return Judgement(
            {head: log_probs - math.log(len(seen)) for head, log_probs in together.items()},
            torch.cat(features, dim=1),
        )

    return ProbabilityJudge(
        name, f"the judges {name}, last stage averaged over positions (not Inception)", classify
    )


def _open_clip(
    name: str, book: PromptBook, config: Config, device: torch.device
) -> ProbabilityJudge:
    used = {"reward": config.reward.clip, "selection": config.selection.clip}
    clip, tokenizer = load_open_clip(name, "selection", "evaluation.judge")
    judging = weights_digest(clip.state_dict())
    for role, spec in used.items():
        trained, _ = load_open_clip(spec, "reward" if role == "reward" else "selection")
        if weights_digest(trained.state_dict()) == judging:
            raise ConfigError(
                f"evaluation.judge {name!r} has the weights of the {role} CLIP {spec!r}: judge "
                "with another network"
            )
    zero_shot = ZeroShot(clip, tokenizer, book.phrases, device)

    @torch.no_grad()
    def classify(images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        return Judgement(
            {domain: log_probs.float().cpu() for domain, log_probs in zero_shot(images).items()},
            zero_shot.embed(images).cpu(),
        )

    return ProbabilityJudge(name, f"image embedding of open_clip {name} (not Inception)", classify)


def _classifiers(
    folder: Path, book: PromptBook, config: Config, device: torch.device
) -> ProbabilityJudge:
    parts = {
        domain: load_folder(folder / domain, book.names[domain], device)
        for domain in ("object", "style")
    }
    judging = {weights_digest(part.network.state_dict()) for part in parts.values()}
    for name, (rewarding, label) in classifiers(config).items():
        if weights_digest(load_folder(rewarding, (label,), device).network.state_dict()) in judging:
            raise ConfigError(
                f"evaluation.judge {str(folder)!r} holds the network of the reward {name!r}: judge "
                "with another one"
            )

    @torch.no_grad()
    def classify(images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        outputs = {domain: part(images.to(device)) for domain, part in parts.items()}
        return Judgement(
            {
                domain: nn.functional.log_softmax(logits, dim=1).cpu()
                for domain, (logits, _) in outputs.items()
            },
            torch.cat([features.cpu() for _, features in outputs.values()], dim=1),
        )

    kinds = " and ".join(sorted({part.kind for part in parts.values()}))
    return ProbabilityJudge(
        str(folder),
        f"last features of the judges in {folder.name} ({kinds}, not Inception)",
        classify,
    )
