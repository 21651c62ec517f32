"""Where in a model a dictionary belongs, from the names that libraries give to places.

The residual stream after block 3 is blocks.3.hook_resid_post or blocks.4.hook_resid_pre
(TransformerLens), resid_post_layer_3 (dictionary_learning), layers.3, model.layers.3 or
transformer.h.3 (module paths), resid.3 (ours).
"""

from __future__ import annotations

import re

_AFTER = re.compile(
    r"blocks\.(\d+)\.hook_resid_post|resid_post_layer_(\d+)|resid\.(\d+)|(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)"
)
_BEFORE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")
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
