"""Rule-aware search: the lie along one of three directions that moves the server's own rule farthest, or that it still picks.

Against rules that leave updates out as a whole (Krum, Multi-Krum, Bulyan, MDA, MoNNA) the lie must be kept, and goes as far as
it is; against others it does the most harm. Knowledge K1+A or K2+A. Source: Shejwalkar and Houmansadr 2021, algorithm 1.
Departures: searches start at the length of Min-Max, which has the right scale, instead of 5; golden sections instead of
bisection where nothing has to be picked, since harm need not rise with length.
"""

from dataclasses import dataclass

from edgehold.attacks.byzantine.directions import DIRECTIONS, Choice, check_choice, chosen, honest
from edgehold.attacks.byzantine.harm import Along, along
from edgehold.attacks.byzantine.knowledge import K1_RULE
from edgehold.attacks.byzantine.min_max import farthest
from edgehold.attacks.byzantine.rule import Line
from edgehold.attacks.byzantine.search import GRID, best, golden, largest
from edgehold.attacks.byzantine.sight import Lies, Sight, moments


@dataclass(frozen=True)
class RuleAware:
    """direction: as in `MinMax`; "best": the one that does most harm."""

    direction: Choice = "best"
    needs = K1_RULE
    fewest = 2
    remembers = False

    def __post_init__(self) -> None:
        check_choice(self.direction)

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        middle, spread = moments(sight.known)
        found = []
        for name in chosen(self.direction):
            push = DIRECTIONS[name](middle, spread)
            start = farthest(honest(sight.known, middle, push))
            if start == 0.0:
                continue
            line = along(sight, middle, push)
            gamma = reached(line, start)
            found.append((line.exact(gamma), gamma, push))
        if not found:
            return sight.everyone(middle)
        _, gamma, push = max(found, key=lambda one: one[0])
        return sight.everyone(middle + gamma * push)


def reached(line: Along, start: float) -> float:
    """How far to go: the farthest that is picked, else the most harmful of start times the positive grid and what lies between.

    start: a length above 0 that gives the scale.
    """
    if isinstance(line, Line) and line.selects:
        return largest(line.picked, start)
    tried = golden(line.score, [start * factor for factor in GRID if factor >= 0.0], 12)
    return float(max(best(tried, 3 if line.sampled else 1), key=line.exact))
