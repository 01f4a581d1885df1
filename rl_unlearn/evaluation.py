"""How far forgetting worked, by judges that training never saw: UA, IRA, CRA and the coherence that stands beside UA.

Definitions follow UnlearnCanvas (arXiv 2402.11846), on the prompts of the run's own world:

- UA, unlearning accuracy: share of the target's images on which the judge does *not* see the concept;
- IRA, in-domain retain accuracy: mean over the domain's other concepts of the judge's accuracy on their images;
- CRA, cross-domain retain accuracy: accuracy of the other domain's label on the images of retained prompts;
- coherence: accuracy of the other domain's label on the *target's* images. Broken images score a UA of 100 too; this is
  what tells them from forgetting.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.canvas import OBJECTS, STYLES
from rl_unlearn.canvas.judges import load_judge as load_canvas_judge
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.noise import seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook
from rl_unlearn.zeroshot import ZeroShot, load_open_clip

Judge = Callable[[Float[Tensor, "batch 3 height width"]], dict[str, Int[Tensor, " batch"]]]


@dataclass(frozen=True)
class Scores:
    """Percentages of one model on one concept."""

    ua: float
    ira: float
    cra: float
    coherence: float
    counts: dict[str, int]
    """Images judged: target_images, other_images."""
    by_concept: dict[str, float]
    """Accuracy on the images of each concept of the target's domain, the target included."""
    seen_as: dict[str, int]
    """What the judge saw on the target's images, most frequent first."""

    def headline(self) -> dict[str, float]:
        """The four figures that belong together."""
        return {"ua": self.ua, "ira": self.ira, "cra": self.cra, "coherence": self.coherence}


def load_judge(config: Config) -> Judge:
    """The shipped judges, or an open_clip model as a zero-shot judge; refuses the networks that training uses."""
    name, book = config.evaluation.judge, PromptBook.from_config(config)
    if name in (config.reward.clip, config.selection.clip) and name != "canvas":
        raise ConfigError(f"evaluation.judge {name!r} is also the reward or selection CLIP: judge with another network")
    if name != "canvas":
        clip, tokenizer = load_open_clip(name, "selection")
        zero_shot = ZeroShot(clip, tokenizer, book.phrases, torch.device("cpu"))
        return lambda images: {domain: found.argmax(dim=1) for domain, found in zero_shot(images).items()}
    if (book.names["object"], book.names["style"]) != (OBJECTS, STYLES):
        raise ConfigError(
            "evaluation.judge=canvas knows the canvas only: name an open_clip 'arch/pretrained' to judge with"
        )
    judges = {"object": load_canvas_judge("object"), "style": load_canvas_judge("style")}
    return lambda images: {domain: judge(images).argmax(dim=1) for domain, judge in judges.items()}


@torch.no_grad()
def evaluate(
    policy: DiffusionPolicy,
    book: PromptBook,
    judge: Judge,
    config: Config,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Samples and judges the evaluation images of a policy as it stands; the same noise for every policy.

    ``progress(done, total)`` counts images.
    """
    plan = [
        (index, number)
        for index, prompt in enumerate(book.prompts)
        for number in range(config.evaluation.target_images if prompt.target else config.evaluation.other_images)
    ]
    seen: dict[str, list[Tensor]] = {"object": [], "style": []}
    for start in range(0, len(plan), config.evaluation.batch):
        part = plan[start : start + config.evaluation.batch]
        texts = [book.prompts[index].text for index, _ in part]
        images = policy.generate(texts, [seed_of(config.seed, "evaluation", index, n) for index, n in part])
        for domain, labels in judge(images).items():
            seen[domain].append(labels)
        if progress:
            progress(start + len(part), len(plan))
    prompts = torch.tensor([index for index, _ in plan])
    return scores({domain: torch.cat(labels) for domain, labels in seen.items()}, prompts, book)


def scores(seen: dict[str, Int[Tensor, " images"]], prompts: Int[Tensor, " images"], book: PromptBook) -> Scores:
    """Aggregates judged labels: ``seen`` holds the judges' classes, ``prompts`` what each image was asked to show."""
    asked = {
        domain: torch.tensor([getattr(book.prompts[i], domain) for i in prompts.tolist()])
        for domain in ("object", "style")
    }
    target: Bool[Tensor, " images"] = torch.tensor([book.prompts[i].target for i in prompts.tolist()])
    own, other = book.concept_domain, book.other_domain
    right = {domain: (seen[domain] == asked[domain]).double() for domain in ("object", "style")}
    names = book.names[own]
    by_concept = {names[c]: 100 * right[own][asked[own] == c].mean().item() for c in asked[own].unique().tolist()}
    others = [value for name, value in by_concept.items() if name != names[book.concept_index]]
    labels, counts = seen[own][target].unique(return_counts=True)
    order = counts.argsort(descending=True)
    return Scores(
        ua=100 * (seen[own][target] != book.concept_index).double().mean().item(),
        ira=sum(others) / len(others),
        cra=100 * right[other][~target].mean().item(),
        coherence=100 * right[other][target].mean().item(),
        counts={"target_images": int(target.sum()), "other_images": int((~target).sum())},
        by_concept=by_concept,
        seen_as={names[int(labels[i])]: int(counts[i]) for i in order},
    )
