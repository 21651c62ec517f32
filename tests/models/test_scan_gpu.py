"""The Triton kernels against the per-position loop, on a GPU and in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from homolog.models.scan import propagate, response, selective_scan
from homolog.models.scan.backends import backend_of

SHAPES = [(2, 70, 40, 16), (1, 1, 1, 1), (3, 33, 64, 5)]
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
        outputs = [scan.y, scan.last_state, scan.states]
        seeds = torch.Generator().manual_seed(1)
        weights = [torch.randn(o.shape, generator=seeds, dtype=dtype).to(device) for o in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    with torch.no_grad():
        plain = selective_scan(*leaves[:5], backend="triton")
        loop = selective_scan(*leaves[:5], backend="torch")
    results[0] += [plain.y, plain.last_state]
    results[1] += [loop.y, loop.last_state]
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(*results, strict=True)
    )


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_loop_on_a_gpu(shape, dtype, tolerance):
    assert backend_of(torch.device("cuda")) == "triton"
    assert largest_error(shape, dtype, "cuda") <= tolerance


@pytest.mark.gpu
@needs_cuda
def test_propagation_and_response_on_a_gpu_equal_those_on_the_processor():
    g = torch.Generator().manual_seed(0)
    dt, C, delta = (torch.rand(*s, generator=g) for s in ((2, 50, 40), (2, 50, 16), (3, 2, 40, 16)))
    A, start = -torch.rand(40, 16, generator=g), torch.tensor([7, 31])
    for function, args in (
        (propagate, (delta, dt, A, start, 49)),
        (response, (delta, dt, A, C, start)),
    ):
        on_gpu = function(*(a.cuda() if isinstance(a, torch.Tensor) else a for a in args))
        torch.testing.assert_close(on_gpu.cpu(), function(*args), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_equal_the_loop_in_the_interpreter():
    code = (
        "import torch\n"
        "from tests.models.test_scan_gpu import SHAPES, largest_error\n"
        "for shape in SHAPES:\n"
        "    print(largest_error(shape, torch.float64, 'cpu'))\n"
    )
    environment = dict(os.environ, TRITON_INTERPRET="1")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    errors = [float(line) for line in done.stdout.split()]
    assert len(errors) == len(SHAPES) and max(errors) <= 1e-11
