"""The architectures that have an adapter of their own: one line each.

An adapter is a `LanguageModel` over the unmodified module of transformers: mostly a `Blockwise`,
which computes block by block, with sites inside.  Every other architecture is read through
`AnyDecoder`.  An adapter from outside this package joins the list by `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.decoder import Decoder
from homolog.models.deepseek import DeepSeekV2, DeepSeekV3
from homolog.models.gpt2 import GPT2
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.hybrids import HYBRIDS
from homolog.models.kimi_linear import KimiLinear
from homolog.models.lfm2 import LFM2, LFM2MoE
from homolog.models.llama_family import FAMILY
from homolog.models.mamba import FalconMamba, Mamba
from homolog.models.mamba2 import Mamba2
from homolog.models.nemotron_h import NemotronH
from homolog.models.olmo_hybrid import OLMoHybrid
from homolog.models.qwen3_next import Qwen3_5, Qwen3_5MoE, Qwen3Next
from homolog.models.recurrent_gemma import RecurrentGemma
from homolog.models.rwkv import RWKV
from homolog.models.sites import KINDS, add_kind
from homolog.models.xlstm import XLSTM
from homolog.models.zamba2 import Zamba2

_LISTED: tuple[type[LanguageModel], ...] = (
    GPT2,
    GPTNeoX,
    Mamba,
    FalconMamba,
    Mamba2,
    *HYBRIDS,
    NemotronH,
    Zamba2,
    Qwen3Next,
    Qwen3_5,
    Qwen3_5MoE,
    OLMoHybrid,
    RecurrentGemma,
    LFM2,
    LFM2MoE,
    RWKV,
    KimiLinear,
    DeepSeekV2,
    DeepSeekV3,
    XLSTM,
)
ADAPTERS: dict[str, type[LanguageModel]] = {
    **FAMILY,
    **{adapter.architecture: adapter for adapter in _LISTED},
}
"""By the model type of the configuration."""


def knows_inside(adapter: type[LanguageModel]) -> bool:
    """Whether the adapter knows what is inside blocks, and which of it are neurons."""
    return issubclass(adapter, Decoder) or bool(adapter.neuron_kinds)


def register(
    adapter: type[LanguageModel], kinds: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> None:
    """Read every model of `adapter.architecture` through `adapter`.

    kinds: of sites that it alone has, with their axes; they join `sites.KINDS`.
    InputError for an architecture that another adapter reads, and for kinds that cannot be.
    """
    architecture = adapter.architecture
    present = ADAPTERS.get(architecture, adapter)
    if (present.__module__, present.__qualname__) != (adapter.__module__, adapter.__qualname__):
        requirement = f"it is read through {present.__module__}.{present.__qualname__}"
        raise InputError("architecture", architecture, requirement, "Name another model type.")
    listed = adapter.site_kinds if isinstance(adapter.site_kinds, tuple) else ()
    if missing := [kind for kind in listed if kind not in KINDS and kind not in kinds]:
        requirement = "each must be a kind of `homolog.models.sites.KINDS`"
        remedy = "Say its axes: register(adapter, {'KIND': ('batch', 'position', ...)})."
        raise InputError("site_kinds", ", ".join(missing), requirement, remedy)
    for kind, axes in kinds.items():
        add_kind(kind, axes)
    ADAPTERS[architecture] = adapter
