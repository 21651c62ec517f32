"""What transformers would do unasked, and does not do here.

Encoders are refused.  Kernels are not fetched from the Hub while a module is built (RWKV would,
where the package `kernels` and a CUDA device are there).  RWKV's weights are not divided.  A pass
leaves no state behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.integrations import hub_kernels
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from homolog.errors import InputError


def require_decoder(config: Any, name: str) -> None:
    """InputError for the configuration of a model that is not a decoder alone."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        reason = f"{kind!r} has an encoder and a decoder, and one residual stream is compared"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:  # registered ones among them
        reason = f"transformers has no causal language model of its architecture {kind!r}"
    elif getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        reason = "its positions see those after them (use_bidirectional_attention)"
    else:
        return
    raise InputError("model", name, reason, "Take a language model that is a decoder alone.")


def reads_more(name: str, architecture: str, layer: int) -> InputError:
    """What is raised where the stream after a block does not tell how a pass goes on."""
    requirement = (
        f"what comes after it in {name} ({architecture}) reads more than the stream, which then "
        "does not tell how a pass goes on"
    )
    site = "embed" if layer == -1 else f"resid.{layer}"
    remedy = f"Edit a whole pass: run(tokens, edits=[Replace('{site}', h)])."
    return InputError("layer", layer, requirement, remedy)


@contextmanager
def no_fetched_kernels() -> Iterator[None]:
    """While a module is built, no kernels come from the Hub: transformers then takes torch's."""
    before = hub_kernels.get_kernel

    def refused(*_args: Any, **_kwargs: Any) -> Any:
        raise ImportError("homolog fetches no kernels")

    hub_kernels.get_kernel = refused
    try:
        yield
    finally:
        hub_kernels.get_kernel = before


def planned(config: Any) -> Any:
    """The module of a configuration on the meta device: the shapes of its weights, no memory."""
    with torch.device("meta"), no_fetched_kernels():
        return AutoModelForCausalLM.from_config(config)


def never_rescale(hf: Any) -> None:
    """Leave RWKV-4's weights alone.

    In eval mode its forward divides the weights of every sixth block and after it by two, in place,
    and the residual stream with them.  What an earlier forward has divided is restored first.
    """
    for module in hf.modules():
        if getattr(module, "layers_are_rescaled", False):
            module.train()
            module._rescale_layers()
            module.eval()
    for module in hf.modules():
        config = getattr(module, "config", None)
        if getattr(config, "rescale_every", None):
            config.rescale_every = 0  # pyright: ignore[reportOptionalMemberAccess]


@contextmanager
def as_it_was(module: Any) -> Iterator[None]:
    """Afterwards the module has the buffers and attributes that it had before.

    Modules keep state from pass to pass: rotary frequencies that follow the longest window so far
    (dynamic, longrope), the last state of a recurrence. A pass must not depend on an earlier one.
    Buffers changed in place are restored where they are vectors, as frequencies are; larger ones
    are masks and tables.
    """
    own = ("_parameters", "_buffers", "_modules")
    before = []
    for part in module.modules():
        plain = {name: value for name, value in vars(part).items() if name not in own}
        vectors = [(b, b.clone()) for b in part._buffers.values() if b is not None and b.ndim == 1]
        before.append((part, plain, dict(part._buffers), vectors))
    try:
        yield
    finally:
        for part, plain, buffers, vectors in before:
            for name in [name for name in vars(part) if name not in plain and name not in own]:
                del part.__dict__[name]
            part.__dict__.update(plain)
            part._buffers.clear()
            part._buffers.update(buffers)
            for buffer, value in vectors:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
