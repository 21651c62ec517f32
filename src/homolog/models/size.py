"""How large a model is, from its configuration alone: nothing is fetched but config.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from homolog.models.guards import planned
from homolog.models.load import read_configuration
from homolog.models.random_weights import is_written_here

LANES = ("hc_mult", "hc_count", "altup_num_inputs")
"""Fields that count the lanes of a residual stream: of hyper-connections, of AltUp."""


@dataclass(frozen=True)
class ModelSize:
    """What the work with a model grows with.

    d_model: width of the residual stream, all its lanes together.
    n_inner: parameters outside embedding and unembedding, of which each takes two operations a
    token.  n_vocabulary: ids of tokens.  n_unembedding: parameters of the unembedding, whether tied
    or not.  n_states: recurrent states of a block, 0 for attention.  n_neurons: of a block, as
    neurons are compared.
    """

    n_layers: int
    d_model: int
    n_parameters: int
    n_inner: int
    n_vocabulary: int
    n_unembedding: int
    n_states: int
    n_neurons: int


@lru_cache(maxsize=64)
def size_of(ref: str | Path, revision: str | None = None, *, random: bool = False) -> ModelSize:
    """The size of a model; of the paper's without a network.  Errors as of `read_configuration`."""
    config = read_configuration(ref, revision, random=random or is_written_here(str(ref)))
    model = planned(config)
    text = config.get_text_config(decoder=True)
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    n_parameters = sum(p.numel() for p in model.parameters())
    ends = {id(e.weight): e.weight.numel() for e in (embedding, unembedding) if e is not None}
    width = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    width = max(width) if isinstance(width, list) else width  # one for each block
    lanes = next((getattr(text, name) for name in LANES if hasattr(text, name)), 1)
    states = getattr(text, "state_size", None) or 0
    return ModelSize(
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size * lanes,
        n_parameters=n_parameters,
        n_inner=n_parameters - sum(ends.values()),
        n_vocabulary=text.vocab_size,
        n_unembedding=text.vocab_size * text.hidden_size,
        n_states=width * states,
        n_neurons=width * (2 if states else 1),  # input and gate of a mixer
    )
