"""Linear recurrences: forward and backward, with every state readable; linear in writes.

`selective_scan` is that of Mamba-1, `linear_scan` that of linear attention with a decay (Mamba-2,
gated linear attention, RG-LRU), `delta_scan` the gated delta rule (Qwen3-Next, Kimi Linear).
"""

from homolog.models.scan.carry import delta_carry, linear_carry
from homolog.models.scan.delta import delta_scan
from homolog.models.scan.inputs import ScanInputs, ScanResult
from homolog.models.scan.linear import propagate
from homolog.models.scan.linear_attention import linear_scan
from homolog.models.scan.selective import selective_scan

__all__ = [
    "ScanInputs",
    "ScanResult",
    "delta_carry",
    "delta_scan",
    "linear_carry",
    "linear_scan",
    "propagate",
    "selective_scan",
]
