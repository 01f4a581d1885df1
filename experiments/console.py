"""Lines of text for a person who watches."""

from rich.console import Console


def say(console: Console, line: str) -> None:
    """Prints text of any origin as it is: neither wrapped, nor coloured, nor read as markup."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)
