"""Every comparison of a study once: who with whom, what for, and what a reader sees of it.

    result     what the study asks: the other model
    repeat     the result again, which says whether it comes back; stands in tables only
    baseline   what the same search finds where there is nothing to share
    skyline    what it finds in the model itself, or in another run of its training

A comparison from elsewhere is one `Comparison` and `register(it)`.  Its partner is a model that the
study has (`Models`), by one of its dictionaries; where `derived` is given, by a dictionary that is
made from the partner's main one, under the comparison's own name as its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from homolog.record.sides import CURRENT_TOKEN, MAIN_LABEL, NEURON, Models, Pair, Side, StudyModel

SPARE_COLOURS = (("#5b50b5", "#a9a0f5"), ("#7d7a00", "#c9c640"), ("#a3323a", "#f28b92"))


@dataclass(frozen=True)
class Comparison:
    """What one value of the tables' column `comparison` means.

    pairs: whose features are looked for in whose; nothing where the study has no such models.
    label: for narrow axes, "|" marks where a line may break.  colour: in light and in dark.
    calibrated: its matches are held against the null of the maximum.  spaces: of what the two
    models' similarity is measured beside the features', "residuals" and "decoders".
    needed: without it there is nothing to report.
    setting: the key of the recipe's [controls] that can leave it out; none: it always runs.
    extra: it is left out unless that key asks for it, and no verdict says that it is missing.
    derived: makes the partner's dictionary from its main one, (dictionary, seed, sample of inputs)
    to dictionary: the function, or its name as "package.module:function".
    ordered: on average, the result is expected to lie well above it (a baseline) or not above it
    (a skyline).
    sentence: what it is called within a sentence, where that is not its label, or where the partner
    has a name, which then stands for {}.
    stands_for: whose place a baseline's partner takes, where it has not learned the same: that of
    the other model, "best_model", or of the feature's own, "model".
    """

    name: str
    role: Literal["result", "repeat", "baseline", "skyline", "other"]
    label: str
    explanation: str
    pairs: Callable[[Models], Iterable[Pair]]
    colour: tuple[str, str] | None = None
    kind: Literal["sae", "neuron"] = "sae"
    calibrated: bool = False
    spaces: tuple[Literal["residuals", "decoders"], ...] = ()
    needed: bool = False
    setting: str | None = None
    extra: bool = False
    derived: Callable[..., Any] | str | None = None
    ordered: bool = True
    sentence: str = ""
    stands_for: Literal["model", "best_model"] = "best_model"

    @property
    def plain(self) -> str:
        """The label as one line."""
        return self.label.replace("|", " ")

    def in_sentence(self, partner: str = "") -> str:
        """What it is called within a sentence: "an untrained model", or "an untrained" partner."""
        if self.sentence and (partner or "{}" not in self.sentence):
            return self.sentence.format(partner)
        return self.plain[0].lower() + self.plain[1:]


def _own_and(models: Models, others: dict[str, StudyModel]) -> list[Pair]:
    """Each compared model with the one that is given for it."""
    owners = [model for model in models.compared if model.name in others]
    return [(Side(own), Side(others[own.name])) for own in owners]


def _further(model: StudyModel) -> list[Side]:
    """The model through its dictionaries of every further seed, the second first."""
    return [Side(model, label) for label in model.labels[1:]]


def _untrained(models: Models, label: str = MAIN_LABEL) -> list[Pair]:
    twins = [(a, models.untrained.get(b.name)) for a, b in models.directions]
    return [(Side(a, label), Side(twin, label)) for a, twin in twins if twin is not None]


MAIN = Comparison(
    "main",
    "result",
    "The other|model",
    "the result: the other model of the pair",
    lambda models: [(Side(a), Side(b)) for a, b in models.pairs],
    ("#0067a5", "#5bb4f0"),
    calibrated=True,
    spaces=("residuals", "decoders"),
    needed=True,
)
MAIN_SEED = Comparison(
    "main-seed",
    "repeat",
    "The other model,|further SAE seeds",
    "the result again with the other model's dictionaries of every further seed: what comes back "
    "is stable",
    lambda models: [(Side(a), other) for a, b in models.directions for other in _further(b)],
    setting="stability",
)
RANDOM_MODEL = Comparison(
    "random-model",
    "baseline",
    "An untrained|model",
    "a model with random weights and dictionaries trained on it: what the text alone gives",
    _untrained,
    ("#b86e00", "#f0b040"),
    sentence="an untrained {}",
    spaces=("residuals",),
)
OWN_RANDOM = Comparison(
    "own-random",
    "baseline",
    "Its own|untrained twin",
    "the same model before training, with dictionaries of its own: what it need not have learned",
    lambda models: _own_and(models, models.untrained),
    ("#8c6d1f", "#cdb25e"),
    sentence="{} before training",
    stands_for="model",
    ordered=False,  # of one architecture, they may share more than two that differ
)
ROTATED = Comparison(
    "rotated",
    "baseline",
    "A rotated|dictionary",
    "the other model read through dictionary directions turned at random: what any directions give",
    lambda models: [(Side(a), Side(b, "rotated")) for a, b in models.directions],
    ("#737373", "#a3a9b1"),
    sentence="{} with rotated dictionaries",
    setting="rotated",
    derived="homolog.dictionaries.controls:rotated",
)
FROZEN_ENCODER = Comparison(
    "frozen-encoder",
    "baseline",
    "A random|encoder",
    "the other model read through an encoder of random directions, each firing as often as a "
    "trained feature: what a dictionary whose encoder was never trained gives",
    lambda models: [
        (Side(a), Side(b, "frozen-encoder"))
        for a, b in models.directions
        if "frozen-encoder" in b.derived
    ],
    ("#5f6f7a", "#9fb0bb"),
    sentence="{} with random encoders",
    setting="frozen_encoder",
    extra=True,
    derived="homolog.dictionaries.controls:random_directions",
)
SAE_SEED = Comparison(
    "sae-seed",
    "skyline",
    "Same model,|second SAE seed",
    "the same model, dictionaries trained again from another seed: what dictionary learning alone "
    "allows",
    lambda models: [(Side(own), other) for own in models.compared for other in _further(own)[:1]],
    ("#00856b", "#33c9a4"),
    sentence="a second dictionary seed of the same model",
    calibrated=True,
    setting="sae_seed",
)
SAE_SEEDS = Comparison(
    "sae-seeds",
    "repeat",
    "Same model,|third SAE seed and on",
    "the same model with the dictionaries of the third seed and on: the way back from a partner of "
    "those seeds to the main dictionaries",
    lambda models: [(Side(own), other) for own in models.compared for other in _further(own)[1:]],
    setting="stability",
)
TOKENS = Comparison(
    "tokens",
    "baseline",
    "The current|token",
    "one feature for each token of the vocabulary: what knowing the current token alone gives, "
    "without any model",
    lambda models: [(Side(own), Side(CURRENT_TOKEN)) for own in models.compared],
    ("#6b6b00", "#d2cf5a"),
    setting="current_token",
    ordered=False,  # what follows one token may be most of what two models share
)
MODEL_SEED = Comparison(
    "model-seed",
    "skyline",
    "Same architecture,|second seed",
    "a model of the same architecture trained from another seed: what training alone allows",
    lambda models: _own_and(models, models.other_seed),
    ("#a8558c", "#e299c8"),
    sentence="a second training seed of the same architecture",
    calibrated=True,
    spaces=("residuals",),
)
NEURONS = Comparison(
    "neurons",
    "result",
    "Neurons of the|other model",
    "single neurons instead of dictionary features",
    lambda models: [(Side(a, NEURON), Side(b, NEURON)) for a, b in models.pairs],
    ("#c4500a", "#ff8f52"),
    kind="neuron",
    setting="neurons",
)
NEURONS_RANDOM = Comparison(
    "neurons-random",
    "baseline",
    "Neurons, random|baseline",
    "neurons against their own random baseline",
    lambda models: _untrained(models, NEURON),
    ("#8a7564", "#c0aa97"),
    sentence="their own random baseline",
    kind="neuron",
    setting="neurons",
)
COMPARISONS: list[Comparison] = [
    MAIN,
    MAIN_SEED,
    RANDOM_MODEL,
    OWN_RANDOM,
    ROTATED,
    FROZEN_ENCODER,
    SAE_SEED,
    SAE_SEEDS,
    TOKENS,
    MODEL_SEED,
    NEURONS,
    NEURONS_RANDOM,
]
"""In the order in which a study runs them, which is that of its tables."""
_ROLES = ("skyline", "result", "repeat", "baseline", "other")


def register(comparison: Comparison) -> None:
    """Add a comparison to every study from now on.  ValueError where the name is taken."""
    if any(known.name == comparison.name for known in COMPARISONS):
        raise ValueError(f"a comparison named {comparison.name!r} is there already")
    COMPARISONS.append(comparison)


def comparison_of(name: str) -> Comparison:
    """The comparison of that name; an unknown one has its name for a label."""
    for comparison in COMPARISONS:
        if comparison.name == name:
            return comparison
    words = "a comparison this report has no words for"
    return Comparison(name, "other", name, words, lambda models: [])


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of every figure: skylines, results, baselines; neurons after features."""
    run = [comparison.name for comparison in COMPARISONS]

    def place(name: str) -> tuple[bool, int, int, str]:
        known = comparison_of(name)
        at = run.index(name) if name in run else len(run)
        return known.kind == NEURON, _ROLES.index(known.role), at, name

    return sorted(set(names), key=place)


