"""Random inputs of the scans whose state is a matrix, for each of their kinds of decay."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from homolog.models.scan import ScanResult, delta_scan, linear_scan


@dataclass(frozen=True)
class Kind:
    """A scan and the axes of its decay: 1, or k or v for one of each key or value channel."""

    name: str
    decay: str

    def inputs(
        self,
        shape: tuple[int, int, int, int, int, int],
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> list[Tensor]:
        """q, k, v, (beta,) log_decay; shape: batch, length, groups, heads, d_k, d_v."""
        batch, length, groups, heads, d_k, d_v = shape
        g = torch.Generator().manual_seed(seed)

        def normal(*axes: int) -> Tensor:
            return torch.randn(batch, length, *axes, dtype=dtype, generator=g)

        q, k, v = normal(groups, d_k), normal(groups, d_k), normal(heads, d_v)
        k = k / k.norm(dim=-1, keepdim=True)
        sizes = {"1": 1, "k": d_k, "v": d_v}
        log_decay = -torch.nn.functional.softplus(normal(heads, *(sizes[a] for a in self.decay)))
        if self.name == "linear":
            return [q, k, v, log_decay]
        return [q, k, v, torch.sigmoid(normal(heads)), log_decay]

    def run(self, args: list[Tensor], **options: object) -> ScanResult:
        return (linear_scan if self.name == "linear" else delta_scan)(*args, **options)  # type: ignore[arg-type]


KINDS = [Kind("linear", axes) for axes in ("11", "k1", "1v", "kv")]
KINDS += [Kind("delta", axes) for axes in ("1", "k")]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.decay}")


def state_of(args: list[Tensor], seed: int = 1) -> Tensor:
    q, _, v = args[:3]
    g = torch.Generator().manual_seed(seed)
    shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3])
    return torch.randn(shape, dtype=v.dtype, generator=g)
