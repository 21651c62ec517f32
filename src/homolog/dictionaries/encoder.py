"""From residuals to sparse features, fast, with values that do not depend on how.

The product x W_enc, in bfloat16 where native, only says which features may be active (`screening`);
these are computed from the float32 weights in float64, rounded to float32 and compared with their
float32 thresholds, 0 where a kind has none.  Which features are active and what their values are is
therefore the same in bfloat16 and float32, for one token or many at once, for one thread or more;
on CUDA the same but for the order of float64 sums, which moves a float32 now and then by its last
bit.

Where more than a sixteenth of all features may be active, computing them one by one no longer pays:
a block of tokens then takes its values from the float32 product, and their last bits may depend on
which tokens share the block.  Which features are active does not: wherever the product's error
leaves it open, the exact sum decides.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from scipy import sparse

from homolog.axes import Activations
from homolog.dictionaries import screening
from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.hardware import Precision, Threads, product_precision
from homolog.errors import InputError

_PRODUCT_BYTES = 16 << 20  # held at once: a product that stays in the cache until it is screened
_BLOCK, _CUDA_BLOCK = 1024, 2048  # tokens whose features are computed together
# tokens of a block that are looked at first, so that dense features cost no whole product in vain
_FEW = 64
# share of features that may be active, above which a block takes the float32 product
_DENSE = 1 / 16
_GATHERED = 1 << 25  # float64 numbers of a CUDA device's memory that exact sums may take at once
_LARGEST = 1e38
_RELATIVE = 2.0**-23  # of a float32 number: twice what rounding moves it

_Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Active features of a block, their values, and how many each token has."""


