"""The models of a study, and how a comparison names one side: a model through its dictionaries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from homolog.record.layers import ALL, STREAM_AFTER, chosen_layers
from homolog.record.names import TOKEN_NAME, folder_name

MAIN_LABEL = "sae"
"""Label of a layer's main dictionary."""
NEURON = "neuron"
"""Kind, and label, of features that are single neurons."""


@dataclass(frozen=True)
class StudyModel:
    """A model of a study, with its dictionaries by label."""

    ref: str
    """Zoo name, folder, GGUF file or Hub id."""
    role: str
    """In words, what it does in the study."""
    revision: str | None = None
    labels: tuple[str, ...] = (MAIN_LABEL,)
    """Of its own dictionaries, the main one first."""
    derived: tuple[str, ...] = ()
    """Of those that are made from the main one."""
    saes: tuple[str, ...] = ()
    """Where its own come from, one per label, {layer} for the block; none: they are trained."""
    settings: tuple[tuple[str, int | float], ...] = ()
    """Of their training, by name, where they differ from the recipe's."""
    bos: str = "auto"
    """Whether its windows begin with its beginning-of-text token (`recipe.WindowBeginning`)."""
    layers: tuple[int, ...] | str = ALL
    """Its blocks that have dictionaries (`record.layers`)."""
    site: str = STREAM_AFTER
    """The kind of site of these blocks that dictionaries are of."""
    called: str = ""
    """Its name in the study, unique there; where it is given none, its ref as a folder name."""

    @property
    def name(self) -> str:
        """As it stands in tables and folder names: "mamba-s0"."""
        return self.called or folder_name(self.ref)

    @property
    def encoded_labels(self) -> tuple[str, ...]:
        """All dictionaries whose features are matched."""
        return (*self.labels, *self.derived)

    def blocks(self, n_layers: int) -> tuple[int, ...]:
        """Those of its `n_layers` blocks that have dictionaries.  InputError where it lacks one."""
        return chosen_layers(self.layers, n_layers, self.name, "models.layers")


CURRENT_TOKEN = StudyModel(TOKEN_NAME, "one feature for each token of the vocabulary, no model")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a model through its dictionaries of one label."""

    model: StudyModel
    label: str = MAIN_LABEL

    @property
    def words(self) -> str:
        """For people and files: "mamba-s0", "mamba-s0@seed1"."""
        return side_words(self.model.name, self.label)


def side_words(model: str, label: str) -> str:
    """For people and files: "mamba-s0", "mamba-s0@seed1"."""
    return model if label in (MAIN_LABEL, NEURON) else f"{model}@{label}"


Pair = tuple[Side, Side]


@dataclass(frozen=True)
class Models:
    """The models of a study, as comparisons choose among them.

    compared: in the recipe's order.  untrained, other_seed: by the name of a compared model, its
    untrained twin and the same model trained from another seed, where the recipe names them.
    chosen: which two of the compared are a pair, by name; None for every two.
    """

    compared: tuple[StudyModel, ...]
    untrained: dict[str, StudyModel]
    other_seed: dict[str, StudyModel]
    chosen: tuple[tuple[str, str], ...] | None = None

    @property
    def all(self) -> tuple[StudyModel, ...]:
        """In the order in which they are worked on; what several have for a control once."""
        controls = [{m.name: m for m in of.values()} for of in (self.untrained, self.other_seed)]
        return (*self.compared, *(model for of in controls for model in of.values()))

    @property
    def controls(self) -> dict[str, list[str]]:
        """The names of each compared model's controls."""
        of = {
            m.name: (self.untrained.get(m.name), self.other_seed.get(m.name)) for m in self.compared
        }
        return {name: [c.name for c in controls if c is not None] for name, controls in of.items()}

    @property
    def pairs(self) -> list[tuple[StudyModel, StudyModel]]:
        """Every two of the compared models once, of those that were chosen."""
        every = itertools.combinations(self.compared, 2)
        chosen = None if self.chosen is None else {frozenset(pair) for pair in self.chosen}
        return [p for p in every if chosen is None or frozenset(m.name for m in p) in chosen]

    @property
    def directions(self) -> list[tuple[StudyModel, StudyModel]]:
        """Every two of the compared models, and the same turned around."""
        return [pair for a, b in self.pairs for pair in ((a, b), (b, a))]
