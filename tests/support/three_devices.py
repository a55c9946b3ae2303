"""What network tests of methods have in common: three devices with a third of the digits each, and a plan that needs all."""

from typing import Any

DEVICES = 3
ENTRY = "edgehold.client.data.tasks:make_task"


def options(index: int, **more: Any) -> dict[str, Any]:
    """Arguments of `ENTRY` for one device; -1: the server's copy."""
    return {"dataset": "digits", "device_index": index, "devices": DEVICES, **more}


def plan(name: str, method: str, deadline_s: float = 30.0, cohort: str = "") -> str:
    """Two rounds, scored at the end. method: the body of [method]; cohort: further lines of [cohort]."""
    return f"""
[run]
name = "{name}"
rounds = 2
task = "digits"
seed = 11
[cohort]
size = {DEVICES}
quorum = {DEVICES}
over_select = 1.0
join_deadline_s = {deadline_s}
round_deadline_s = {deadline_s}
{cohort}
[evaluation]
every = 2
[method]
{method}
"""
