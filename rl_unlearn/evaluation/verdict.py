"""What the figures mean, in plain words: forgotten, or only broken?

A destroyed model scores a perfect UA. Three witnesses tell it from one that forgot, all on the
concept's own images: coherence (the rest of the prompt), CLIP similarity to the untouched model's
images of the same noise, and how sure the judge is of whatever it sees. Similarity falls in honest
forgetting, too, so it is held against what another concept's images in the same style would score;
the judge's sureness falls where shapeless things take the concept's place, so by itself it breaks
nothing unless hardly any is left.
"""

from dataclasses import dataclass

HIGH_UA = 50.0
"""Percent from which UA claims forgetting, so that it is asked whether the images are broken."""
FORGOTTEN = 80.0
"""Percent of UA that counts as forgotten; between this and HIGH_UA it is partly so."""
DAMAGE = 5.0
"""Percentage points that IRA or CRA may lose before the verdict speaks of damage."""


@dataclass(frozen=True)
class Signs:
    """Percentages, of the untouched model (`before`) and of the adapter."""

    ua: float
    ua_before: float
    coherence: float
    coherence_before: float
    sure: float
    """Mean probability of the class the judge sees in the concept's domain, on the concept's
    images."""
    sure_before: float
    similarity: float
    """CLIP similarity to the untouched model's images of the same prompts and noise, on the
    concept's images."""
    stranger: float
    """The same between the untouched model's images of the concept and of other concepts with the
    same other label."""
    ira: float
    ira_before: float
    cra: float
    cra_before: float
    worst: str = ""
    """The most damaged other concept, with its figures, as words."""


@dataclass(frozen=True)
class Verdict:
    """Whether the images are broken, and the finding in one sentence."""

    broken: bool
    sentence: str


def judge_signs(signs: Signs) -> Verdict:
    """Weighs the signs; only a high UA can be exposed as breakage."""
    if signs.ua_before >= HIGH_UA:
        return Verdict(
            False,
            f"Nothing can be said: the judge misses the concept on {signs.ua_before:.0f} % of the "
            "untouched model's images, too.",
        )
    if signs.ua < HIGH_UA:
        rest = f", and {_damage(signs)}" if _damaged(signs) else ""
        return Verdict(
            False,
            f"Not forgotten: the judge still sees the concept on {100 - signs.ua:.0f} % of the "
            f"images asked to show it{rest}.",
        )
    if is_broken(signs):
        return Verdict(True, _broken_sentence(signs))
    lead = "Forgotten" if signs.ua >= FORGOTTEN else "Partly forgotten"
    hollow = _hollow(signs)
    instead = (
        f"; what stands there instead is often nothing recognisable (the judge is {signs.sure:.0f} "
        f"% sure of what it sees, {signs.sure_before:.0f} % before)"
        if hollow
        else ""
    )
    rest = (
        f"; but {_damage(signs)}"
        if _damaged(signs)
        else f"; the rest is kept (IRA {signs.ira:.0f} %, CRA {signs.cra:.0f} %)"
    )
    return Verdict(
        False,
        f"{lead}: the judge does not see the concept on {signs.ua:.0f} % of its images, and "
        f"{signs.coherence:.0f} % of them still follow the rest of the prompt{instead}{rest}.",
    )


def is_broken(signs: Signs) -> bool:
    """Returns whether the concept's images are broken rather than images of something else.

    Calibrated on the emoji canvas: adapters that forget keep nearly all coherence and the
    similarity of a stranger, a random adapter that destroys loses both.
    """
    coherent = signs.coherence / max(signs.coherence_before, 1e-9)
    similar = signs.similarity / max(signs.stranger, 1e-9)
    sure = signs.sure / max(signs.sure_before, 1e-9)
    return (
        coherent < 0.5
        or similar < 0.5
        or sure < 0.25
        or (_hollow(signs) and (coherent < 0.8 or similar < 0.8))
    )


def _hollow(signs: Signs) -> bool:
    return signs.sure < 0.6 * signs.sure_before


def _damaged(signs: Signs) -> bool:
    return signs.ira < signs.ira_before - DAMAGE or signs.cra < signs.cra_before - DAMAGE


def _damage(signs: Signs) -> str:
    worst = f", {signs.worst} most" if signs.worst else ""
    return (
        f"the rest is damaged{worst} (IRA {signs.ira_before:.0f} to {signs.ira:.0f} %, CRA "
        f"{signs.cra_before:.0f} to {signs.cra:.0f} %)"
    )


def _broken_sentence(signs: Signs) -> str:
    rest = f"; {_damage(signs)}" if _damaged(signs) else ""
    return (
        f"The images are broken, not the concept forgotten: UA is {signs.ua:.0f} %, but only "
        f"{signs.coherence:.0f} % of these images still follow the rest of their prompt "
        f"({signs.coherence_before:.0f} % before), the judge is {signs.sure:.0f} % sure of what it "
        f"sees ({signs.sure_before:.0f} % before), and their similarity to the untouched model's "
        f"is {signs.similarity:.0f} (another concept's: {signs.stranger:.0f}){rest}."
    )
