"""Lines for people, as they are: no markup, no highlights, no line breaks of rich's own."""

from rich.console import Console


def print_plain(console: Console, text: str) -> None:
    """Prints one line or several."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
