"""`Columns` on a device: copied once for a layer, which meets many others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from homolog.matching.columns import Columns, GivenEntries, StoredEntries


@dataclass(frozen=True, eq=False)
class Resident:
    """`Columns` on a device: the same numbers, with the sparse part in both orders."""

    n_tokens: int
    n_features: int
    order: Tensor  # int64
    mean: Tensor  # float64
    inverse_sd: Tensor  # float64
    dense: Tensor  # float32 (tokens, dense)
    by_token: tuple[Tensor, ...]  # start int64 (tokens + 1), column int32, value float32
    by_column: tuple[Tensor, ...]  # start int64 (sparse + 1), token int32, value float32
    fullest: int  # sparse entries of the token that has most

    @property
    def n_dense(self) -> int:
        return self.dense.shape[1]

    @property
    def n_sparse(self) -> int:
        return len(self.order) - self.n_dense

    @cached_property
    def rms(self) -> Tensor:
        """sqrt(E[x^2]) of every defined column."""
        return (self.inverse_sd**-2 + self.mean**2).sqrt()

    @classmethod
    def upload(cls, columns: Columns, device: torch.device) -> Resident:
        """Copy the sparse entries in the order at hand; make the other on the device."""
        entries = columns.entries
        if isinstance(entries, GivenEntries):  # best as the user gave them
            by_token = _numbered(entries, device)
            by_column = _transposed(by_token, columns.n_sparse)
        elif isinstance(entries, StoredEntries) and entries.packed is not None:
            by_token = _copied(entries.packed.by_token(), device)
            by_column = _transposed(by_token, columns.n_sparse)
        else:
            by_column = _copied(columns.by_column, device)
            by_token = _transposed(by_column, columns.n_tokens)
        order, mean, inverse_sd, dense = _copied(
            (columns.order, columns.mean, columns.inverse_sd, columns.dense), device
        )
        return cls(
            columns.n_tokens,
            columns.n_features,
            order,
            mean,
            inverse_sd,
            dense,
            by_token,
            by_column,
            fullest=int(by_token[0].diff().max()) if columns.n_tokens else 0,
        )


kept: WeakKeyDictionary[Columns, Resident] = WeakKeyDictionary()
"""What lies on a device, for as long as the columns live."""


def on_device(columns: Columns, device: torch.device) -> Resident:
    """The copy on that device, made where there is none."""
    copy = kept.get(columns)
    if copy is None or not _is_there(copy, device):
        copy = kept[columns] = Resident.upload(columns, device)
    return copy


def _is_there(copy: Resident, device: torch.device) -> bool:
    at = copy.order.device
    return at.type == device.type and device.index in (None, at.index)


def _copied(arrays: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(array, device=device) for array in arrays)


def _numbered(given: GivenEntries, device: torch.device) -> tuple[Tensor, ...]:
    """(start, column, value) of the user's matrix, its columns numbered and scaled."""
    csr = given.csr
    arrays = csr.indptr, csr.indices, csr.data, given.number, given.factor
    start, index, data, number, factor = _copied(arrays, device)
    column = number[index.long()]
    stored = column >= 0
    column = column[stored]
    value = (data[stored].double() * factor[column.long()]).float()
    before = torch.cat([stored.new_zeros(1, dtype=torch.int64), stored.cumsum(0)])
    return before[start.long()], column, value


def _transposed(entries: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    """(start, number, value) by rows as the same by the n columns, ascending, or the reverse."""
    start, number, value = entries
    row = torch.arange(len(start) - 1, dtype=torch.int32, device=start.device)
    row = row.repeat_interleave(start.diff(), output_size=len(number))
    ascending, place = number.sort(stable=True)
    bounds = torch.arange(n + 1, dtype=number.dtype, device=start.device)
    return torch.searchsorted(ascending, bounds), row[place], value[place]
