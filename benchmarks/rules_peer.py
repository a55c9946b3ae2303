"""One ByzFL rule, measured by the python of ByzFL's own environment: `python rules_peer.py RULE N F D REPEATS [OUT]`.

Prints {"seconds": processor seconds per call, median, "memory": growth of resident memory in MiB}. OUT: where
its result goes (npy). Uses nothing of ours.
"""

import json
import sys
import time
from statistics import median
from typing import Any


def resident(field: str) -> int:
    """KiB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def load() -> Any:
    """The byzfl module.

    A CPU torch beside a torchvision made for a GPU lacks the names that torchvision looks up when it is imported.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    try:
        import byzfl  # type: ignore[import-not-found,unused-ignore]
    except RuntimeError:
        for module in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[module]
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call,unused-ignore]
        for op in ("nms", "qnms"):
            library.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import byzfl

        KEPT.append(library)
    return byzfl


KEPT: list[Any] = []


def main(name: str, n: int, f: int, d: int, repeats: int, out: str = "") -> None:
    """Measure and print."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    byzfl = load()

    def make(part: str) -> Any:
        if part in ("Average", "Median", "GeometricMedian", "CenteredClipping"):
            return getattr(byzfl, part)()
        return getattr(byzfl, part)(f)

    def call() -> Any:
        values = x.clone() if "ARC" in name else x  # it overwrites its input
        for part in name.split("+"):
            values = make(part)(values)
        return values

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((n, d), dtype=np.float32))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
    result = call()
    memory = (resident("VmHWM") - before) / 1024
    if out:
        np.save(out, result.numpy())
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    print(json.dumps({"seconds": median(seconds), "memory": memory}))


if __name__ == "__main__":
    clients, liars, width, times = (int(value) for value in sys.argv[2:6])
    main(sys.argv[1], clients, liars, width, times, "".join(sys.argv[6:]))
