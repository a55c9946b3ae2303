"""Label poisoning: pure functions from clean labels to flipped ones, for two classes unless said otherwise.

Each takes what its attacker knows (labels alone, or a `Victim` to train), how many labels to flip, and a generator; each gives
back new labels and leaves the old ones alone. `ATTACKS` in `catalogue` has them by name.
"""
