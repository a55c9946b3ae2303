"""How the C library keeps freed memory: a server of many threads must not hold a chunk of everybody's in each of them."""

import ctypes

_ARENA_MAX = -8
"""M_ARENA_MAX of <malloc.h> of the GNU C library."""
ARENAS = 2


def few_arenas() -> bool:
    """Let threads share `ARENAS` pools of memory; call before there are threads. False where the C library has no such thing.

    By default every thread gets a pool of its own, up to eight for each core, and what a transfer has freed stays in the pool
    of the thread that served it: a server's memory then grows with its threads, not with its work.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_ARENA_MAX, ARENAS))