class SparseEncoder:
    """The encoder of a `SparseAutoencoder`, laid out for encoding many tokens.

    Holds W_enc transposed in float32, and again in bfloat16 where that is the product.  `product`
    is "bfloat16" or "float32": what precision stands for on the device.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        precision: Precision = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.product: Literal["float32", "bfloat16"] = product_precision(precision, self.device)
        self.k, self.d_model, self.d_sae = sae.k or 0, sae.d_model, sae.d_sae
        self.W_enc_T = sae.W_enc.to(self.device, torch.float32).T.contiguous()
        self.b_enc, self.b_dec = (b.to(self.device, torch.float32) for b in (sae.b_enc, sae.b_dec))
        self.half = self.W_enc_T.bfloat16() if self.product == "bfloat16" else None
        self.w_norm = _norms(self.W_enc_T)
        self.w_error = torch.zeros_like(self.w_norm)
        if self.half is not None:
            self.w_error = _norms(self.W_enc_T - self.half.float())
        # Sums in float32 of d_model terms, in any order and rounding; the rounding of the result;
        # that of the biases.
        self.sum_error = self.d_model * 2.0**-23
        self.relative = _RELATIVE if self.half is None else 2.0**-8 * (1 + 2.0**-10)
        none = torch.zeros(self.d_sae)
        given = (none if sae.threshold is None else sae.threshold).to(self.device, torch.float32)
        self.threshold = given.clamp(max=_LARGEST)  # what no pre-activation reaches
        self.slack = 2 * _RELATIVE * (self.b_enc.abs() + self.threshold)
        self.highest = self.b_enc - self.threshold + self.slack
        self.lowest = self.b_enc - self.threshold - self.slack
        self.block = _BLOCK if self.device.type == "cpu" else _CUDA_BLOCK
        rows = _PRODUCT_BYTES // (self.d_sae * (4 if self.half is None else 2))
        self.rows = min(self.block, max(64, rows // 64 * 64))

    def encode(
        self, x: Activations, threads: int | None = None, where: str = "activations"
    ) -> sparse.csr_array:
        """Features of raw residuals (token, d_model): CSR float32 (token, d_sae), int32.

        x: any float dtype and device.  threads: torch's own number by default; on CUDA not used.
        where: what errors call x. Besides the result, each thread holds a product and the indices
        of a block, up to 0.1 GB at d_sae 24,576.  Raises InputError where x is not finite.
        """
        blocks = x.split(self.block) if len(x) else ()
        entries: list[_Entries | None] = [None] * len(blocks)
        local = threading.local()

        def work(i: int) -> None:
            if not hasattr(local, "room"):
                local.room = _Room(self)
            x, seen, norm, bound = self._inputs(blocks[i], i, where)
            entries[i] = self._on_cpu(x, seen, norm, bound, local.room)

        if self.device.type == "cpu":
            with Threads(threads or torch.get_num_threads()) as pool, torch.no_grad():
                pool.run(work, range(len(blocks)))
        else:
            with torch.no_grad():
                for i, block in enumerate(blocks):
                    entries[i] = self._by_torch(*self._inputs(block, i, where))
        return _join([part for part in entries if part is not None], len(x), self.d_sae)

    def _inputs(
        self, raw: torch.Tensor, number: int, where: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Centred tokens, what the product sees, its norm, and each feature's bound at norm 1."""
        x = raw.to(self.device, torch.float32) - self.b_dec
        seen = x if self.half is None else x.bfloat16()
        norm = _norms(seen.float())
        largest = norm * self.w_norm.max() + self.b_enc.abs().max()
        if not bool((largest < _LARGEST).all()):
            token = number * self.block + int(torch.nonzero(~(largest < _LARGEST))[0, 0])
            value = f"not finite, or too large, at token {token}"
            requirement = "their features must be finite float32 numbers"
            remedy = "Check the weights of the model and of the dictionary."
            raise InputError(where, value, requirement, remedy)
        # at most, also where x is all but 0
        error = (_norms(x - seen.float()) / norm).max().clamp(max=2.0**-8 * 1.01)
        return x, seen, norm, (error + 1.01 * self.sum_error) * self.w_norm + self.w_error

    def _on_cpu(self, x, seen, norm, bound, room: _Room) -> _Entries:
        start, highest, lowest = room.start[: len(x) + 1], self.highest.numpy(), self.lowest.numpy()
        n, relative = 0, np.float32(self.relative)
        for low, high in itertools.pairwise([0, *range(_FEW, len(x), self.rows), len(x)]):
            part, limit = slice(low, high), n + int((high - low) * self.d_sae * _DENSE)
            if self.half is None:
                full = self._float32_product(x[part]).numpy()
            else:
                torch.mm(seen[part], self.half.T, out=room.product[: high - low])
                full = room.no_full
            bounds = relative, highest, lowest, norm[part].numpy(), bound.numpy()
            place = room.index, start[low : high + 1]
            n = screening.screen((room.half, full), bounds, self.k, limit, *place)
            if n < 0:
                return self._dense(x, room)
        work = room.token, room.order, room.offset, room.value
        screening.compute(x.numpy(), self._weights(), room.index, start, *work)
        n = screening.keep_active(self.threshold.numpy(), self.k, room.index, room.value, start)
        return room.index[:n].copy(), room.value[:n].copy(), np.diff(start)

    def _dense(self, x: torch.Tensor, room: _Room) -> _Entries:
        """A block with many active features, from the float32 product alone."""
        entries, threshold = [], self.threshold.numpy()
        for part in x.split(self.rows):
            size = len(part) * (self.k or self.d_sae)
            index, value = np.empty(size, np.int32), np.empty(size, np.float32)
            start, full = room.start[: len(part) + 1], self._float32_product(part).numpy()
            errors = self.slack.numpy(), _norms(part).numpy(), self._float32_bound().numpy()
            bounds, place = (np.float32(_RELATIVE), *errors), (index, value, start)
            given = full, part.numpy(), self._weights(), threshold, bounds
            n = screening.select_dense(*given, self.k, *place)
            entries.append((index[:n], value[:n], np.diff(start)))
        index, value, counts = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
        return index, value, counts

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        return self.W_enc_T.numpy(), self.b_enc.numpy()

    def _float32_product(self, x: torch.Tensor) -> torch.Tensor:
        from homolog.models.products import project  # slow to import, and only needed here

        return project(x, self.W_enc_T)

    def _float32_bound(self) -> torch.Tensor:
        """Each feature's bound on the error of a float32 product, at norm 1."""
        return 1.01 * self.sum_error * self.w_norm

    def _by_torch(self, x, seen, norm, bound) -> _Entries:
        """What `_on_cpu` does, in torch operations; only the active entries leave the device."""
        with _full_sums():
            product = (x @ self.W_enc_T.T if self.half is None else seen @ self.half.T).float()
        margin = norm[:, None] * bound + self.relative * product.abs()
        least = torch.zeros(len(x), 1, device=self.device)
        if self.k:
            lower = product + self.lowest - margin
            kth = lower.topk(min(self.k, self.d_sae), dim=1).values[:, -1:]
            least = torch.maximum(least, torch.nextafter(kth, -torch.ones_like(kth)))
        token, feature = torch.nonzero(product + self.highest + margin > least, as_tuple=True)
        if len(token) > _DENSE * product.numel() and not self.k:
            with _full_sums():
                product = product if self.half is None else x @ self.W_enc_T.T
            value = self._decided(x, product[token, feature], token, feature)
        else:
            value = self._exact(x, token, feature)
        active = value > self.threshold[feature]
        token, feature, value = token[active], feature[active], value[active]
        if self.k:
            token, feature, value = _largest(token, feature, value, self.k)
        counts = torch.bincount(token, minlength=len(x))
        return feature.to(torch.int32).cpu().numpy(), value.cpu().numpy(), counts.cpu().numpy()

    def _decided(self, x, product, token, feature) -> torch.Tensor:
        """Pre-activations of single entries: exact where the float32 product leaves them open."""
        value = product + self.b_enc[feature]
        margin = _norms(x)[token] * self._float32_bound()[feature] + _RELATIVE * product.abs()
        margin = margin + self.slack[feature]
        left_open = torch.nonzero((value - self.threshold[feature]).abs() <= margin)[:, 0]
        value[left_open] = self._exact(x, token[left_open], feature[left_open])
        return value

    def _exact(self, x: torch.Tensor, token: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """x w + b_enc of single entries, summed in float64, as float32."""
        parts = [torch.empty(0, device=self.device)]
        step = max(1, _GATHERED // self.d_model)
        for t, i in zip(token.split(step), feature.split(step), strict=True):
            pre = (x[t].double() * self.W_enc_T[i].double()).sum(1) + self.b_enc[i].double()
            parts.append(pre.float())
        return torch.cat(parts)


class _Room:
    """Working memory of one thread."""

    def __init__(self, encoder: SparseEncoder) -> None:
        entries = encoder.block * encoder.d_sae
        self.half, self.no_full = np.empty((0, 0), np.uint16), np.empty((0, 0), np.float32)
        if encoder.half is not None:
            self.product = torch.empty(encoder.rows, encoder.d_sae, dtype=torch.bfloat16)
            self.half = self.product.view(torch.uint16).numpy()
        most = int(entries * _DENSE)
        self.index = np.empty(most + encoder.d_sae + 1, np.int32)
        self.value = np.empty(most, np.float32)
        self.token, self.order = (np.empty(most, np.int32) for _ in range(2))
        self.offset = np.zeros(encoder.d_sae + 1, np.int64)
        self.start = np.zeros(encoder.block + 1, np.int64)


@contextlib.contextmanager
def _full_sums() -> Iterator[None]:
    """CUDA products whose sums stay in float32: no TF32, no partial sums in bfloat16."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = False, False
    try:
        yield
    finally:
        matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = before


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row, in float32 and not below the true one; tiny instead of 0."""
    return (rows.double().norm(dim=1) * (1 + 1e-6) + 1e-30).float()


def _largest(token, feature, value, k: int) -> tuple[torch.Tensor, ...]:
    """Each token's k largest entries in order of token and feature, among equal ones the lowest."""
    order = torch.sort(value, descending=True, stable=True).indices
    # by token, then from large to small, then feature
    order = order[torch.sort(token[order], stable=True).indices]
    counts = torch.bincount(token)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(order), device=order.device) - first[token[order]]
    kept = torch.sort(order[rank < k]).values
    return token[kept], feature[kept], value[kept]


def _join(parts: list[_Entries], n_tokens: int, d_sae: int) -> sparse.csr_array:
    index = np.concatenate([np.empty(0, np.int32), *(part[0] for part in parts)])
    value = np.concatenate([np.empty(0, np.float32), *(part[1] for part in parts)])
    # scipy widens both
    wide = len(index) > np.iinfo(np.int32).max
    indptr = np.zeros(n_tokens + 1, np.int64 if wide else np.int32)
    np.cumsum(np.concatenate([np.empty(0, np.int64), *(part[2] for part in parts)]), out=indptr[1:])
    csr = sparse.csr_array((value, index, indptr), shape=(n_tokens, d_sae))
    csr.has_sorted_indices = True
    return csr
