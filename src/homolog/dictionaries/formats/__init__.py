"""Dictionaries in files: our own layout, and those of other libraries."""

from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded, uncentred
from homolog.dictionaries.formats.hooks import (
    is_elsewhere,
    is_of,
    residual_layer,
    said_at,
    site_of,
)
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
    "is_of",
    "load",
    "register",
    "residual_layer",
    "said_at",
    "save",
    "saved_quality",
    "site_of",
    "uncentred",
]
