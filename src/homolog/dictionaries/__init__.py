"""Dictionaries: sparse autoencoders of all layers of a model, their training, quality, files and
controls.
"""

from homolog.dictionaries.base import Dictionary, Neurons, SparseAutoencoder
from homolog.dictionaries.components import Components, ica, pca
from homolog.dictionaries.configs import (
    KINDS,
    AnyConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    ReluConfig,
    SaeConfig,
    TopKConfig,
    TrainingConfig,
    parse_config,
)
from homolog.dictionaries.controls import (
    firing_like_trained,
    random_directions,
    random_orthogonal,
    rotated,
)
from homolog.dictionaries.formats import convert, load, save, saved_quality
from homolog.dictionaries.planted import Planted, plant
from homolog.dictionaries.quality import (
    Gates,
    Quality,
    SplicedLoss,
    Tolerance,
    explained_variance,
    firing_frequency,
    measure_quality,
    recheck,
)
from homolog.dictionaries.seeds import derive_seed
from homolog.dictionaries.sources import ActivationSource, ResidualArrays, StoredResiduals
from homolog.dictionaries.training.state import TrainingDivergedError
from homolog.dictionaries.training.trainer import Progress, train

__all__ = [
    "KINDS",
    "ActivationSource",
    "AnyConfig",
    "BatchTopKConfig",
    "Components",
    "Dictionary",
    "GatedConfig",
    "Gates",
    "JumpReluConfig",
    "Neurons",
    "Planted",
    "Progress",
    "Quality",
    "ReluConfig",
    "ResidualArrays",
    "SaeConfig",
    "SparseAutoencoder",
    "SplicedLoss",
    "StoredResiduals",
    "Tolerance",
    "TopKConfig",
    "TrainingConfig",
    "TrainingDivergedError",
    "convert",
    "derive_seed",
    "explained_variance",
    "firing_frequency",
    "firing_like_trained",
    "ica",
    "load",
    "measure_quality",
    "parse_config",
    "pca",
    "plant",
    "random_directions",
    "random_orthogonal",
    "recheck",
    "rotated",
    "save",
    "saved_quality",
    "train",
]
