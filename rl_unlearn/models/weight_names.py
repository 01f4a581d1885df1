"""Names of files with weights: which ones a component is read from, told by a listing of its folder
alone.

A variant is a second set of weights beside the plain one, such as `fp16`. Its name stands before
the ending of a single file; in an index of shards transformers and diffusers write it at the end,
older files before `.safetensors`.
"""

from collections.abc import Collection

HALF = "fp16"
"""The variant that is taken unasked where no plain files are."""


def entry(names: Collection[str], stem: str, variant: str | None) -> str | None:
    """Returns the file to begin with: the weights, or the index of their shards; None if there is
    neither.

    Without ``variant`` the plain files come first, then those of half precision; with it that
    variant, and the plain files for a component that has it not.
    """
    order = (variant, None) if variant else (None, HALF)
    return next((name for kind in order for name in spellings(stem, kind) if name in names), None)


def spellings(stem: str, variant: str | None) -> tuple[str, ...]:
    """Returns all names that the weights of a variant, None: the plain ones, may have, those of
    indices last.
    """
    if variant is None:
        return f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    return (
        f"{stem}.{variant}.safetensors",
        f"{stem}.safetensors.index.{variant}.json",
        f"{stem}.{variant}.safetensors.index.json",
    )


def is_index(name: str) -> bool:
    """Tells whether a file names shards instead of holding weights."""
    return name.endswith(".json")


def variant_of(name: str, stem: str) -> str | None:
    """Returns the variant of a file of weights, or of an index; None for a plain one, a shard, and
    what is neither.
    """
    for before, after in ((f"{stem}.", ".safetensors"), (f"{stem}.safetensors.index.", ".json"),
                          (f"{stem}.", ".safetensors.index.json")):  # fmt: skip
        middle = name.removeprefix(before).removesuffix(after)
        if (
            name == f"{before}{middle}{after}"
            and middle
            and "." not in middle
            and "-of-" not in middle
        ):
            return middle
    return None
