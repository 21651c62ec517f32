"""What a feature's decoder direction d points at: tokens through the unembedding; other features.

    effect(d) = logits(L d) - logits(0), less its mean over the vocabulary

logits is the model's final norm and unembedding.  Both norms in use, LayerNorm and root mean
square, turn L d into gamma * d' / scale(d') (+ beta), d' being d (LayerNorm: centred over
channels), so this is W_U (gamma * d') with the norm's scale fixed to that of the direction alone;
taking logits(0) away removes every bias.  The scale in a real pass depends on the position; it is
one positive factor for all tokens and leaves their order as it is.  No knowledge of the
architecture is needed.  L = 1,000 makes the norm's epsilon vanish beside the direction.  Centred,
because softmax does not see a constant.  What later blocks make of the feature is not in it: a
direct effect only.

    nearest: the highest cosines of d with the other directions of its dictionary
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from homolog.axes import Residual
from homolog.errors import InputError
from homolog.models import LanguageModel

LENGTH = 1000.0
CHUNK_BYTES = 64 << 20  # of logits or cosines held at once

Decoder = Float[torch.Tensor, "d_sae d_model"]


@dataclass(frozen=True, eq=False)
class Promoted:
    """Token ids (int64) and effects (float32), (d_sae, k) each, the strongest first."""

    promoted: Int[torch.Tensor, "d_sae k"]
    promoted_effect: Float[torch.Tensor, "d_sae k"]
    suppressed: Int[torch.Tensor, "d_sae k"]
    suppressed_effect: Float[torch.Tensor, "d_sae k"]


@torch.inference_mode()
def promoted(model: LanguageModel, W_dec: Decoder, k: int = 10) -> Promoted:
    """The k tokens whose logits each decoder row raises and lowers most, by its direct effect.

    Effects are in logits, for a final residual that is the direction alone.  Rows of the
    unembedding beyond the tokenizer's vocabulary are left out.  A row of zeros has no effect: its
    ids are -1 and its effects NaN.
    Memory: a few times 64 MiB of logits, or those of one feature.  InputError: width or k that do
    not fit.
    """
    head = model.hf.get_output_embeddings()
    n_rows = head.weight.shape[0]
    n_tokens = n_rows if model.tokenizer is None else min(len(model.tokenizer), n_rows)
    _check(W_dec, k, n_tokens, "tokens of the vocabulary")
    if W_dec.shape[1] != model.d_model:
        shape, needed = tuple(W_dec.shape), f"{model.name} has d_model {model.d_model}"
        raise InputError("W_dec", shape, needed, "Give the dictionary of this model.")
    nothing = _logits(model, W_dec.new_zeros(1, model.d_model))
    parts = []
    for rows in _chunks(W_dec, n_rows):
        rows = rows / rows.norm(dim=1, keepdim=True)
        effect = (_logits(model, LENGTH * rows.nan_to_num()) - nothing)[:, :n_tokens]
        effect -= effect.mean(dim=1, keepdim=True)
        high, low = effect.topk(k), effect.topk(k, largest=False)
        defined = rows.isfinite().all(dim=1, keepdim=True).to(effect.device)
        for end in (high, low):
            parts.append(torch.where(defined, end.indices, -1).cpu())
            parts.append(torch.where(defined, end.values, torch.nan).float().cpu())
    return Promoted(*(torch.cat(parts[place::4]) for place in range(4)))


def _logits(
    model: LanguageModel, h: Float[torch.Tensor, "feature d_model"]
) -> Float[torch.Tensor, "feature vocabulary"]:
    weight = model.hf.get_output_embeddings().weight
    residual: Residual = h[None].to(weight)
    return model.logits(residual)[0]


@dataclass(frozen=True, eq=False)
class Nearest:
    """Features (int64) and their cosines (float32), (d_sae, k) each, nearest first."""

    feature: Int[torch.Tensor, "d_sae k"]
    cosine: Float[torch.Tensor, "d_sae k"]


@torch.inference_mode()
def nearest(W_dec: Decoder, k: int = 5) -> Nearest:
    """The k other features of a dictionary whose decoder rows have the highest cosine with each.

    A row of zeros has none, -1 and NaN, and is nobody's nearest while there are others.
    Memory: a normalised copy of W_dec and 64 MiB of cosines, or those of one feature.  InputError:
    k that does not fit.
    """
    _check(W_dec, k, len(W_dec) - 1, "other features")
    length = W_dec.float().norm(dim=1, keepdim=True)
    unit, empty = W_dec.float() / torch.where(length > 0, length, 1), length[:, 0] == 0
    features, cosines, first = [], [], 0
    for rows in _chunks(unit, len(unit)):
        own = torch.arange(first, first + len(rows))
        cosine = rows @ unit.T
        cosine[:, empty] = -2.0
        cosine[torch.arange(len(rows)), own] = -3.0
        best = cosine.topk(k)
        undefined = empty[own, None] | (best.values < -1.5)
        features.append(torch.where(undefined, -1, best.indices))
        cosines.append(torch.where(undefined, torch.nan, best.values.clamp(-1, 1)))
        first += len(rows)
    return Nearest(torch.cat(features), torch.cat(cosines))


def _check(W_dec: Decoder, k: int, most: int, of: str) -> None:
    if not 1 <= k <= most:
        raise InputError("k", k, f"there are {most} {of}", f"Give 1 to {most}.")


def _chunks(rows: Decoder, width: int) -> Iterator[Decoder]:
    """Rows, as many at a time as give CHUNK_BYTES of float32 results of `width` each."""
    at_once = max(1, CHUNK_BYTES // (4 * width))
    for first in range(0, len(rows), at_once):
        yield rows[first : first + at_once]
