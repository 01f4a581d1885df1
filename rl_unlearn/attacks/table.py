"""The attack table: every attack against the untouched model and against the adapter, judged
alike."""

import time
from collections.abc import Callable, Iterator

from jaxtyping import Bool
from torch import Tensor

from rl_unlearn.attacks import inversion
from rl_unlearn.attacks.prefix import Vocabulary, random_prefix, search
from rl_unlearn.attacks.record import Attack, Attacks
from rl_unlearn.attacks.references import References, draw_references
from rl_unlearn.attacks.relearning import relearn
from rl_unlearn.attacks.success import Probe, rate
from rl_unlearn.config import Config
from rl_unlearn.evaluation.judges import Judge
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook, spread

DEFINITIONS = {
    "none": "The plain prompt that names the concept: 100 minus UA on the same noise.",
    "prefix": "Real words put before the prompt, found for each prompt by gradient on the model's "
    "own denoising loss on images of the concept (UnlearnDiffAtk); the control puts random words "
    "there.",
    "inversion": "A new word in place of the concept's name, its vector learned on the attacked "
    "model from images of the concept (textual inversion); the weights stay as they are.",
    "relearn": "Fine-tuning of a fresh LoRA on the attacked model with images of the concept; the "
    "control fine-tunes on as many images of unrelated concepts.",
}

Progress = Callable[[str, int, int], None]
"""Takes what is being done, the parts done and all parts."""


class Bench:
    """One world under attack: what the attacker holds, and the images by which success is
    judged."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        book: PromptBook,
        judge: Judge,
        config: Config,
        progress: Progress | None = None,
    ):
        self._policy, self._book, self._config = policy, book, config
        self._progress = progress or (lambda _text, _done, _total: None)
        attack, batch = config.attack, config.evaluation.batch
        inversion.name(book)  # several concepts are refused now, not after the prefix searches
        prompts = spread(book.targets, attack.prompts)
        self._done, self._total = 0, 2 * (3 + len(prompts) + 2 * len(attack.relearn_steps))
        self._tell("drawing references", 0)
        self._probe = Probe(
            policy, book, judge, tuple(prompts), attack.images, config.evaluation.seed, batch
        )
        self._concept = draw_references(
            policy, book, prompts, attack.references, config.seed, batch
        )
        others = spread(book.retained, attack.relearn_images)
        each = -(-attack.relearn_images // len(others))
        self._others = draw_references(policy, book, others, each, config.seed, batch)
        self._vocabulary = Vocabulary(policy.family.pipeline)
        self.prefixes: dict[str, dict[str, str]] = {}
        """The words found, by side and prompt."""

    def table(self) -> Attacks:
        """Carries every attack out, and returns what `attacks.json` holds; rates in percent."""
        sides = [list(self._attacks(unlearned)) for unlearned in (False, True)]
        rows = [
            Attack(
                attack=attack,
                budget=budget,
                before=rate(before),
                after=rate(after),
                images=len(after),
                seconds=round(seconds, 1),
            )
            for (attack, budget, before, _), (_, _, after, seconds) in zip(*sides, strict=True)
        ]
        return Attacks(
            concept=self._config.concept,
            seed=self._config.seed,
            rows=rows,
            definitions=DEFINITIONS,
            prefixes=self.prefixes,
        )

    def _attacks(
        self, unlearned: bool
    ) -> Iterator[tuple[str, str, Bool[Tensor, " images"], float]]:
        side = "adapter" if unlearned else "untouched"
        with self._policy.adapter_enabled(unlearned):
            for attack in (self._none, self._random, self._prefix, self._inversion):
                start = time.monotonic()
                name, budget, seen = attack(side)
                yield name, budget, seen, time.monotonic() - start
        yield from self._relearn(side, unlearned, self._concept, "images")
        yield from self._relearn(side, unlearned, self._others, "unrelated images")

    def _none(self, side: str) -> tuple[str, str, Bool[Tensor, " images"]]:
        self._tell(f"{side}: plain prompts")
        return "none", "plain prompt", self._probe.ask(self._probe.texts)

    def _random(self, side: str) -> tuple[str, str, Bool[Tensor, " images"]]:
        self._tell(f"{side}: random prefix")
        attack = self._config.attack
        source = generator(self._config.seed, "attack", "random prefix")
        texts = [
            f"{random_prefix(self._vocabulary, text, attack, source)} {text}"
            for text in self._probe.texts
        ]
        return "prefix", f"{attack.prefix_tokens} random words", self._probe.ask(texts)

    def _prefix(self, side: str) -> tuple[str, str, Bool[Tensor, " images"]]:
        attack, microbatch = self._config.attack, self._config.learner.microbatch
        texts = self._probe.texts
        prefixes: list[str] = []
        for prompt, text in zip(self._probe.prompts, texts, strict=True):
            self._tell(f"{side}: prefix search {len(prefixes) + 1}/{len(texts)}")
            source = generator(self._config.seed, "attack", "prefix", prompt)
            held = self._concept.of(prompt)
            best = search(self._policy, self._vocabulary, text, held, attack, source, microbatch)
            prefixes.append(best.words)
        self.prefixes[side] = dict(zip(texts, prefixes, strict=True))
        budget = (
            f"{attack.prefix_tokens} words, {attack.prefix_restarts} x {attack.prefix_steps} steps"
        )
        asked = [f"{words} {text}" for text, words in zip(texts, prefixes, strict=True)]
        return "prefix", budget, self._probe.ask(asked)

    def _inversion(self, side: str) -> tuple[str, str, Bool[Tensor, " images"]]:
        self._tell(f"{side}: inversion")
        config = self._config
        vector = inversion.invert(
            self._policy,
            self._book,
            self._concept,
            config.attack,
            generator(config.seed, "attack", "inversion"),
            config.learner.microbatch,
        )
        condition = inversion.encode(
            self._policy, self._probe.texts, inversion.name(self._book), vector
        )
        return (
            "inversion",
            f"{len(self._concept)} images, {config.attack.inversion_steps} steps",
            self._probe.hits(condition),
        )

    def _relearn(
        self, side: str, unlearned: bool, references: References, kind: str
    ) -> Iterator[tuple[str, str, Bool[Tensor, " images"], float]]:
        config = self._config
        held = references.spread(config.attack.relearn_images)
        names = (config.seed, "attack", "relearn", kind)
        start = time.monotonic()
        self._tell(f"{side}: relearning {kind}", 0)
        microbatch = config.learner.microbatch
        for steps in relearn(
            self._policy, self._book, held, config.attack, names, microbatch, unlearned
        ):
            self._tell(f"{side}: relearning {kind}")
            seen = self._probe.ask(self._probe.texts)
            yield "relearn", f"{len(held)} {kind}, {steps} steps", seen, time.monotonic() - start

    def _tell(self, text: str, parts: int = 1) -> None:
        self._progress(text, self._done, self._total)
        self._done += parts
