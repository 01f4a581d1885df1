"""Variables that are set for a library's sake are as they were afterwards."""

import os

import pytest

from cluster import environment

NAME = "RL_UNLEARN_TEST_VARIABLE"


@pytest.mark.parametrize("before", [None, "", "as it was"])
@pytest.mark.parametrize("fails", [False, True])
def test_each_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, before: str | None, fails: bool
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if before is not None:
        monkeypatch.setenv(NAME, before)
    for _ in range(2):
        try:
            with environment.setting({NAME: "set"}):
                assert os.environ[NAME] == "set"
                if fails:
                    del os.environ[NAME]  # by the library
                    raise KeyError(NAME)
        except KeyError:
            assert fails
        assert os.environ.get(NAME) == before
