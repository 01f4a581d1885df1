"""The before/after picture of a run: fixed prompts, fixed seeds, nothing picked."""

from PIL import Image

from experiments import pictures
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import Prompt, PromptBook

ROWS = 5
COLUMNS = 8
FIRST_SEED = 1_000


def choose(book: PromptBook) -> tuple[list[list[Prompt]], list[str], list[str]]:
    """Prompts of the picture as a table with labels; the concept's row comes first, the others are spread evenly."""
    if len(book.names["style"]) > 1 and len({prompt.style for prompt in book.prompts}) > 1:
        return _from_grid(book)
    targets = [book.prompts[i] for i in _spread(book.targets, COLUMNS)]
    kept = [book.prompts[i] for i in _spread(book.retained, (ROWS - 1) * COLUMNS)]
    table = [targets] + [kept[i : i + COLUMNS] for i in range(0, len(kept), COLUMNS)]
    return table, ["to forget"] + ["to keep"] * (len(table) - 1), [""] * max(len(row) for row in table)


def _from_grid(book: PromptBook) -> tuple[list[list[Prompt]], list[str], list[str]]:
    down, across = (book.concept_domain, book.other_domain)
    others = [i for i in range(len(book.names[down])) if i != book.concept_index]
    rows = [book.concept_index, *_spread(others, ROWS - 1)]
    columns = _spread(list(range(len(book.names[across]))), COLUMNS)
    place = {(getattr(prompt, down), getattr(prompt, across)): prompt for prompt in book.prompts}
    table = [[place[i, j] for j in columns] for i in rows]
    labels = [book.names[down][i] + (" (to forget)" if i == book.concept_index else "") for i in rows]
    return table, labels, [book.names[across][j] for j in columns]


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` items at even distances."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def draw(policy: DiffusionPolicy, book: PromptBook, batch: int) -> Image.Image:
    """The table drawn by the untouched model and, below, by the policy, from the same noise."""
    table, rows, columns = choose(book)
    texts = [prompt.text for row in table for prompt in row]
    seeds = list(range(FIRST_SEED, FIRST_SEED + len(texts)))
    halves = []
    for title, adapted in (("before", False), ("after", True)):
        with policy.adapter_enabled(adapted):
            images = iter([pictures.to_image(pixels) for pixels in policy.generate(texts, seeds, batch)])
        halves.append(pictures.grid([[next(images) for _ in row] for row in table], rows, columns, title))
    return pictures.stack(*halves)
