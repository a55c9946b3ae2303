"""Work that blocks, off the event loop; and work that must be done to its end once begun."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

INLINE_BYTES = 64 << 10
"""Work on fewer bytes than this is done where it stands; more goes to a thread."""


async def offload(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run work on `size` bytes without holding up the other clients."""
    return work(*arguments) if size < INLINE_BYTES else await to_its_end(asyncio.to_thread(work, *arguments))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is done before this returns even if the caller is cancelled (its client hung up): a thread
    cannot be called off, and nobody may touch its file before it is through.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is left to hear it
        raise
