"""Every actor keeps the contract that the loop is written against."""

import inspect
import types
import typing
from collections.abc import Awaitable, Coroutine
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from actors.critic import CriticActor
from actors.replay import ReplayActor
from actors.rollout import RolloutActor
from experiments.runs.checkpoints import Checkpoints
from learner import roles
from learner.learner import Learner

ACTORS = {
    roles.RolloutHandle: RolloutActor,
    roles.CriticHandle: CriticActor,
    roles.ReplayHandle: ReplayActor,
    roles.LearnerHandle: Learner,
}
CALLS = [
    pytest.param(actor, name, method, id=f"{actor.__name__}.{name}")
    for role, actor in ACTORS.items()
    for name, method in get_type_hints(role).items()
]


def value(hint: Any) -> Any:
    """What an argument is once a reference to it has been resolved."""
    if get_origin(hint) in (Union, types.UnionType):
        kept = [part for part in get_args(hint) if get_origin(part) is not Awaitable]
        return typing.Union[tuple(kept)] if len(kept) > 1 else kept[0]  # noqa: UP007
    return hint


@pytest.mark.parametrize(("actor", "name", "method"), CALLS)
def test_an_actor_has_the_method_with_these_arguments_and_this_answer(
    actor: type, name: str, method: Any
) -> None:
    arguments, answer = get_args(method)
    written = inspect.unwrap(getattr(actor, name))
    hints = get_type_hints(written)
    returned = hints.pop("return")
    if get_origin(returned) is Coroutine:
        returned = get_args(returned)[-1]
    parameters = list(inspect.signature(written).parameters.values())[1:]
    required = [p for p in parameters if p.default is p.empty]
    assert len(required) <= len(arguments) <= len(parameters)
    for parameter, argument in zip(parameters, arguments, strict=False):
        wanted, given = hints[parameter.name], value(argument)
        assert given == wanted or given in get_args(wanted), parameter.name
    assert returned == answer


def test_checkpoints_are_a_checkpoint_store() -> None:
    wanted = {name for name in vars(roles.CheckpointStore) if not name.startswith("_")}
    assert wanted
    for name in wanted:
        asked = inspect.signature(getattr(roles.CheckpointStore, name))
        assert list(inspect.signature(getattr(Checkpoints, name)).parameters) == list(
            asked.parameters
        )
