"""What is asked of the model: the prompts that hold the concept, the prompts to keep, and who is
drawn when.

Imports nothing heavy, so that a wrong concept or list is told at once.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from rl_unlearn import canvas, reward_names
from rl_unlearn.adapters.adapter_file import metadata
from rl_unlearn.concepts import classes_of, names, parts_of
from rl_unlearn.config import Config, Prompts
from rl_unlearn.errors import ConfigError
from rl_unlearn.files.text import cleaned, same
from rl_unlearn.prompt_file import read_prompts

NEAREST = "nearest"
_QUALITY = ("A clear, detailed picture.", "A blurry, broken picture of nothing.")


@dataclass(frozen=True)
class Prompt:
    """One prompt and what its image should show, as indices into the domains of the book."""

    text: str
    object: int
    style: int
    target: bool
    """Whether it asks for the concept to forget."""
    gone: bool = False
    """Whether it asks for what an earlier adapter (model.adapters) forgot: nobody wants that back,
    or counts it."""


@dataclass(frozen=True)
class PromptBook:
    """All prompts of a run; ``names`` and ``phrases`` (for zero-shot CLIP) of the classes of
    'object' and 'style'.
    """

    prompts: tuple[Prompt, ...]
    names: dict[str, tuple[str, ...]]
    phrases: dict[str, tuple[str, ...]]
    concept_domain: str
    concepts: tuple[int, ...]
    """Classes of that domain to forget."""
    gone: frozenset[int] = frozenset()
    """Other classes of that domain, which earlier adapters forgot."""
    anchors: tuple[str, ...] = (NEAREST,)
    """What should stand in the concepts' place: classes, or `nearest`, in order of preference."""
    trait: str | None = None
    """The image function whose sight is to be forgotten, in place of concepts: no word names it,
    and nothing stands in its place."""

    def __post_init__(self) -> None:
        asked = {same(prompt.text): prompt.text for prompt in self.prompts if prompt.target}
        for prompt in self.prompts:
            if not prompt.target and same(prompt.text) in asked:
                raise ConfigError(
                    f"the prompt {prompt.text!r} is to be forgotten and to be kept: remove it from "
                    "one of the two lists, or use {object} and {style} in prompts.template"
                )

    @property
    def targets(self) -> list[int]:
        """Indices of the prompts that ask for the concept."""
        return [i for i, p in enumerate(self.prompts) if p.target]

    @property
    def retained(self) -> list[int]:
        """Indices of the prompts to keep as they are."""
        return [i for i, p in enumerate(self.prompts) if not p.target]

    @property
    def watched(self) -> list[int]:
        """Those of them that must still show what they ask for."""
        return [i for i in self.retained if not self.prompts[i].gone]

    @property
    def target_classes(self) -> tuple[int, ...]:
        """Classes of the concept's domain that target prompts ask for: the concepts, or those that
        shall lose a trait.
        """
        asked = (getattr(self.prompts[i], self.concept_domain) for i in self.targets)
        return self.concepts or tuple(dict.fromkeys(asked))

    @property
    def other_domain(self) -> str:
        """The domain the concept does not belong to: what must stay on its images."""
        return "style" if self.concept_domain == "object" else "object"

    @classmethod
    def from_config(cls, config: Config) -> "PromptBook":
        """Returns the grid of objects and styles, or the user's two prompt files.

        Raises ConfigError for a concept outside the grid or half a pair of files, DataError for a
        bad file.
        """
        prompts = config.prompts
        forgotten = [metadata(adapter).get("concept") for adapter in config.model.adapters]
        gone = tuple(concept for concept in forgotten if concept)  # another's adapter does not say
        if (prompts.target_file is None) != (prompts.retain_file is None):
            raise ConfigError(
                "prompts.target_file and prompts.retain_file go together: give both or neither"
            )
        if prompts.target_file and prompts.retain_file:
            if prompts.targets:
                raise ConfigError(
                    "prompts.targets and prompts.target_file both say whose images shall lose the "
                    "concept: give one of them"
                )
            lists = read_prompts(prompts.target_file), read_prompts(prompts.retain_file)
            book = _of_lists(config.concept, gone, *lists)
        else:
            book = _of_grid(config.concept, gone, prompts)
        if book.trait is not None:
            return replace(book, anchors=())
        anchors_of_canvas = canvas.ANCHORS if config.model.path == "canvas" else ()
        known = {name for names in book.names.values() for name in names}
        anchors = config.reward.anchor or (
            *(name for name in anchors_of_canvas if name in known),
            NEAREST,
        )
        _check_anchors(book, anchors, known)
        return replace(book, anchors=tuple(anchors))

    def draw(
        self,
        seed: int,
        round: int,
        images: int,
        target_fraction: float,
        kept: list[int] | None = None,
    ) -> list[int]:
        """Prompts of a round: every target prompt (every retained one) comes up equally often over
        the rounds.

        ``kept``: other prompts to take than ``retained``. Deterministic in (seed, round). At least
        one image is drawn for a target prompt.
        """
        wanted = max(1, min(images, int(images * target_fraction + 0.5)))
        pick = _cycle(self.targets, "target", seed, round, wanted)
        return pick + _cycle(
            self.retained if kept is None else kept, "retain", seed, round, images - wanted
        )


