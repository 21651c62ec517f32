"""Dictionaries: sparse autoencoders of all layers of a model, their training, quality, files and controls."""

from homolog.dictionaries.base import Dictionary, Neurons, SparseAutoencoder
from homolog.dictionaries.configs import ReluConfig, SaeConfig, TopKConfig, TrainingConfig
from homolog.dictionaries.controls import firing_like_trained, random_orthogonal, rotated
from homolog.dictionaries.files import load, save, saved_quality
from homolog.dictionaries.planted import Planted, plant
from homolog.dictionaries.quality import (
    Gates,
    Quality,
    SplicedLoss,
    explained_variance,
    firing_frequency,
    measure_quality,
)
from homolog.dictionaries.seeds import derive_seed
from homolog.dictionaries.sources import ActivationSource, ResidualArrays, StoredResiduals
from homolog.dictionaries.state import TrainingDivergedError
from homolog.dictionaries.trainer import Progress, train

__all__ = [
    "ActivationSource",
    "Dictionary",
    "Gates",
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
    "TopKConfig",
    "TrainingConfig",
    "TrainingDivergedError",
    "derive_seed",
    "explained_variance",
    "firing_frequency",
    "firing_like_trained",
    "load",
    "measure_quality",
    "plant",
    "random_orthogonal",
    "rotated",
    "save",
    "saved_quality",
    "train",
]
