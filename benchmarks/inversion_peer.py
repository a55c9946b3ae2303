"""Inverting gradients by breaching, run by the python of its own environment: `python inversion_peer.py IN OUT STEPS SEED`.

Its own default configuration but for the number of iterations. IN: module and gradients (torch.save); OUT: images (npy). Prints
{"seconds": processor seconds}. Uses nothing of ours.
"""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np


def main(source: str, target: str, steps: int, seed: int) -> None:
    """Attack and print."""
    import torch

    torch.set_num_threads(1)
    # A CPU torch beside a torchvision made for a GPU lacks the names that torchvision looks up when it is imported.
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call,unused-ignore]
    for op in ("nms", "qnms"):
        library.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import breaching  # type: ignore[import-not-found,unused-ignore]

    torch.manual_seed(seed)
    given = torch.load(source, weights_only=False)
    module = given["module"]
    settings = breaching.get_attack_config("invertinggradients", overrides=[f"optim.max_iterations={steps}"])
    setup = {"device": torch.device("cpu"), "dtype": torch.float}
    attacker = breaching.attacks.prepare_attack(module, torch.nn.CrossEntropyLoss(), settings, setup)
    about = SimpleNamespace(modality="vision", shape=given["shape"], classes=given["classes"])
    sent = [{"parameters": given["weights"], "buffers": None, "metadata": about}]
    known = {"num_data_points": given["records"], "labels": None, "local_hyperparams": None}
    shared = [{"gradients": given["gradients"], "buffers": None, "metadata": known}]
    began = time.process_time()
    found, _ = attacker.reconstruct(sent, shared, {})
    seconds = time.process_time() - began
    np.save(target, found["data"].detach().numpy())
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
