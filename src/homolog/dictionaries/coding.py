"""Encoding and decoding of many tokens by any dictionary, one block of tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy import sparse

from homolog.axes import Activations, Features
from homolog.dictionaries.base import Dictionary, SparseAutoencoder
from homolog.dictionaries.encoder import SparseEncoder
from homolog.dictionaries.finite import refuse_not_finite
from homolog.errors import InputError

_TOKENS = 8192  # of a block at most
_ENTRIES = 1 << 24  # features of a block at most, tokens x d_sae, or of 64 tokens
_SPARSE = 1 / 16  # share of active features up to which a sparse product is the faster one


@runtime_checkable
class Autoencoder(Dictionary, Protocol):
    """A dictionary that also turns features back into residuals."""

    def decode(self, f: Features) -> Activations: ...


class Coder:
    """One dictionary at work; features of a `SparseAutoencoder` are CSR, others what it gives."""

    def __init__(self, dictionary: Dictionary, device: torch.device | str = "cpu") -> None:
        self.dictionary = dictionary
        self.step = min(_TOKENS, max(64, _ENTRIES // dictionary.d_sae))
        self.encoder: SparseEncoder | None = None
        if isinstance(dictionary, SparseAutoencoder):
            self.encoder = SparseEncoder(dictionary, device=device)
            self.W_dec = dictionary.W_dec.float().cpu()
            self.b_dec = dictionary.b_dec.float().cpu()

    def blocks(self, x: Activations) -> Iterator[Activations]:
        """x in blocks of tokens, float32.  InputError where it is not finite."""
        for number, block in enumerate(x.split(self.step)):
            if len(block):
                refuse_not_finite(block, "x", number * self.step)
                yield block.float()

    def encode(self, block: Activations) -> sparse.csr_array | torch.Tensor:
        """Features of a block."""
        if self.encoder is None:
            return self.dictionary.encode(block)
        return self.encoder.encode(block, where="x")

    def firing(self, f: sparse.csr_array | torch.Tensor) -> np.ndarray:
        """At how many tokens each feature of a block is other than 0."""
        if isinstance(f, torch.Tensor):
            return (f != 0).sum(0).cpu().numpy()
        # the encoder stores no zeros
        return np.bincount(f.indices, minlength=self.dictionary.d_sae)

    def counts(self, x: Activations) -> np.ndarray:
        """At how many tokens of (token, d_model) each feature is other than 0: (d_sae,) int64."""
        counts = np.zeros(self.dictionary.d_sae, np.int64)
        for block in self.blocks(x):
            counts += self.firing(self.encode(block))
        return counts

    def decode(self, f: sparse.csr_array | torch.Tensor) -> Activations:
        """Residuals of a block from its features; on the CPU where these are sparse."""
        if isinstance(f, torch.Tensor):
            if not isinstance(self.dictionary, Autoencoder):
                name = type(self.dictionary).__name__
                remedy = "Measure explained variance of dictionaries that reconstruct."
                raise InputError("dictionary", name, "it must have decode", remedy)
            return self.dictionary.decode(f)
        if f.nnz <= _SPARSE * (len(f.indptr) - 1) * self.dictionary.d_sae:
            return torch.from_numpy(f @ self.W_dec.numpy()) + self.b_dec
        return torch.from_numpy(f.toarray()) @ self.W_dec + self.b_dec

    def reconstruct(self, x: Activations) -> Activations:
        """decode(encode(x)) of (token, d_model), on the device of x."""
        blocks = [x.new_empty(0, x.shape[1], dtype=torch.float32)]
        blocks += [self.decode(self.encode(block)).to(x.device) for block in self.blocks(x)]
        return torch.cat(blocks)
