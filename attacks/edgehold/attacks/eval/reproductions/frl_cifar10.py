"""FRL with Conv8 on CIFAR-10: see `frl_images`. A long command: with --out it goes on where it was left."""

from edgehold.attacks.eval.reproductions.frl_images import BOOST, CLEAN, REVERSE, Study

NAME = "frl_cifar10"
SUMMARY = "Rank votes, Conv8 on CIFAR-10 (long): near FedAvg, held against reversed votes; needs --data"
_ROWS = (("frl", "", CLEAN), ("frl", "", REVERSE), ("fedavg", "average", CLEAN), ("fedavg", "average", BOOST))
_STUDY = Study(NAME, "cifar10", "conv8", epochs=2, rounds=12, records=100, tests=2000, rows=_ROWS)
cells, play, judge = _STUDY.cells, _STUDY.play, _STUDY.judge
