"""Sites: the named places of a model at which activations are read and edited.

    embed           token embeddings, what block 0 reads                     (batch, position, d_model)
    resid.L         residual stream after block L                             (batch, position, d_model)
    mlp_hidden.L    Transformer: MLP hidden activations after the nonlinearity   (batch, position, d_mlp)
    ssm_input.L     Mamba: input of the SSM, after convolution and SiLU       (batch, position, d_inner)
    gate.L          Mamba: SiLU of the gate                                   (batch, position, d_inner)

Layers count blocks from 0.  `Site.parse` is the only place that reads site names.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from homolog.errors import InputError

KINDS_WITHOUT_LAYER = ("embed",)
KINDS_WITH_LAYER = ("resid", "mlp_hidden", "ssm_input", "gate")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model.  `str(site)` is its name."""

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, name: Site | str) -> Site:
        """The site of that name.  InputError when the name is not of the form KIND or KIND.LAYER."""
        if isinstance(name, Site):
            return name
        kind, dot, layer = name.partition(".")
        if kind in KINDS_WITHOUT_LAYER and not dot:
            return cls(kind)
        if kind in KINDS_WITH_LAYER and layer.isdigit():
            return cls(kind, int(layer))
        known = [*KINDS_WITHOUT_LAYER, *(f"{k}.LAYER" for k in KINDS_WITH_LAYER)]
        near = difflib.get_close_matches(kind, KINDS_WITHOUT_LAYER + KINDS_WITH_LAYER, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(
            "site",
            name,
            "it must name a known kind, and a layer where the kind has one",
            f"{hint}Known: {', '.join(known)}.",
        )


def resolve(name: Site | str, available: Sequence[Site], model: str) -> Site:
    """The site of that name, if the model has it; else an InputError that names the nearest one it has."""
    site = Site.parse(name)
    if site not in available:
        near = difflib.get_close_matches(str(site), [str(s) for s in available], n=1)
        raise InputError(
            "site",
            str(site),
            f"{model} has no such site",
            f"{f'The nearest is {near[0]!r}. ' if near else ''}model.sites() lists all.",
        )
    return site
