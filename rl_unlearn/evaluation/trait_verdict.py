"""What the figures of a trait mean, in plain words.

About half of the untouched model's images may have it or hardly any, so what counts is how much of
that share is left; and its prompts must show all that they name, object and style, as before.
"""

from rl_unlearn.evaluation.verdict import DAMAGE, FORGOTTEN, HIGH_UA, Signs, Verdict, damage

RARE = 5.0
"""Percent of the untouched model's images that have it, below which nothing can be said."""


def judge_trait(signs: Signs) -> Verdict:
    """Weighs the signs; images of target prompts that no longer show what was asked are broken."""
    before, after = 100 - signs.ua_before, 100 - signs.ua
    shares = f"{after:.0f} % of the images of its prompts ({before:.0f} % before)"
    if before < RARE:
        return Verdict(
            False,
            f"Nothing can be said: the judge sees the trait on {before:.0f} % of the untouched "
            "model's images only.",
        )
    kept = (
        f"{signs.coherence:.0f} % of them show object and style as asked "
        f"({signs.coherence_before:.0f} % before)"
    )
    gone = 100 * (1 - after / before)
    if gone < HIGH_UA:
        return Verdict(False, f"Not forgotten: the judge still sees the trait on {shares}; {kept}.")
    if signs.coherence < 0.5 * signs.coherence_before:
        return Verdict(
            True,
            f"The images are broken, not the trait forgotten: the judge sees it on {shares}, but "
            f"only {kept}.",
        )
    lead = "Forgotten" if gone >= FORGOTTEN else "Partly forgotten"
    hurt = signs.coherence < signs.coherence_before - DAMAGE
    harm = damage(signs)
    if harm:
        rest = f"; but {harm}"
    elif hurt:
        rest = "; but its prompts show less of the rest"
    else:
        rest = f"; the rest is kept (IRA {signs.ira:.0f} %, CRA {signs.cra:.0f} %)"
    return Verdict(False, f"{lead}: the judge sees the trait on {shares}, and {kept}{rest}.")
