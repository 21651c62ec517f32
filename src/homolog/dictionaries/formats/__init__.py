"""Dictionaries in files: our own layout, and those of other libraries."""

from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded, uncentred
from homolog.dictionaries.formats.hooks import is_elsewhere, residual_layer
from homolog.dictionaries.formats.reading import Folder, Format
from homolog.dictionaries.formats.registry import FORMATS, convert, load, register, save
from homolog.dictionaries.formats.sae_lens import CONFIG_FILE, WEIGHTS_FILE, saved_quality

__all__ = [
    "CONFIG_FILE",
    "FORMATS",
    "WEIGHTS_FILE",
    "Convention",
    "Folder",
    "ForeignWeights",
    "Format",
    "convert",
    "folded",
    "is_elsewhere",
    "load",
    "register",
    "residual_layer",
    "save",
    "saved_quality",
    "uncentred",
]
