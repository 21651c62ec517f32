"""Sites: the named places of a model at which activations are read and edited.

A name is KIND[.LAYER[.HEAD]][@POSITION]: "embed", "resid.5", "z.5.0", "state.17@12", "key.5.0@-1".
A head or a position in the name takes that one and drops its axis.  Layers count blocks from 0;
positions count from the window's start, negative ones from its end.  `KINDS` lists every kind with
its axes; `model.sites()` those that a model has.

Every model
    embed        token embeddings, what block 0 reads
    resid_pre    residual stream before the block
    resid        residual stream after the block
Transformers
    query_in key_in value_in   residual stream as one head reads it, before the norm
    embed_in     embeddings as all heads read them beside the stream (Zamba2)
    query key value            of each head, before rotary positions
    pattern      attention, after the softmax
    z            of each head, values weighted by the pattern
    head_gate    what multiplies z, where the model has such a gate
    head_out     z times the head's output matrix, without bias
    attn_out     sum of the heads, with bias
    resid_mid    residual stream between attention and MLP, where the MLP comes after
    mlp_in       residual stream as the MLP reads it, before the norm
    mlp_hidden   after the nonlinearity, what the MLP's last matrix reads
    mlp_out      output of the MLP
Mamba-1
    mixer_in     residual stream as the mixer reads it, before the norm
    conv_in gate_in            the two halves of the in-projection
    conv_taps    what each tap adds: tap j at position t is weight[:, j] * conv_in[t - (K - 1) + j]
    conv_out     sum of the taps and the bias, before SiLU
    ssm_input    SiLU(conv_out)
    gate         SiLU(gate_in)
    dt B C       step after softplus; input and output matrices
    A_bar B_bar  exp(dt * A) and dt * B, the discretised A and B
    write        B_bar * ssm_input, what the position adds to the state
    state        A_bar * (state before) + write
    y            sum over state dimensions of C * state
    skip         D * ssm_input
    mixer_out    out_proj((y + skip) * gate)
Mamba-2 (SSD): as Mamba-1, d_inner being the value channels of all heads, but
    conv_in conv_taps conv_out   of all that is convolved: ssm_input, B and C in turn
    B C          of all groups in turn
    head_dt      step of each head after softplus, in the place of dt
    decay        exp(head_dt * A) of each head, in the place of A_bar
    write        head_dt * ssm_input B^T
    mixer_out    out_proj(norm((y + skip) * gate)), times a factor where the model has one
Delta rule (Qwen3-Next, OLMo-Hybrid, Kimi Linear): mixer_in, conv_in (queries, keys and values of
all heads in turn), gate_in, conv_taps, conv_out, y, gate, mixer_out as above
    query key value            of each head after convolution and SiLU; query and key of length one
    beta         share by which what the state holds under the key moves towards the value
    decay        what a head's state is multiplied with; key_decay: of each key channel
    write        beta * key (value - what the decayed state holds under the key)
    state        decay * (state before) + write: value channels of all heads x key channels
RecurrentGemma (d_state is 1), beside kinds of the others
    recurrence_gate input_gate   r and i, which make decay and write of conv_out
    A_bar B_bar  a and sqrt(1 - a^2) * input_gate;   write   B_bar * conv_out;   y   state
LFM2 (d_state is the width of its convolution)
    value input_gate gate   x, B and C, the parts of the in-projection; value has one head
    conv_in      input_gate * value
    write        conv_in in the last place of the state, zeros in the others
    state        conv_in of the last positions, oldest first;   y   their convolution
RWKV-4
    mixer_normed mlp_normed   normed stream as time mixing and channel mixing read it
    shift_taps   the two positions that time mixing reads: tap 0 the one before, tap 1 its own
    key value    of one head;   gate_in   before the sigmoid that makes gate
    write        exp(key) * (value, 1), for numerator and denominator (d_state is 2)
    state        decay * (state before) + write, in float64, without a scale of its own
    y            what the state before and exp(bonus) * write are together: numerator / denominator
    mlp_shifted  mlp_normed of the position before
    mlp_gate     what multiplies the last matrix's product in channel mixing
xLSTM
    query key value   of each head
    write_scale decay   exp(i) and sigmoid(f) of each head
    write        write_scale * key (value, 1), for each head's value channels and its normaliser
    state        decay * (state before) + write: those rows of all heads x key channels
    y            value channels that query reads, over max(|normaliser|, 1)
An architecture from outside may bring kinds of its own (`architectures.register`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from homolog.errors import InputError

_STREAM = ("batch", "position", "d_model")
_BY_HEAD = ("batch", "position", "head", "d_head")
_HEAD_STREAM = ("batch", "position", "head", "d_model")
_INNER = ("batch", "position", "d_inner")
_STATE = ("batch", "position", "d_inner", "d_state")

_AXES = (
    ("embed resid_pre", _STREAM),
    ("embed_in", _STREAM),
    ("query_in key_in value_in", _HEAD_STREAM),
    ("query key value", _BY_HEAD),
    ("pattern", ("batch", "head", "position", "key_position")),
    ("z head_gate", _BY_HEAD),
    ("head_out", _HEAD_STREAM),
    ("attn_out resid_mid mlp_in", _STREAM),
    ("mlp_hidden", ("batch", "position", "d_mlp")),
    ("mlp_out mixer_in mixer_normed mlp_normed mlp_shifted mlp_gate", _STREAM),
    ("shift_taps", ("batch", "position", "tap", "d_model")),
    ("write_scale decay", ("batch", "position", "head")),
    ("conv_in gate_in", _INNER),
    ("conv_taps", ("batch", "position", "tap", "d_inner")),
    ("conv_out ssm_input dt recurrence_gate input_gate", _INNER),
    ("head_dt decay", ("batch", "position", "head")),
    ("B C", ("batch", "position", "d_state")),
    ("A_bar B_bar write state", _STATE),
    ("beta", ("batch", "position", "head")),
    ("key_decay", _BY_HEAD),
    ("y skip gate", _INNER),
    ("mixer_out resid", _STREAM),
)
KINDS: dict[str, tuple[str, ...]] = {kind: axes for kinds, axes in _AXES for kind in kinds.split()}
WITHOUT_LAYER = frozenset({"embed"})

_NAME = re.compile(r"(?P<kind>\w+)(\.(?P<layer>\d+)(\.(?P<head>\d+))?)?(@(?P<position>-?\d+))?")


def add_kind(kind: str, axes: tuple[str, ...]) -> None:
    """A kind of site of every block, that an architecture from outside this package has.

    InputError for a name that no site can have, axes that are not those of a batch, and a kind that
    has other axes already.
    """
    if not re.fullmatch(r"\w+", kind) or axes[:1] != ("batch",):
        requirement = "a kind is a word of letters, digits and _, and its first axis is the batch"
        remedy = "Name it like {'mixer_out': ('batch', 'position', 'd_model')}."
        raise InputError("kinds", {kind: axes}, requirement, remedy)
    if KINDS.setdefault(kind, axes) != axes:
        requirement = f"the kind {kind} has the axes {', '.join(KINDS[kind])}"
        raise InputError("kinds", {kind: axes}, requirement, "Choose another name.")


def is_wide(kind: str) -> bool:
    """Whether a kind of every block has one vector as wide as the stream at each position."""
    return KINDS.get(kind) == _STREAM and kind not in WITHOUT_LAYER


@dataclass(frozen=True)
class Site:
    """A place in the model, or one head or position of it.  `str(site)` is its name."""

    kind: str
    layer: int | None = None
    head: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        if self.head is not None and "head" not in KINDS.get(self.kind, ("head",)):
            requirement = f"{self.kind} has no heads; its axes are {', '.join(self.axes)}"
            raise InputError("site", str(self), requirement, f"Name {self.kind}.{self.layer}.")

    def __str__(self) -> str:
        name = self.kind if self.layer is None else f"{self.kind}.{self.layer}"
        name = name if self.head is None else f"{name}.{self.head}"
        return name if self.position is None else f"{name}@{self.position}"

    @property
    def base(self) -> Site:
        """The same place with all its heads and positions."""
        return replace(self, head=None, position=None)

    @property
    def n_chosen(self) -> int:
        """How many axes the name chooses one of."""
        return (self.head is not None) + (self.position is not None)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the whole place, also of a head or position that the name chooses."""
        return KINDS[self.kind]

    @classmethod
    def parse(cls, name: Site | str) -> Site:
        """The site of that name.  InputError for names not of the module docstring's form."""
        if isinstance(name, Site):
            return name
        parts = _NAME.fullmatch(name)
        kind = parts["kind"] if parts else re.split(r"[.@]", name)[0]
        if parts and kind in KINDS and (parts["layer"] is None) == (kind in WITHOUT_LAYER):
            numbers = (parts[part] for part in ("layer", "head", "position"))
            return cls(kind, *(int(number) if number else None for number in numbers))
        known = ", ".join(k if k in WITHOUT_LAYER else f"{k}.LAYER" for k in KINDS)
        near = _nearest(kind, list(KINDS))
        rest = "" if near in WITHOUT_LAYER else name[len(kind) :] or ".LAYER"
        hint = f"Did you mean {near + rest!r}? " if near and near + rest != name else ""
        forms = "KIND.LAYER, KIND.LAYER.HEAD or KIND.LAYER@POSITION"
        requirement = f"it must be {forms} of a known kind"
        raise InputError("site", name, requirement, f"{hint}Known: {known}.")


