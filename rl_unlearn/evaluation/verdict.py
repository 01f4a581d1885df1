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
FAINT = 10.0
"""Percentage points that the judge may be less sure of the anchor in the concept's place than where
the untouched model draws it, before the verdict says so."""
ALIKE = 60.0
"""Percent of the spread of the untouched model's images of the anchor, below which those in the
concept's place are called much the same."""
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
    anchor: str = ""
    """What shall stand in the concept's place."""
    anchored: float | None = None
    """Mean probability of it by the judge, on the concept's images."""
    anchored_before: float | None = None
    """The same on the untouched model's images of the anchor."""
    spread: float | None = None
    """How varied the concept's images are, in percent of the untouched model's of the anchor."""


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
        rest = f", and {harm}" if (harm := damage(signs)) else ""
        return Verdict(
            False,
            f"Not forgotten: the judge still sees the concept on {100 - signs.ua:.0f} % of the "
            f"images asked to show it{rest}.",
        )
    if is_broken(signs):
        return Verdict(True, _broken_sentence(signs))
    lead = "Forgotten" if signs.ua >= FORGOTTEN else "Partly forgotten"
    instead = _instead(signs)
    rest = (
        f"; but {harm}"
        if (harm := damage(signs))
        else f"; the rest is kept (IRA {signs.ira:.0f} %, CRA {signs.cra:.0f} %)"
    )
    return Verdict(
        False,
        f"{lead}: the judge does not see the concept on {signs.ua:.0f} % of its images, and "
        f"{signs.coherence:.0f} % of them still follow the rest of the prompt{instead}{rest}.",
    )


def _instead(signs: Signs) -> str:
    """Returns what is wrong with that which stands in the concept's place."""
    if _hollow(signs):
        said = (
            f"; what stands there instead is often nothing recognisable (the judge is "
            f"{signs.sure:.0f} % sure of what it sees, {signs.sure_before:.0f} % before)"
        )
    elif (
        signs.anchored is not None
        and signs.anchored_before is not None
        and signs.anchored < signs.anchored_before - FAINT
    ):
        said = (
            f"; of the {signs.anchor} that should stand there the judge is {signs.anchored:.0f} % "
            f"sure ({signs.anchored_before:.0f} % where the untouched model draws it)"
        )
    else:
        said = ""
    if signs.spread is not None and signs.spread < ALIKE:
        said += (
            f"; it is much the same picture each time (it varies {signs.spread:.0f} % as much as "
            f"the untouched model's of the {signs.anchor})"
        )
    return said


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


def damage(signs: Signs) -> str:
    """Returns what was lost of the rest, in words; nothing where it was kept."""
    if not _damaged(signs):
        return ""
    worst = f", {signs.worst} most" if signs.worst else ""
    return (
        f"the rest is damaged{worst} (IRA {signs.ira_before:.0f} to {signs.ira:.0f} %, CRA "
        f"{signs.cra_before:.0f} to {signs.cra:.0f} %)"
    )


def _broken_sentence(signs: Signs) -> str:
    rest = f"; {harm}" if (harm := damage(signs)) else ""
    return (
        f"The images are broken, not the concept forgotten: UA is {signs.ua:.0f} %, but only "
        f"{signs.coherence:.0f} % of these images still follow the rest of their prompt "
        f"({signs.coherence_before:.0f} % before), the judge is {signs.sure:.0f} % sure of what it "
        f"sees ({signs.sure_before:.0f} % before), and their similarity to the untouched model's "
        f"is {signs.similarity:.0f} (another concept's: {signs.stranger:.0f}){rest}."
    )
