"""Waiting for what must come true, never for a time to pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 20.0, what: str = "") -> T:
    """The first true value of `condition` (a plain or an async function); `TimeoutError` names `what` otherwise."""
    end = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        value = await found if isinstance(found, Awaitable) else found
        if value:
            return value
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"{what or condition} did not come true in {timeout_s:g} s")
        await asyncio.sleep(0.01)
