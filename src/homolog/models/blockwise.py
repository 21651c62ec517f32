"""Adapters that compute every block themselves, over the weights of the Hugging Face module.

    h <- embed;  h <- block_L(h) for L = 0, 1, ...;  logits = unembedding of the final norm of h
An adapter says how to embed, how to run one block and how to read out, and may have sites inside
its blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from homolog.axes import Logits, Residual, Tokens
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.edits import Edit
from homolog.models.guards import reads_more
from homolog.models.products import linear
from homolog.models.runs import Run
from homolog.models.sites import Site
from homolog.models.taps import Taps
from homolog.models.widening import widened


class Blockwise(LanguageModel):
    """Base of the adapters of single architectures."""

    @abstractmethod
    def block(self, layer: int, h: Residual, context: Any, taps: Taps) -> Residual:
        """The residual stream after a block, from that before it.

        Each site inside it passes through `value = taps(KIND, layer, value)`.
        """

    @abstractmethod
    def final_norm(self, h: Residual) -> Residual:
        """What the unembedding reads of the residual stream after the last block."""

    def context(self, embedded: Residual) -> Any:
        """What all blocks of one pass share, for example rotary tables."""
        return None

    def embed(self, tokens: Tokens) -> Residual:
        """What block 0 reads."""
        return self.embedding()(tokens)

    def run_blocks(
        self,
        first: int,
        last: int,
        h: Residual,
        capture: Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        embedded: Residual | None = None,
    ) -> Run:
        """Blocks `first` to `last` alone, from the residual stream `h` before them.

        h         (batch, position, d_model), of all positions of a pass, its beginning included
        capture, edits   as in `run`; what these blocks do not reach is neither read nor edited
        embedded  what block 0 read, shaped like `h`, where blocks read it beside the stream
        No logits come with it.
        """
        taps = self._taps(capture, edits)
        self._blocks_after(first - 1, last, h, taps, embedded)
        return Run(None, taps.captured)

    def _pass(
        self, tokens: Tokens, taps: Taps, stop: Site | None, last_only: bool
    ) -> Tensor | None:
        h = taps("embed", None, self.embed(tokens))
        if stop == Site("embed"):
            return None
        last = self.n_layers - 1 if stop is None or stop.layer is None else stop.layer
        h = self._blocks_after(-1, last, h, taps)
        return self._read_out(h, last_only) if stop is None else None

    def _rest_of_pass(
        self, layer: int, h: Residual, taps: Taps, last_only: bool, embedded: Residual | None
    ) -> Tensor:
        if layer >= 0 and embedded is None and self.reads_embeddings_after(layer):
            raise reads_more(self.name, self.architecture, layer)
        h = self._blocks_after(layer, self.n_layers - 1, h, taps, embedded)
        return self._read_out(h, last_only)

    def _blocks_after(
        self, layer: int, last: int, h: Residual, taps: Taps, embedded: Residual | None = None
    ) -> Residual:
        """The residual stream after block `last` from that after block `layer`.

        embedded: what block 0 read; by default `h` stands for it.
        """
        context = self.context(h if embedded is None else embedded)
        for later in range(layer + 1, last + 1):
            h = taps("resid", later, self.block(later, taps("resid_pre", later, h), context, taps))
        return h

    def _read_out(self, h: Residual, last_only: bool) -> Tensor:
        return self.logits(h[:, -1:] if last_only else h)

    def logits(self, h: Residual) -> Logits:
        """Final norm and unembedding of a residual stream, in float32, or float64 as the model."""
        head = self.hf.get_output_embeddings()
        if head is None:
            requirement = "it has no language modelling head"
            raise InputError("model", self.name, requirement, "Load a causal language model.")
        h = self.final_norm(h)
        return widened(linear(head, h.to(head.weight.dtype)))
