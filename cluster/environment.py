"""Variables of the environment that a library reads, set while it reads them and no longer."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def setting(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for a while, then puts each one back as it was.

    All later work of this process reads them, too.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
