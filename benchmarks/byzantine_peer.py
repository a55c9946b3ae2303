"""One optimal attack of ByzFL, run by the python of ByzFL's own environment: `python byzantine_peer.py KIND IN OUT F`.

KIND: ipm or alie, against nearest-neighbour mixing and the trimmed mean, with ByzFL's own settings. IN: honest updates (npy);
OUT: where its lie goes (npy). Prints {"seconds": processor seconds}. Uses nothing of ours.
"""

import json
import sys
import time

import numpy as np
from rules_peer import load  # type: ignore[import-not-found,unused-ignore]


def main(kind: str, source: str, target: str, f: int) -> None:
    """Measure and print."""
    byzfl = load()
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    made = {"ipm": byzfl.Optimal_InnerProductManipulation, "alie": byzfl.Optimal_ALittleIsEnough}[kind]
    attack = made(agg=byzfl.TrMean(f=f), pre_agg_list=[byzfl.NNM(f=f)], f=f)
    honest = torch.from_numpy(np.load(source))
    began = time.process_time()
    lie = attack(honest)
    seconds = time.process_time() - began
    np.save(target, lie.numpy())
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
