"""Every Byzantine attack by name: what it is in NIST's words, what it needs, what it changes, where it is from.

Names of attacks: NIST AI 100-2 E2025, "Adversarial Machine Learning", poisoning attacks on predictive AI. Sections: of the
attack catalogue of this project.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from edgehold.attacks.byzantine.knowledge import K0, K1, K1_RULE, K2, Knowledge
from edgehold.attacks.byzantine.sight import Attack
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

MODEL, DATA, TARGETED, BACKDOOR = "Model Poisoning", "Availability Poisoning", "Targeted Poisoning", "Backdoor Poisoning"
AVAILABILITY, INTEGRITY = "availability", "integrity"
DELTA = "updates that carry a change of the model"
RECORDS = "any method; the device's training records"
RANKS, SIGNS = "frl: rankings", "hidenseek: sign bits"
BASES, CONSENSUS = "fedpca: bases", "noise_robust_admm: messages"
_HOME = "edgehold.attacks.byzantine."


@dataclass(frozen=True, slots=True)
class Card:
    """One attack. nist: its name there; goal: what it violates. needs: the least knowledge it works with.

    entry: "module:name" of an `Attack`, which both a `Plot` in the engine and `device.make` play by its name, or of a factory
    of an `Adversary`, which devices and virtual devices take as it is. options: what makes this attack of it.
    alone: why no matrix plays it, and what does; empty where one can.
    """

    name: str
    summary: str
    nist: str
    goal: str
    section: str
    needs: Knowledge
    applies: str
    source: str
    entry: str
    options: Mapping[str, Any]
    alone: str = ""

    @property
    def on_updates(self) -> bool:
        """Whether it is an `Attack` on changes of the model."""
        return self.applies == DELTA

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name, "summary": self.summary, "nist": self.nist, "goal": self.goal, "section": self.section,
            "needs": str(self.needs), "needs_words": self.needs.words, "applies": self.applies, "source": self.source,
            "entry": self.entry, "options": dict(self.options), "alone": self.alone,
        }  # fmt: skip


def _card(
    name: str, summary: str, section: str, needs: Knowledge, source: str, entry: str, options: Mapping[str, Any] | None = None,
    nist: str = MODEL, goal: str = AVAILABILITY, applies: str = DELTA, alone: str = "",
) -> Card:  # fmt: skip
    return Card(name, summary, nist, goal, section, needs, applies, source, _HOME + entry, options or {}, alone)


_FANG, _SHEJWALKAR, _FRL = "Fang et al. 2020", "Shejwalkar and Houmansadr 2021", "Mozaffari et al. 2023"
_AIMED, _CONSENSUS = "fl-eval reproduce aimed_liars", "fl-eval reproduce consensus_liars"
_CARDS = (
    _card("gaussian", "Normal noise", "1.1", K0, "Blanchard et al. 2017", "gaussian:Gaussian"),
    _card("not_finite", "NaN or infinity; must be refused", "1.1", K0, "Blanchard et al. 2017", "gaussian:NotFinite"),
    _card("zero", "No change at all", "1.1", K0, "Blanchard et al. 2017", "gaussian:Zero"),
    _card("sign_flip", "The opposite of the own update", "1.2", K0, "Damaskinos et al. 2018; Li et al. 2019",
          "sign_flip:SignFlip"),
    _card("sign_flip_mean", "The opposite of the honest mean", "1.2", K1, "Allen-Zhu et al. 2020", "sign_flip:SignFlip",
          {"of": "mean"}),
    _card("ipm", "A small push against the honest mean", "1.3", K1, "Xie et al. 2020", "ipm:Ipm"),
    _card("alie", "Within the honest spread, always on one side", "1.4", K1, "Baruch et al. 2019", "alie:Alie"),
    _card("alie_both", "As alie, on the side that does more harm", "1.4", K1_RULE, "Baruch et al. 2019", "alie:Alie",
          {"sign": 0}),
    _card("ipm_optimised", "IPM with the most harmful factor", "1.5", K1_RULE, "Allouah et al. 2023", "optimised:Optimised",
          {"kind": "ipm"}),
    _card("alie_optimised", "ALIE with the most harmful factor", "1.5", K1_RULE, "Allouah et al. 2023", "optimised:Optimised",
          {"kind": "alie"}),
    _card("min_max", "No farther from any honest update than two of them are apart", "1.6", K1, _SHEJWALKAR, "min_max:MinMax"),
    _card("min_sum", "Sum of squared distances no larger than an honest one's", "1.7", K1, _SHEJWALKAR, "min_max:MinSum"),
    _card("rule_aware", "As far as the rule still picks it, or where it does most harm", "1.8", K1_RULE, _SHEJWALKAR,
          "rule_aware:RuleAware"),
    _card("fang_trimmed", "Just beyond the honest extreme, against trimmed mean and median", "1.9", K1_RULE, _FANG,
          "fang:FangTrimmed"),
    _card("fang_krum", "The largest step against all signs that Krum picks", "1.9", K1_RULE, _FANG, "fang:FangKrum"),
    _card("mimic", "Copies one honest client", "1.10", K2, "Karimireddy et al. 2022", "mimic:Mimic"),
    _card("poisoned_fl", "One hidden direction in every round", "1.11", K0, "Xie, Fang, Gong 2025", "poisoned_fl:PoisonedFl"),
    _card("relocated", "Around the centre of centred clipping, at its radius", "1.12", K1_RULE, "Ozfatura et al. 2023",
          "relocated:Relocated"),
    _card("replay", "An update of an earlier round again", "1", K0, "ours", "replay:Replay"),
    _card("label_flip", "Trains on reversed labels", "1.13", K0, "Fang et al. 2020", "label_flip:make", {"how": "reverse"},
          DATA, AVAILABILITY, RECORDS),
    _card("label_flip_pair", "Trains with one class called another", "1.13", K0, "Tolpegin et al. 2020", "label_flip:make",
          {"how": "pair"}, TARGETED, INTEGRITY, RECORDS),
    _card("label_alfa", "Trains on flips between two classes that a machine fits well and should not", "3.3", K0,
          "Xiao, Xiao and Eckert 2012", "label_search:make", {"search": "alfa"}, TARGETED, INTEGRITY, RECORDS),
    _card("label_lfa", "Trains on flips between two classes, each the one that costs a machine most", "3.5", K0,
          "Paudice et al. 2018", "label_search:make", {"search": "lfa"}, TARGETED, INTEGRITY, RECORDS),
    _card("backdoor", "Trains on records with a trigger", "3.7", K0, "Gu et al. 2017", "backdoor:make", {}, BACKDOOR, INTEGRITY,
          RECORDS),
    _card("backdoor_bars", "The trigger in four parts, one per liar", "3.9", K0, "Xie et al. 2020 (DBA)", "backdoor:make",
          {"bars": True, "part": 0}, BACKDOOR, INTEGRITY, RECORDS),
    _card("model_replacement", "A backdoor, boosted until it replaces the model", "3.8", K0, "Bagdasaryan et al. 2020",
          "backdoor:make", {"boost": 20.0}, BACKDOOR, INTEGRITY, "methods whose " + DELTA),
    _card("neurotoxin", "A backdoor in the coordinates that honest updates hardly change", "3.11", K0, "Zhang et al. 2022",
          "neurotoxin:make", {}, BACKDOOR, INTEGRITY, "methods whose " + DELTA),
    _card("ranks_reverse", "The liars' common ranking upside down", "2.1", K1, _FRL, "ranks:make", {"lie": "reverse"},
          applies=RANKS),
    _card("ranks_swap_half", "Upper and lower half exchanged", "2.2", K1, "repository yohai7700/FRL", "ranks:make",
          {"lie": "swap_half"}, applies=RANKS),
    _card("ranks_band", "Edges near the cut to the wrong end", "2.3", K1, "ours", "ranks:make", {"lie": "band"}, applies=RANKS),
    _card("ranks_press", "Pairs of edges pressed across the cut", "2.3", K1, "ours", "ranks:make", {"lie": "press"},
          applies=RANKS),
    _card("ranks_vem", "Vulnerable edges, closed form", "2.3", K1, "Gong et al. 2025; closed form ours", "ranks:make",
          {"lie": "vem"}, applies=RANKS),
    _card("ranks_control", "Holds the model at an accuracy of the liars' choice", "2.4", K1, "Chen et al. 2026; feedback ours",
          "control:make", {}, TARGETED, INTEGRITY, RANKS, f"it is judged by the distance from the accuracy it wants; {_AIMED}"),
    _card("ranks_targeted", "A backdoor in what the ranking is learned from, sent as it is", "2.5", K0, "Gu et al. 2017; ours",
          "backdoor:make", {"share": 0.5}, BACKDOOR, INTEGRITY, RANKS,
          f"a matrix plays the same lie against every method as backdoor; beside its boosted form: {_AIMED}"),
    _card("bases_rotate", "One subspace turned away from the honest one, in every round", "7", K1, "ours", "bases:make", {},
          applies=BASES, alone=f"fedpca has measures of its own and no other method's updates carry a basis; {_CONSENSUS}"),
    _card("consensus_drift", "Hides in the link's noise and always points one way", "7", K0, "ours", "drift:make", {},
          applies=CONSENSUS, alone=f"noise_robust_admm has a measure of its own and no defence to be credited; {_CONSENSUS}"),
    _card("signs_invert", "Every own bit turned", "7", K0, "ours", "signs:make", {"lie": "invert"}, applies=SIGNS),
    _card("signs_invert_majority", "What most liars do not want", "7", K1, "ours", "signs:make", {"lie": "invert_majority"},
          applies=SIGNS),
)  # fmt: skip

ATTACKS: Mapping[str, Card] = {card.name: card for card in _CARDS}


def find(name: str) -> Card:
    """The attack of that name; `ConfigError` with the nearest one."""
    if name not in ATTACKS:
        raise ConfigError(f"unknown attack {name!r}{suggest(name, list(ATTACKS))}", field="attack")
    return ATTACKS[name]


def attack_of(name: str, options: Mapping[str, Any]) -> Attack:
    """The `Attack` of that name; `ConfigError` when it is unknown, is none, or does not take the options."""
    card = find(name)
    if not card.on_updates:
        raise ConfigError(f"attack {name} changes no updates ({card.applies}); name {card.entry} as entry", field="attack")
    module, _, kind = card.entry.partition(":")
    try:
        return cast(Attack, getattr(import_module(module), kind)(**{**card.options, **options}))
    except TypeError as error:
        raise ConfigError(f"attack {name} does not take these options: {error}", field="options") from error
