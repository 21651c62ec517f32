"""Dictionaries: sparse autoencoders of all layers of a model, their training, quality, controls.

Public names are imported when first used, so that settings (`kinds`, `configs`) are read at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homolog.dictionaries.base import Dictionary, Neurons, SparseAutoencoder
    from homolog.dictionaries.components import Components, ica, pca
    from homolog.dictionaries.configs import TrainingConfig, parse_config
    from homolog.dictionaries.controls import (
        firing_like_trained,
        random_directions,
        random_orthogonal,
        rotated,
    )
    from homolog.dictionaries.crosscoder import Crosscoder, CrosscoderSettings, train_crosscoder
    from homolog.dictionaries.crosscoder_latents import (
        LatentScaling,
        latent_classes,
        latent_scaling,
        latent_table,
    )
    from homolog.dictionaries.formats import convert, load, save, saved_quality
    from homolog.dictionaries.kinds import KINDS, KindSettings, kind_of, register
    from homolog.dictionaries.planted import Planted, plant
    from homolog.dictionaries.quality import (
        Gates,
        Quality,
        SplicedLoss,
        Tolerance,
        firing_frequency,
        measure_quality,
        recheck,
    )
    from homolog.dictionaries.seeds import derive_seed
    from homolog.dictionaries.sources import ActivationSource, ResidualArrays, StoredResiduals
    from homolog.dictionaries.training.state import TrainingDivergedError
    from homolog.dictionaries.training.trainer import Checkpoint, Place, TrainingProgress, train
    from homolog.dictionaries.variance import explained_variance

_NAMES = {
    "base": ("Dictionary", "Neurons", "SparseAutoencoder"),
    "components": ("Components", "ica", "pca"),
    "configs": ("TrainingConfig", "parse_config"),
    "controls": ("firing_like_trained", "random_directions", "random_orthogonal", "rotated"),
    "crosscoder": ("Crosscoder", "CrosscoderSettings", "train_crosscoder"),
    "crosscoder_latents": ("LatentScaling", "latent_classes", "latent_scaling", "latent_table"),
    "formats": ("convert", "load", "save", "saved_quality"),
    "kinds": ("KINDS", "KindSettings", "kind_of", "register"),
    "planted": ("Planted", "plant"),
    "quality": (
        "Gates",
        "Quality",
        "SplicedLoss",
        "Tolerance",
        "firing_frequency",
        "measure_quality",
        "recheck",
    ),
    "seeds": ("derive_seed",),
    "sources": ("ActivationSource", "ResidualArrays", "StoredResiduals"),
    "training.state": ("TrainingDivergedError",),
    "training.trainer": ("Checkpoint", "Place", "TrainingProgress", "train"),
    "variance": ("explained_variance",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "KINDS",
    "ActivationSource",
    "Checkpoint",
    "Components",
    "Crosscoder",
    "CrosscoderSettings",
    "Dictionary",
    "Gates",
    "KindSettings",
    "LatentScaling",
    "Neurons",
    "Place",
    "Planted",
    "Quality",
    "ResidualArrays",
    "SparseAutoencoder",
    "SplicedLoss",
    "StoredResiduals",
    "Tolerance",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingProgress",
    "convert",
    "derive_seed",
    "explained_variance",
    "firing_frequency",
    "firing_like_trained",
    "ica",
    "kind_of",
    "latent_classes",
    "latent_scaling",
    "latent_table",
    "load",
    "measure_quality",
    "parse_config",
    "pca",
    "plant",
    "random_directions",
    "random_orthogonal",
    "recheck",
    "register",
    "rotated",
    "save",
    "saved_quality",
    "train",
    "train_crosscoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'homolog.dictionaries' has no attribute {name!r}")
    return getattr(import_module(f"homolog.dictionaries.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
