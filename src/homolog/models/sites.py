"""Sites: the named places of a model at which activations are read and edited.

A name is KIND[.LAYER[.HEAD]][@POSITION]: "embed", "resid.5", "z.5.0", "state.17@12", "key.5.0@-1".  A head or a
position in the name takes that one and drops its axis.  Layers count blocks from 0; positions count from the window's
start, negative ones from its end.  `KINDS` lists every kind with its axes; `model.sites()` those that a model has.

Every model
    embed         token embeddings, what block 0 reads
    resid_pre     residual stream before the block        resid     residual stream after the block
Transformers
    query_in key_in value_in    residual stream as one head reads it for its queries, keys, values; before the norm
    query key value   per head, before rotary positions   pattern   attention, after the softmax
    z             per head, pattern-weighted values       head_out  z times the head's output matrix, without bias
    attn_out      sum of the heads, with bias
    resid_mid     residual stream between attention and MLP, where the MLP comes after
    mlp_in        residual stream as the MLP reads it, before the norm
    mlp_hidden    MLP hidden activations after the nonlinearity (what its last matrix reads)     mlp_out   its output
Mamba-1
    mixer_in      residual stream as the mixer reads it, before the norm
    conv_in gate_in   the two halves of the in-projection
    conv_taps     what each convolution tap adds: tap j at position t is weight[:, j] * conv_in[t - (K - 1) + j]
    conv_out      sum of the taps and the bias, before SiLU
    ssm_input     SiLU(conv_out)          gate      SiLU(gate_in)
    dt B C        step after softplus; input and output matrices
    A_bar B_bar   exp(dt * A) and dt * B, the discretised A and B
    write         B_bar * ssm_input, what the position adds to the state
    state         A_bar * (state before) + write          y         sum over state dimensions of C * state
    skip          D * ssm_input           mixer_out   out_proj((y + skip) * gate)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homolog.errors import InputError

_STREAM = ("batch", "position", "d_model")
_BY_HEAD = ("batch", "position", "head", "d_head")
_HEAD_STREAM = ("batch", "position", "head", "d_model")
_INNER = ("batch", "position", "d_inner")
_STATE = ("batch", "position", "d_inner", "d_state")

KINDS: Mapping[str, tuple[str, ...]] = {
    "embed": _STREAM,
    "resid_pre": _STREAM,
    "query_in": _HEAD_STREAM,
    "key_in": _HEAD_STREAM,
    "value_in": _HEAD_STREAM,
    "query": _BY_HEAD,
    "key": _BY_HEAD,
    "value": _BY_HEAD,
    "pattern": ("batch", "head", "position", "key_position"),
    "z": _BY_HEAD,
    "head_out": _HEAD_STREAM,
    "attn_out": _STREAM,
    "resid_mid": _STREAM,
    "mlp_in": _STREAM,
    "mlp_hidden": ("batch", "position", "d_mlp"),
    "mlp_out": _STREAM,
    "mixer_in": _STREAM,
    "conv_in": _INNER,
    "gate_in": _INNER,
    "conv_taps": ("batch", "position", "tap", "d_inner"),
    "conv_out": _INNER,
    "ssm_input": _INNER,
    "dt": _INNER,
    "B": ("batch", "position", "d_state"),
    "C": ("batch", "position", "d_state"),
    "A_bar": _STATE,
    "B_bar": _STATE,
    "write": _STATE,
    "state": _STATE,
    "y": _INNER,
    "skip": _INNER,
    "gate": _INNER,
    "mixer_out": _STREAM,
    "resid": _STREAM,
}
WITHOUT_LAYER = frozenset({"embed"})

_NAME = re.compile(r"(?P<kind>\w+)(\.(?P<layer>\d+)(\.(?P<head>\d+))?)?(@(?P<position>-?\d+))?")


@dataclass(frozen=True)
class Site:
    """A place in the model, or one head or position of it.  `str(site)` is its name."""

    kind: str
    layer: int | None = None
    head: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        name = self.kind if self.layer is None else f"{self.kind}.{self.layer}"
        name = name if self.head is None else f"{name}.{self.head}"
        return name if self.position is None else f"{name}@{self.position}"

    @property
    def base(self) -> Site:
        """The same place with all its heads and positions."""
        return replace(self, head=None, position=None)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the whole place: a head or position that the name chooses keeps its axis here."""
        return KINDS[self.kind]

    @classmethod
    def parse(cls, name: Site | str) -> Site:
        """The site of that name.  InputError when the name has not the form of the module's docstring."""
        if isinstance(name, Site):
            return name
        found = _NAME.fullmatch(name)
        kind = found["kind"] if found else re.split(r"[.@]", name)[0]
        if found and kind in KINDS and (found["layer"] is None) == (kind in WITHOUT_LAYER):
            layer, head, position = (
                int(found[part]) if found[part] else None for part in ("layer", "head", "position")
            )
            if head is None or "head" in KINDS[kind]:
                return cls(kind, layer, head, position)
            raise InputError("site", name, f"{kind} has no heads; its axes are {', '.join(KINDS[kind])}",
                             f"Name {kind}.{layer}.")  # fmt: skip
        near = difflib.get_close_matches(kind, KINDS, n=1)
        rest = name[len(kind) :] or ("" if near and near[0] in WITHOUT_LAYER else ".LAYER")
        hint = f"Did you mean {near[0] + rest!r}? " if near else ""
        raise InputError(
            "site",
            name,
            "it must be KIND.LAYER, KIND.LAYER.HEAD or KIND.LAYER@POSITION of a known kind",
            f"{hint}Known: {', '.join(k if k in WITHOUT_LAYER else f'{k}.LAYER' for k in KINDS)}.",
        )


def resolve(name: Site | str, available: Sequence[Site], model: str) -> Site:
    """The site of that name, if the model has it; else an InputError that names the nearest one it has."""
    site = Site.parse(name)
    if site.base not in available:
        near = difflib.get_close_matches(str(site.base), [str(s) for s in available], n=1)
        raise InputError(
            "site",
            str(site),
            f"{model} has no such site",
            f"{f'The nearest is {near[0]!r}. ' if near else ''}model.sites() lists all.",
        )
    return site
