"""Threads share a few pools of memory: what they free does not stay behind once for each of them."""

import platform
import subprocess
import sys

import pytest

from edgehold.core.allocator import few_arenas

PLAYED = """
import ctypes, sys, threading
from edgehold.core.allocator import few_arenas

assert sys.argv[1] == "as ever" or few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together, places = threading.Barrier(8), []

def work():
    together.wait()
    places.append(libc.malloc(1000) >> 26)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(set(places)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library alone has pools for threads")
def test_threads_share_pools() -> None:
    """A pool of a thread lies in a 64 MiB region of its own: regions are counted, with the control that does not ask."""
    pools = {}
    for way in ("as ever", "few"):
        done = subprocess.run([sys.executable, "-c", PLAYED, way], capture_output=True, text=True, check=True)
        pools[way] = int(done.stdout)
    assert pools["few"] <= 2 < pools["as ever"]


def test_where_there_is_none_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert few_arenas() is False
