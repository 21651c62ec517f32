"""What stays in float32 inside a half-precision model: recurrences and rotary frequencies.

    A_log, D, dt_bias          Mamba, Mamba-2 and their relatives: decays are exponentials of
                               exponentials of A_log
    time_decay, time_first     RWKV-4's decays
    recurrent_param            RecurrentGemma's (Griffin's) decays
    and what transformers itself keeps for an architecture (`_keep_in_fp32_modules`)
They are read from a file as float32, not rounded and then widened: A_log = 1.0039 would become
1.0.  Modules of transformers take them so: they widen these parameters themselves, or the products
with them.  (Mamba-2's forward rounds dt_bias again where it adds it.)  In float32 and float64
models all weights have the model's dtype.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

NAMES = ("A_log", "D", "dt_bias", "time_decay", "time_first", "recurrent_param")
HALF = (torch.float16, torch.bfloat16)


@contextmanager
def read_in_float32() -> Iterator[None]:
    """While weights are read, `NAMES` join what transformers' plan of dtypes keeps in float32."""
    before = PreTrainedModel._get_dtype_plan

    def plan(self: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
        ours = {rf"(^|\.){name}$": torch.float32 for name in NAMES} if dtype in HALF else {}
        return before(self, dtype) | ours

    PreTrainedModel._get_dtype_plan = plan
    try:
        yield
    finally:
        PreTrainedModel._get_dtype_plan = before


def cast(hf: Any, dtype: torch.dtype) -> None:
    """A float32 module in `dtype`, but for what stays in float32."""
    with read_in_float32():
        plan = hf._get_dtype_plan(dtype)
    kept = {
        name: p.data
        for name, p in hf.named_parameters()
        if any(re.search(pattern, name) for pattern in plan)
    }
    frequencies = {name: buffer for name, buffer in hf.named_buffers() if name.endswith("inv_freq")}
    hf.to(dtype)
    for name, value in kept.items():
        hf.get_parameter(name).data = value
    for name, buffer in frequencies.items():  # rounded, they would turn late positions wrongly
        owner, _, own_name = name.rpartition(".")
        setattr(hf.get_submodule(owner), own_name, buffer)