def _of_grid(concept: str, gone: tuple[str, ...], config: Prompts) -> PromptBook:
    objects = config.objects or canvas.OBJECTS
    styles = config.styles or canvas.STYLES
    known = {"object": objects, "style": styles}
    trait = reward_names.trait(concept)
    _check_targets(concept, trait, config.targets)
    if trait is None:
        domain, concepts = classes_of(concept, known)
    else:
        domain, concepts = classes_of(",".join(config.targets), known, "prompts.targets")
    earlier = {part for concepts_before in gone for part in parts_of(concepts_before)}
    if trait is None:
        earlier -= {f"{domain}:{known[domain][i]}" for i in concepts}
    fill = _filler(config.template, "prompts.template")
    grid = tuple(
        Prompt(
            fill(o, s), i, j,
            target=(i if domain == "object" else j) in concepts,
            gone=bool(earlier & {f"object:{o}", f"style:{s}"}),
        )
        for i, o in enumerate(objects)
        for j, s in enumerate(styles)
    )  # fmt: skip
    if all(p.target or p.gone for p in grid):
        raise ConfigError("no prompt is left to retain: add objects or styles beside the concept")
    if trait is not None and all(p.gone for p in grid if p.target):
        raise ConfigError(
            "prompts.targets names nothing but what an adapter of model.adapters forgot: name "
            "others"
        )
    by_object = _filler(config.object_template, "prompts.object_template")
    by_style = _filler(config.style_template, "prompts.style_template")
    phrases = {
        "object": tuple(by_object(o, "") for o in objects),
        "style": tuple(by_style("", s) for s in styles),
    }
    before = frozenset(i for i, name in enumerate(known[domain]) if f"{domain}:{name}" in earlier)
    if trait is not None:
        return PromptBook(grid, known, phrases, domain, (), before, trait=trait)
    return PromptBook(grid, known, phrases, domain, concepts, before)


def _check_targets(concept: str, trait: str | None, targets: tuple[str, ...]) -> None:
    if trait is None and targets:
        raise ConfigError(
            f"prompts.targets {', '.join(targets)} is for concept=image:NAME: the prompts of "
            f"{concept!r} are those that name it; remove it"
        )
    if trait is not None and not targets:
        raise ConfigError(
            f"no word names the concept {concept!r}: say by prompts.targets whose images shall "
            "lose it, objects or style:NAME"
        )


def _of_lists(
    concept: str, gone: tuple[str, ...], target: list[str], retain: list[str]
) -> PromptBook:
    # The classes are the concept and each retained prompt; "style" becomes picture quality, so
    # that broken images do not pass for forgetting.
    # A trait is no class: there each target prompt is one, whose image must go on showing it.
    trait = reward_names.trait(concept)
    first: dict[str, str] = {}
    for text in [*target, *retain] if trait is not None else retain:
        first.setdefault(same(text), text)
    kept = tuple(first.values())
    place = {text: number for number, text in enumerate(first, start=1)}
    if same(concept) in place:
        raise ConfigError(
            f"prompts.retain_file holds {concept!r}, the concept to forget: remove it there"
        )
    for text in retain:
        for name in (part.split(":", 1)[1] for before in gone for part in parts_of(before)):
            if names(text, name):
                raise ConfigError(
                    f"prompts.retain_file holds {text!r}, but an adapter of model.adapters forgot "
                    f"{name!r}: remove it there, or it would be asked back"
                )
    if trait is not None:
        place = {text: number for number, text in enumerate(first)}
        prompts = [Prompt(text, place[same(text)], 0, True) for text in target]
        prompts += [Prompt(text, place[same(text)], 0, False) for text in retain]
        names_of = {"object": kept, "style": ("clear", "broken")}
        phrases = {"object": kept, "style": _QUALITY}
        return PromptBook(tuple(prompts), names_of, phrases, "object", (), trait=trait)
    prompts = [Prompt(text, 0, 0, True) for text in target]
    prompts += [Prompt(text, place[same(text)], 0, False) for text in retain]
    classes = {"object": (concept, *kept), "style": ("clear", "broken")}
    return PromptBook(
        tuple(prompts), classes, {"object": (concept, *kept), "style": _QUALITY}, "object", (0,)
    )


def _check_anchors(book: PromptBook, anchors: tuple[str, ...], known: set[str]) -> None:
    for name in anchors:
        if name not in known | {NEAREST}:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"name a class, or `{NEAREST}`"
            raise ConfigError(f"reward.anchor {name!r} is unknown to this world: {hint}")
    classes, lost = book.names[book.concept_domain], {*book.concepts, *book.gone}
    left = {name for place, name in enumerate(classes) if place not in lost}
    if not left & {*anchors} and not (left and NEAREST in anchors):
        raise ConfigError(
            f"reward.anchor {list(anchors)} names no other {book.concept_domain} than what is or "
            f"was forgotten: add one, or `{NEAREST}`"
        )


def _cycle(pool: list[int], kind: str, seed: int, round: int, count: int) -> list[int]:
    from rl_unlearn.noise import shuffled  # torch: only where something is drawn

    # An endless concatenation of shuffled pools, read from where the previous rounds stopped.
    drawn: list[int] = []
    position = round * count
    while len(drawn) < count:
        lap, offset = divmod(position + len(drawn), len(pool))
        order = shuffled(len(pool), seed, "prompts", kind, lap)
        drawn += [pool[i] for i in order[offset : offset + count - len(drawn)]]
    return drawn


def _filler(template: str, key: str) -> Callable[[str, str], str]:
    def fill(object: str, style: str) -> str:
        try:
            return cleaned(template.format(object=object, style=style))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{key} {template!r} is no template: only {{object}} and {{style}} may be used"
            ) from error

    return fill


def spread(items: list[int], count: int) -> list[int]:
    """Returns at most ``count`` items at even distances."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]
