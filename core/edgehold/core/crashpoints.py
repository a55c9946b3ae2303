"""Named places where a test kills the process, as `kill -9` would: EDGEHOLD_CRASH_AT="name" or "name:3" (third time).

Unset, which is every run that is not a crash test, `reach` is an empty function.
"""

import os
from collections.abc import Callable

VARIABLE = "EDGEHOLD_CRASH_AT"
EXIT_CODE = 137
"""What a shell reports for a process killed by signal 9."""


def killer(setting: str, die: Callable[[int], object] = os._exit) -> Callable[[str], None]:
    """The `reach` for one value of the variable: dies at the n-th arrival at the named point, without any clean-up.

    `ValueError` when the count is no positive number: a crash test that never crashes would pass for nothing.
    """
    if not setting:
        return _pass_by
    wanted, _, count = setting.partition(":")
    left = int(count or "1")
    if left < 1:
        raise ValueError(f"{VARIABLE}={setting!r}: the count starts at 1")

    def reach(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                die(EXIT_CODE)

    return reach


def _pass_by(name: str) -> None:
    """The point `name` in a process that nobody wants to kill."""


reach = killer(os.environ.get(VARIABLE, ""))
