"""Inline mode: the same actor classes in this process, called as Ray calls them, so that a debugger
can step in.

It is also the executable specification of what the loop may expect: calls to one actor run in the
order they were made, arguments that are references are resolved first, coroutine methods (the
replay store's) may wait without blocking.
"""

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any


class InlineHandle:
    """Looks like a Ray actor handle: ``handle.method.remote(...)`` returns an awaitable
    reference."""

    def __init__(self, actor: object):
        self._actor = actor
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> "_InlineMethod":
        return _InlineMethod(getattr(self._actor, name), self._turn)


class _InlineMethod:
    def __init__(self, method: Any, turn: asyncio.Lock):
        self._method, self._turn = method, turn

    def remote(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(self._call(args, kwargs))

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._method):
            args, kwargs = await _resolved(args, kwargs)
            return await self._method(*args, **kwargs)
        async with self._turn:  # first come, first served
            args, kwargs = await _resolved(args, kwargs)
            return self._method(*args, **kwargs)


async def _resolved(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    values = [await a if isinstance(a, asyncio.Future) else a for a in args]
    named = {k: await v if isinstance(v, asyncio.Future) else v for k, v in kwargs.items()}
    return tuple(values), named
