"""Variables of the environment that a library reads, set while it does so and no longer."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def setting(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets them, and leaves each one as it was: all later work of this process reads them, too."""
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
