"""The Triton kernels against the per-position loop, on a GPU and in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.models.scan_kinds import KINDS, Kind, each_kind, state_of
from torch import Tensor

from homolog.models.scan import ScanResult, propagate, selective_scan
from homolog.models.scan.running import backend_of

SHAPES = [(2, 70, 40, 16), (1, 1, 1, 1), (3, 33, 64, 5)]
# batch, length, groups, heads, d_k, d_v: more than one chunk, and more than one block of columns
MATRIX_SHAPES = [(1, 34, 1, 2, 6, 140), (1, 1, 1, 1, 1, 1), (1, 4, 2, 4, 5, 3), (0, 3, 1, 1, 2, 2)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def largest_error(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> float:
    """Largest relative difference of kernels and loop, over outputs and gradients."""
    batch, length, d_inner, d_state = shape
    g = torch.Generator().manual_seed(0)
    u, B, C = (
        torch.randn(batch, length, n, generator=g, dtype=dtype) for n in (d_inner, d_state, d_state)
    )
    dt = torch.nn.functional.softplus(
        torch.randn(batch, length, d_inner, generator=g, dtype=dtype) - 1
    )
    A = -torch.exp(torch.randn(d_inner, d_state, generator=g, dtype=dtype))
    start = torch.randn(batch, d_inner, d_state, generator=g, dtype=dtype)
    leaves = [t.to(device).requires_grad_() for t in (u, dt, A, B, C, start)]
    read = [length - 1, 0, length // 2]
    results = []
    for backend in ("triton", "torch"):
        scan = selective_scan(
            *leaves[:5], initial_state=leaves[5], return_states=read, backend=backend
        )
        results.append(outputs_and_gradients(scan, leaves))
    with torch.no_grad():
        plain = selective_scan(*leaves[:5], backend="triton")
        loop = selective_scan(*leaves[:5], backend="torch")
    results[0] += [plain.y, plain.last_state]
    results[1] += [loop.y, loop.last_state]
    return largest_difference(*results)


def largest_error_of(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> float:
    """The same of a scan whose state is a matrix."""
    args = kind.inputs(shape, dtype)
    leaves = [t.to(device).requires_grad_() for t in (*args, state_of(args))]
    *given, start = leaves
    read = [shape[1] - 1, 0, shape[1] // 2]
    results = []
    for backend in ("triton", "torch"):
        scan = kind.run(given, initial_state=start, return_states=read, backend=backend)
        results.append(outputs_and_gradients(scan, leaves))
        with torch.no_grad():
            plain = kind.run(given, backend=backend)
        results[-1] += [plain.y, plain.last_state]
    return largest_difference(*results)


def outputs_and_gradients(scan: ScanResult, leaves: list[Tensor]) -> list[Tensor]:
    assert scan.states is not None
    outputs = [scan.y, scan.last_state, scan.states]
    seeds = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=seeds, dtype=o.dtype).to(o.device) for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]


def largest_difference(ours: list[Tensor], loop: list[Tensor]) -> float:
    pairs = [(a.detach(), b.detach()) for a, b in zip(ours, loop, strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max() / b.abs().max()) if b.numel() else 0.0 for a, b in pairs)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_loop_on_a_gpu(shape, dtype, tolerance):
    assert backend_of(torch.device("cuda")) == "triton"
    assert largest_error(shape, dtype, "cuda") <= tolerance


@pytest.mark.gpu
@needs_cuda
@each_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", MATRIX_SHAPES)
def test_matrix_kernels_equal_the_loop_on_a_gpu(kind, shape, dtype, tolerance):
    assert largest_error_of(kind, shape, dtype, "cuda") <= tolerance


@pytest.mark.gpu
@needs_cuda
def test_propagation_on_a_gpu_equals_that_on_the_processor():
    g = torch.Generator().manual_seed(0)
    dt, delta = (torch.rand(*s, generator=g) for s in ((2, 50, 40), (3, 2, 40, 16)))
    A, start = -torch.rand(40, 16, generator=g), torch.tensor([7, 31])
    on_gpu = propagate(delta.cuda(), dt.cuda(), A.cuda(), start.cuda(), 49)
    here = propagate(delta, dt, A, start, 49)
    torch.testing.assert_close(on_gpu.cpu(), here, rtol=1e-5, atol=1e-5)


def interpreted(code: str) -> list[float]:
    """The numbers that `code` prints where Triton's kernels are interpreted."""
    environment = dict(os.environ, TRITON_INTERPRET="1")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@needs_triton
def test_kernels_equal_the_loop_in_the_interpreter():
    errors = interpreted(
        "import torch\n"
        "from tests.models.test_scan_gpu import SHAPES, largest_error\n"
        "for shape in SHAPES:\n"
        "    print(largest_error(shape, torch.float64, 'cpu'))\n"
    )
    assert len(errors) == len(SHAPES) and max(errors) <= 1e-11


@needs_triton
def test_matrix_kernels_equal_the_loop_in_the_interpreter():
    errors = interpreted(
        "import torch\n"
        "from tests.models.test_scan_gpu import KINDS, MATRIX_SHAPES, largest_error_of\n"
        "for kind in KINDS:\n"
        "    for shape in MATRIX_SHAPES:\n"
        "        print(largest_error_of(kind, shape, torch.float64, 'cpu'))\n"
    )
    assert len(errors) == len(KINDS) * len(MATRIX_SHAPES) and max(errors) <= 1e-11
