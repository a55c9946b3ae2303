"""FRL with LeNet on Fashion-MNIST: see `frl_images`. A long command: with --out it goes on where it was left."""

from edgehold.attacks.eval.reproductions.frl_images import Study

NAME = "frl_fashion"
SUMMARY = "Rank votes, LeNet on Fashion-MNIST (long): near FedAvg, held against reversed votes; needs --data"
_STUDY = Study(NAME, "fashion-mnist", "lenet", epochs=2, rounds=10, records=200, tests=2000)
cells, play, judge = _STUDY.cells, _STUDY.play, _STUDY.judge