def shown(names: Iterable[str]) -> list[str]:
    """Those of the names that figures show, in order."""
    return [name for name in in_order(names) if comparison_of(name).role != "repeat"]


def colour_of(name: str) -> tuple[str, str]:
    """The colour of a comparison in light and in dark; unnamed ones share spare ones by name."""
    own = comparison_of(name).colour
    return own or SPARE_COLOURS[sum(name.encode()) % len(SPARE_COLOURS)]


def with_role(role: str, kind: str = "sae") -> list[str]:
    """Names of all comparisons of a role, in the order of a run."""
    return [c.name for c in COMPARISONS if c.role == role and c.kind == kind]


@dataclass(frozen=True)
class Planned:
    """A comparison of two sides, as a study runs it."""

    comparison: Comparison
    a: Side
    b: Side

    @property
    def key(self) -> str:
        """Unique in the study, and a file name."""
        a, b = (f"{side.model.name}@{side.label}" for side in (self.a, self.b))
        return f"{self.comparison.name}.{a}.{b}"

    @property
    def title(self) -> str:
        """For people: "mamba-s0 and transformer-s0 (main)"."""
        return f"{self.a.model.name} and {self.b.model.name} ({self.comparison.name})"


def planned(models: Models, left_out: Sequence[str] = ()) -> list[Planned]:
    """What a study of these models compares, in order.  left_out: settings that are off."""
    plans = [
        Planned(comparison, a, b)
        for comparison in COMPARISONS
        if comparison.setting not in left_out
        for a, b in comparison.pairs(models)
    ]
    return list({plan.key: plan for plan in plans}.values())
