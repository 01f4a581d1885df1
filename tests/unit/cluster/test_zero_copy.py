"""A private Ray is started so that tensors are not copied, unless the user says otherwise."""

import os
import warnings

import numpy as np
import pytest
import ray
import tiny
import torch

from cluster import private, zero_copy


@pytest.mark.parametrize(("said", "meant"), [(None, "1"), ("0", "0")])
def test_a_private_ray_is_told(
    monkeypatch: pytest.MonkeyPatch, said: str | None, meant: str
) -> None:
    class StartedError(Exception):
        """Ends the start."""

    def init(**_: object) -> None:
        raise StartedError(os.environ.get(zero_copy.VARIABLE))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of a test")
    monkeypatch.delenv(zero_copy.VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(zero_copy.VARIABLE, said)
    with pytest.raises(StartedError, match=meant):
        private.start(tiny.config())
    assert os.environ.get(zero_copy.VARIABLE) == said


def test_a_tensor_that_is_only_read_is_no_reason_to_warn() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        zero_copy.expect()
        torch.from_numpy(array)
    assert not told
