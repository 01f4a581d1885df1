"""The untouched model under the CLIPs: where it does not draw what is asked, nothing can be learned
from them.
"""

from rl_unlearn.errors import ConfigError
from rl_unlearn.validation import Validation

ENOUGH = 8
"""Images of a kind from which on none is no chance: of a concept that is seen on half of them, one
time in 256."""
_LIKELY = (
    "check prompts.template or the lists, reward.clip, selection.clip and the model's own images"
)


def check_untouched(
    validation: Validation, floor: float, images: int, trait: str | None = None
) -> list[str]:
    """Lines for a person about what is seen on fewer than ``floor`` of the images of the untouched
    model.

    ``images``: how many there are of either kind of prompt, at least. ``trait``: the one to be
    forgotten; how many images have it is no matter, as long as some do. Raises ConfigError, which
    names the settings that are to blame, for what is seen on none of ENOUGH. With a ``floor`` of 0
    nothing is checked.
    """
    if trait is None:
        lost = "the concept on images that ask for it (by selection.clip)"
    else:
        lost = f"{trait!r} on images of target prompts (by selection.image)"
    seen = {
        lost: 1 - validation.forgotten,
        "what was asked on images of prompts to keep (by selection.clip)": validation.retained,
        "what was asked on images of prompts to keep (by reward.clip)": validation.rewarded,
    }
    if floor > 0 and images >= ENOUGH:
        for what, share in seen.items():
            if share == 0:
                raise ConfigError(
                    f"the untouched model does not show {what}: there is nothing to learn; "
                    f"{_LIKELY}"
                )
    if trait is not None:
        del seen[lost]
    seen["the rest of the prompt on images of prompts to keep (by selection.clip)"] = (
        validation.other
    )
    return [
        f"the untouched model shows {what} in {share:.0%} of cases only; {_LIKELY}"
        for what, share in seen.items()
        if share < floor
    ]