def resolve(name: Site | str, available: Sequence[Site], model: str) -> Site:
    """The site of that name, which the model has; else an InputError that names the nearest."""
    site = Site.parse(name)
    if site.base in available:
        return site
    same = [s for s in available if s.kind == site.kind]
    if same:
        reason, nearest = f"its {site.kind} sites are {same[0]} to {same[-1]}", same[-1]
    else:
        kinds = list(dict.fromkeys(s.kind for s in available))
        reason, near = f"its kinds are {', '.join(kinds)}", _nearest(site.kind, kinds)
        not_later = [s for s in available if (s.layer or 0) <= (site.layer or 0)]
        nearest = next((s for s in reversed(not_later) if s.kind == near), None)
    hint = f"The nearest is {str(replace(nearest, position=site.position))!r}. " if nearest else ""
    requirement = f"{model} has no such site: {reason}"
    raise InputError("site", str(site), requirement, f"{hint}model.sites() lists all.")


def index_of(field: str, site: Site, index: int, length: int) -> int:
    """`index` along an axis of that length, never negative; InputError when it lies outside.

    field: what the user gave it as: "position" or "head" in the site's name, or "positions",
    "heads", "channels", ...
    """
    if -length <= index < length:
        return index % length
    plural = f"{field.removesuffix('s')}s"
    where = f"the window at {site}" if plural == "positions" else str(site.base)
    lowest = 0 if field == "head" else -length
    requirement = f"{where} has {length} {plural}"
    raise InputError(field, index, requirement, f"Use {lowest} to {length - 1}.")


def _nearest(kind: str, kinds: Sequence[str]) -> str | None:
    """The kind that is written most alike, upper or lower case; None when none is."""
    by_lower = {k.lower(): k for k in kinds}
    return next((by_lower[k] for k in difflib.get_close_matches(kind.lower(), by_lower, n=1)), None)
