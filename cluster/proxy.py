"""Which variable puts a proxy before an address, as Python's HTTP clients read them."""

import os
from urllib.parse import urlsplit
from urllib.request import proxy_bypass


def of(url: str) -> str | None:
    """Returns the variable, such as HTTP_PROXY, that applies to ``url``; None if none does."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    for wanted in (f"{parts.scheme}_proxy", "all_proxy"):
        for name in sorted(os.environ, key=str.islower, reverse=True):  # small letters count more
            if name.lower() == wanted and os.environ[name]:
                return name
    return None


def remedy(url: str) -> str:
    """Returns the end of an error line where a proxy may be the cause, else an empty text."""
    variable = of(url)
    if variable is None:
        return ""
    return (
        f"; {variable} sends this through a proxy: add {urlsplit(url).hostname} to NO_PROXY to "
        "ask it directly"
    )
