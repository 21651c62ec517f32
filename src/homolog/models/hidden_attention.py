"""How much each position contributes to each later one, of any mixer: its hidden attention.

A mixer reads out a weighted sum of what the positions carry (`mixers.base.Mixer.attention`):

    readout[t] = sum over s of alpha[t, s] carried[s]   (+ a bias)

    mixer              carried[s]                 alpha[t, s]
    attention          value, by head             the pattern
    SSD                ssm_input, by head         C[t] (decays s+1 to t) B[s] dt[s]
    delta rule         value, by head             q[t] (maps s+1 to t) k[s] beta[s]
    selective scan     ssm_input, by channel      C[t] (A_bar s+1 to t) B[s] dt[s]
    RG-LRU             conv_out, by channel       (a s+1 to t) B_bar[s]
    RWKV-4             value, by channel          softmax of keys, with their decay and the bonus
    short convolution  value, by channel          tap t - s, times input_gate[s]

(...) is a product.  The sum is exact.  Rows sum to one in RWKV-4 and in attention without a sink;
elsewhere weights have either sign and any size.  Channels are many, and shown as means over groups
of neighbours: of |alpha|, in which weights of two signs do not cancel, or of alpha itself.  What s
carries came through the local part: behind a convolution it holds some positions before s, too.

Source: Ali, Zimerman and Wolf, "The Hidden Attention of Mamba Models", arXiv 2403.01590, for the
selective scan, by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.edits import Edit, indices_of
from homolog.models.mixer_edits import MixerEdit
from homolog.models.mixers.base import Inputs, Mixer
from homolog.models.sites import Site
from homolog.models.tokens import TokensLike

WEIGHTS_AT_ONCE = 2**25  # in memory at a time
KEY_WIDTH = 128  # of what a position reads with, about


def hidden_attention(
    model: LanguageModel,
    tokens: TokensLike,
    part: Site | str,
    queries: Sequence[int] | None = None,
    groups: int | None = None,
    signed: bool = False,
    edits: Sequence[Edit] = (),
) -> Float[Tensor, "batch head query key_position"]:
    """The weights alpha of one mixer, in float32 or wider.

    part      the mixer's readout: "z.2" of attention, "z.2.3" of one head, "y.5" of a recurrence
    queries   positions that read, all by default
    groups    means over as many groups of neighbouring heads or channels; by default each head by
              itself, and all channels together
    signed    means of alpha, not of |alpha|; what is no mean is always alpha itself
    edits     of the run that it is of
    Errors: InputError for a part that is no readout, or where groups are not of one size.
    """
    site = Site.parse(part)
    probe = _Weights(site, queries=queries, groups=groups, signed=signed)
    model.run(tokens, edits=[*edits, probe], stop_after=site.base)
    return torch.cat(probe.seen, 2)


@dataclass(frozen=True, eq=False)
class _Weights(MixerEdit):
    """Keeps the weights of a mixer, and leaves its readout as it is."""

    queries: Sequence[int] | None = None
    groups: int | None = None
    signed: bool = False
    seen: list[Tensor] = field(default_factory=list)

    def of_mixer(self, mixer: Mixer, readout: Tensor, inputs: Inputs, text_from: int) -> Tensor:
        site, heads = Site.parse(self.site), mixer.carried(inputs).shape[2]
        length = readout.shape[1]
        asked = range(length - text_from) if self.queries is None else self.queries
        at = indices_of("queries", asked, length - text_from, site) + text_from
        groups = self.groups or (1 if mixer.channelwise else heads)
        if heads % groups:
            requirement = f"{site} has {heads} heads or channels, and groups are of one size"
            raise InputError("groups", groups, requirement, f"Give a divisor of {heads}.")
        one = len(readout) * heads * (length + KEY_WIDTH)
        for some in at.split(max(1, WEIGHTS_AT_ONCE // one)):
            alpha = mixer.attention(inputs, some.tolist())[..., text_from:]
            if site.head is not None:
                alpha = alpha[:, [site.head]]
            elif groups < heads:
                alpha = alpha if self.signed else alpha.abs()
                alpha = alpha.unflatten(1, (groups, -1)).mean(2)
            self.seen.append(alpha)
        return readout
