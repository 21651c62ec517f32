"""Where in a model a dictionary belongs, from the names that libraries give to places.

The residual stream after block 3 is blocks.3.hook_resid_post or blocks.4.hook_resid_pre
(TransformerLens), resid_post_layer_3 (dictionary_learning), layers.3, model.layers.3 or
transformer.h.3 (module paths), resid.3 (ours).  Other places in block 3:

    ours           TransformerLens           dictionary_learning   modules
    resid_mid.3    blocks.3.hook_resid_mid
    mlp_in.3       blocks.3.hook_mlp_in
    attn_out.3     blocks.3.hook_attn_out    attn_out_layer_3      layers.3.self_attn, .attention
    mlp_out.3      blocks.3.hook_mlp_out     mlp_out_layer_3       layers.3.mlp
    mixer_out.3                                                    layers.3.mixer
"""

from __future__ import annotations

import re
from dataclasses import replace

from homolog.dictionaries.base import SparseAutoencoder
from homolog.record.layers import STREAM_AFTER

_AFTER = re.compile(
    r"blocks\.(\d+)\.hook_resid_post|resid_post_layer_(\d+)|resid\.(\d+)"
    r"|(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)"
)
_BEFORE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")
_INSIDE = (
    re.compile(
        r"blocks\.(?P<layer>\d+)\.hook_(?P<kind>resid_pre|resid_mid|attn_out|mlp_in|mlp_out)"
    ),
    re.compile(r"(?P<kind>attn_out|mlp_out)_layer_(?P<layer>\d+)"),
    re.compile(r"(?:[a-z_]+\.)*(?:layers|h|blocks)\.(?P<layer>\d+)\.(?P<kind>\w+)"),
    re.compile(r"(?P<kind>resid_pre|resid_mid|\w+_in|\w+_out)\.(?P<layer>\d+)"),
)
_MODULES = {"mlp": "mlp_out", "mixer": "mixer_out"} | dict.fromkeys(
    ("self_attn", "attn", "attention"), "attn_out"
)
_KINDS = ("resid_pre", "resid_mid", "attn_out", "mlp_in", "mlp_out", "mixer_in", "mixer_out")
_ELSEWHERE = re.compile(r"mlp|attn|attention|mixer|resid_mid|hook_z|_out\b|\bln|normalized|embed")


def residual_layer(hook: str | None) -> int | None:
    """The block after which the dictionary reads the residual stream; None if not said."""
    if hook is None:
        return None
    if after := _AFTER.fullmatch(hook):
        return int(next(group for group in after.groups() if group is not None))
    before = _BEFORE.fullmatch(hook)
    return int(before[1]) - 1 if before and int(before[1]) > 0 else None


def is_elsewhere(hook: str | None) -> bool:
    """Whether the name is that of another place than the residual stream between blocks."""
    return hook is not None and residual_layer(hook) is None and _ELSEWHERE.search(hook) is not None


def site_of(hook: str | None) -> str | None:
    """The site that a name says, "mlp_out.3"; None for no name, and for one that is not known."""
    if (layer := residual_layer(hook)) is not None:
        return f"{STREAM_AFTER}.{layer}"
    places = (pattern.fullmatch(hook or "") for pattern in _INSIDE)
    if (place := next(filter(None, places), None)) is None:
        return None
    kind = _MODULES.get(place["kind"], place["kind"])
    return _one_name(f"{kind}.{place['layer']}") if kind in _KINDS else None


def is_of(sae: SparseAutoencoder, site: str) -> bool:
    """Whether a dictionary is of the site "KIND.LAYER", as far as its file says.

    A file that says nothing but the block means the stream after it.
    """
    hook, layer = sae.metadata.get("hook"), sae.metadata.get("layer")
    said = site_of(hook)
    if hook is None and layer is not None:
        said = f"{STREAM_AFTER}.{layer}"
    if said is not None:
        return said == _one_name(site)
    return hook == site or (not is_elsewhere(hook) and layer in (None, int(site.split(".")[-1])))


def said_at(sae: SparseAutoencoder, site: str) -> SparseAutoencoder:
    """The dictionary, whose file is to say that it is of that site."""
    kind, layer = site.rsplit(".", 1)
    if kind == STREAM_AFTER:  # which its block says
        return sae
    known = f"blocks.{layer}.hook_{kind}"  # as other libraries read it, where they have a name
    hook = known if site_of(known) == _one_name(site) else site
    return replace(sae, metadata={**sae.metadata, "hook": hook})


def _one_name(site: str) -> str:
    """What has two names by one of them: before a block is after the one before."""
    kind, layer = site.rsplit(".", 1)
    return f"{STREAM_AFTER}.{int(layer) - 1}" if kind == "resid_pre" and int(layer) else site
