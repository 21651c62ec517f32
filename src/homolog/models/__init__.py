"""Language models of any architecture behind one interface: the only place that knows one."""

from homolog.models.architectures import register
from homolog.models.base import LanguageModel
from homolog.models.blockwise import Blockwise
from homolog.models.edits import Add, Edit, Mean, Replace, Resample, Transform, Zero
from homolog.models.hidden_attention import hidden_attention
from homolog.models.load import load, load_tokenizer, require_inner_sites, require_positions
from homolog.models.mixer_edits import Knockout
from homolog.models.runs import Run
from homolog.models.saving import save
from homolog.models.scan import ScanResult, selective_scan
from homolog.models.sites import Site
from homolog.models.taps import Taps

__all__ = [
    "Add",
    "Blockwise",
    "Edit",
    "Knockout",
    "LanguageModel",
    "Mean",
    "Replace",
    "Resample",
    "Run",
    "ScanResult",
    "Site",
    "Taps",
    "Transform",
    "Zero",
    "hidden_attention",
    "load",
    "load_tokenizer",
    "register",
    "require_inner_sites",
    "require_positions",
    "save",
    "selective_scan",
]
