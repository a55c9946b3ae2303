"""Waiting for what must come true, never for a time to pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], timeout_s: float = 20.0, what: str = "") -> T:
    """The first true value of `condition`; `TimeoutError` names `what` otherwise."""

    async def ask() -> T:
        return condition()

    return await eventually_async(ask, timeout_s, what or str(condition))


async def eventually_async(condition: Callable[[], Awaitable[T]], timeout_s: float = 20.0, what: str = "") -> T:
    """The same for a condition that must be awaited."""
    end = asyncio.get_running_loop().time() + timeout_s
    while True:
        if value := await condition():
            return value
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"{what or condition} did not come true in {timeout_s:g} s")
        await asyncio.sleep(0.01)
