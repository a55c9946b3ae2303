"""The demo: one fl-server and eight fl-clients as real processes on this machine, three runs, one table.

    python -m edgehold.attacks.demo [--json FILE] [--keep DIR] [--seed N] [--seeds N]

`clean`: FedAvg, everybody honest. `attacked`: two of the eight clients restart as liars (sign flip) and the server goes on
averaging. `defended`: the same liars against the trimmed mean. Everything travels through the real protocol: identities by
one-time tokens, mutual TLS, signed updates.
"""

from edgehold.attacks.demo.outcome import Outcome
from edgehold.attacks.demo.plan import SCENARIOS

__all__ = ["SCENARIOS", "Outcome"]
