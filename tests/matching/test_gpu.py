"""The CUDA engine against exact arithmetic and against the CPU engine.

The tests run on a CUDA device; where there is none the last of them runs all the others in Triton's
interpreter.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse
import torch
from tests.matching.random_features import features
from tests.reference import pearson_exact

from homolog.matching import Columns, max_pearson, prepare
from homolog.matching.columns import StoredEntries

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


@pytest.fixture
def device() -> str:
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    if INTERPRETED:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; the same test runs in Triton's interpreter")
    return "cuda"


@pytest.fixture
def engine(device: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The engine with tiles so small that a few features and tokens fill several of each kind."""
    from homolog.matching import gpu

    for name, size in {
        "TILE": 32,
        "WIDEST": 4,
        "STRIP": 8,
        "GATHERED": 16,
        "DENSE_BLOCK": 4,
        "BLOCK_SUMS": 12,
    }.items():
        monkeypatch.setattr(gpu, name, size)
    monkeypatch.setattr(gpu, "CHUNK_BYTES", 600)
    monkeypatch.setattr(gpu, "WARPS", 4)
    return gpu


def sparse(x: np.ndarray) -> Columns:
    return prepare(scipy.sparse.csr_array(x))


def assert_equals_exact(found, a: np.ndarray, b: np.ndarray, k: int) -> None:
    table = pearson_exact.correlations(a, b)
    for (r, index), exact in zip(found, (table, table.T), strict=True):
        values, _ = pearson_exact.best(exact, k)
        np.testing.assert_allclose(r, values, rtol=0, atol=3e-7)
        assert r.dtype == np.float32 and index.dtype == np.int64
        assert ((index == -1) == np.isnan(r)).all()
        at_index = np.where(
            index < 0, np.nan, np.take_along_axis(exact, np.maximum(index, 0), axis=1)
        )
        np.testing.assert_allclose(r, at_index, rtol=0, atol=3e-7)


def assert_same_bytes(found, other) -> None:
    for (r, index), (other_r, other_index) in zip(found, other, strict=True):
        assert r.tobytes() == other_r.tobytes() and index.tobytes() == other_index.tobytes()


def on_the_processor(a: Columns, b: Columns, k: int):
    best = max_pearson(a, b, k, threads=1)
    return tuple((side.r, side.index) for side in (best.a_to_b, best.b_to_a))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "densities"),
    [
        ("positive", [0.02, 0.1, 0.05]),
        ("scaled", [0.1, 0.02]),
        ("binary", [0.03, 0.0, 0.1]),
        ("positive", [0.05, 0.5, 0.1, 1.0]),
        ("scaled", [1.0]),
        ("binary", [0.5, 0.05, 1.0, 0.02, 0.0]),
    ],
)
def test_equals_exact_arithmetic_and_the_cpu_engine(engine, device, kind, densities, k):
    a = features(k, 90, 11, densities, kind)
    b = features(k + 10, 90, 13, densities[::-1], kind)
    b[:, 2], b[:, 9] = a[:, 0], a[:, 3]
    left, right = sparse(a), prepare(b)
    found = engine.best_pairs(left, right, k, device)
    assert_equals_exact(found, a, b, k)
    assert_same_bytes(found, on_the_processor(left, right, k))


@pytest.mark.parametrize("densities", [[0.1, 0.03], [0.1, 0.6]])
def test_any_number_of_programs_gives_the_same_bytes(engine, device, densities):
    left, right = (sparse(features(seed, 60, 9, densities, "positive")) for seed in (1, 2))
    found = engine.best_pairs(left, right, 3, device, programs=1)
    for programs in (2, 5, 100):
        assert_same_bytes(engine.best_pairs(left, right, 3, device, programs=programs), found)


@pytest.mark.parametrize("density", [0.1, 0.5])
@pytest.mark.parametrize("programs", [1, 7])
def test_ties_go_to_the_lowest_index(engine, device, density, programs):
    x = features(3, 80, 1, [density], "positive")
    other = features(4, 80, 3, [density], "positive")
    many = np.hstack([other, np.repeat(x, 20, axis=1)])
    (_, each), (r, index) = engine.best_pairs(sparse(many), sparse(x), 3, device, programs=programs)
    np.testing.assert_allclose(r, 1, atol=1e-7)
    assert index.tolist() == [[3, 4, 5]]
    assert each.tolist() == [[0, -1, -1]] * 23
    (_, index), _ = engine.best_pairs(sparse(x), sparse(many), 3, device, programs=programs)
    assert index.tolist() == [[3, 4, 5]]


def test_visible_arithmetic(engine, device):
    a = np.zeros((1000, 3), dtype=np.float32)
    b = np.zeros((1000, 2), dtype=np.float32)
    a[3, 0], a[500, 1], b[3, 0], b[4, 1] = 1, 7, 2, 1
    (r, index), (_, back) = engine.best_pairs(sparse(a), sparse(b), 2, device)
    # active together on the only token: r = 1; on different tokens: (0 - 1) / (n - 1) = -1/999;
    # never: undefined
    np.testing.assert_allclose(
        r, [[1, -1 / 999], [-1 / 999, -1 / 999], [np.nan, np.nan]], rtol=1e-6
    )
    assert index.tolist() == [[0, 1], [0, 1], [-1, -1]]
    assert back.tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_active", range(1, 9))
def test_the_largest_possible_sums_do_not_overflow(engine, device, n_active, sign):
    """Two equal columns of one value on up to 1/8 of the tokens: the sum reaches its bound."""
    a = np.zeros((64, 2), dtype=np.float32)
    a[:n_active, 0] = np.nextafter(np.float32(1), np.float32(0))
    a[40:43, 1] = 0.5, 1, 1
    assert_equals_exact(engine.best_pairs(sparse(a), sparse(sign * a), 2, device), a, sign * a, 2)


def test_one_large_value_does_not_hide_small_ones(engine, device):
    a, b = (features(seed, 400, 4, [0.1], "scaled") for seed in (5, 6))
    for x in (a, b):
        x[x != 0] *= np.float32(1e-5)
        x[7] = 1, 0, 1, 0
    assert_equals_exact(engine.best_pairs(sparse(a), sparse(b), 4, device), a, b, 4)


@pytest.mark.parametrize("densities", [[0.1, 0.02], [0.1, 0.4, 0.02, 1.0]])
def test_reordered_columns_use_the_copy_of_those_they_come_from(
    engine, device, densities, monkeypatch
):
    a, b = (features(seed, 70, 7, densities, "positive") for seed in (7, 8))
    left, right = sparse(a), sparse(b)
    uploads = []
    upload = engine.Resident.upload
    monkeypatch.setattr(engine.Resident, "upload", lambda *of: uploads.append(of) or upload(*of))
    generator = np.random.default_rng(3)
    for by_left, by_right in ((False, True), (True, False), (True, True)):
        rows = [generator.permutation(70) for _ in range(2)]
        x, y = (
            left.reordered(rows[0]) if by_left else left,
            right.reordered(rows[1]) if by_right else right,
        )
        expected = (a[rows[0]] if by_left else a, b[rows[1]] if by_right else b)
        assert_equals_exact(engine.best_pairs(x, y, 2, device), *expected, 2)
    assert len(uploads) == 2


def test_crowded_tokens_in_every_rotation(engine, device):
    """Features on two of 16 tokens, so many that some tokens hold more than two tiles of them."""
    a, b = (np.zeros((16, n), dtype=np.float32) for n in (3, 70))
    generator = np.random.default_rng(14)
    for x in (a, b):
        for column in range(x.shape[1]):
            x[generator.choice(16, 2, replace=False), column] = generator.exponential(size=2)
    assert np.count_nonzero(b, axis=1).max() > 2 * engine.WIDEST
    left, right = sparse(a), sparse(b)
    for shift in range(16):
        rows = np.roll(np.arange(16), shift)
        assert_equals_exact(
            engine.best_pairs(left.reordered(rows), right, 2, device), a[rows], b, 2
        )


@pytest.mark.parametrize(
    ("shape_a", "shape_b"), [((0, 2), (0, 3)), ((1, 2), (1, 3)), ((9, 0), (9, 3)), ((9, 2), (9, 0))]
)
def test_nothing_to_correlate_is_undefined(engine, device, shape_a, shape_b):
    found = engine.best_pairs(sparse(np.ones(shape_a)), sparse(np.eye(*shape_b)), 2, device)
    for (r, index), shape in zip(found, (shape_a, shape_b), strict=True):
        assert r.shape == index.shape == (shape[1], 2)
        assert np.isnan(r).all() and (index == -1).all()


def test_columns_in_any_order_of_entries(engine, device):
    a, b = (features(seed, 60, 6, [0.1, 0.5, 0.0], "positive") for seed in (15, 16))
    left, right = sparse(a), sparse(b)
    found = engine.best_pairs(left, right, 2, device)
    for order in ("by_column", "packed"):
        alone = [
            replace(side, entries=StoredEntries(**{order: getattr(side, order)}))
            for side in (left, right)
        ]
        assert_same_bytes(engine.best_pairs(*alone, 2, device), found)


def test_memory_that_runs_out_is_taken_from_other_layers(engine, device, monkeypatch):
    a, b, c = (features(seed, 60, 5, [0.1], "positive") for seed in (9, 10, 11))
    left, right, third = sparse(a), sparse(b), sparse(c)
    engine.best_pairs(left, right, 1, device)
    upload = engine.Resident.upload

    def full(columns: Columns, place: torch.device):
        if left in engine.kept and right in engine.kept:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upload(columns, place)

    monkeypatch.setattr(engine.Resident, "upload", full)
    assert_equals_exact(engine.best_pairs(left, third, 1, device), a, c, 1)
    assert left in engine.kept and right not in engine.kept


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="there is no CUDA device")
@needs_triton
@pytest.mark.parametrize("densities", [[0.001, 0.02, 0.005], [0.002, 0.01, 0.3], [1.0]])
def test_full_tiles_equal_the_cpu_engine(densities):
    from homolog.matching import gpu

    a, b = (features(seed, 20_000, 1500, densities, "positive") for seed in (12, 13))
    b[:, :300] += a[:, 300:600]
    left, right = sparse(a), sparse(b)
    for rows in (np.arange(20_000), np.random.default_rng(1).permutation(20_000)):
        other = right.reordered(rows)
        found = gpu.best_pairs(left, other, 2, "cuda")
        for (r, index), (cpu_r, cpu_index) in zip(
            found, on_the_processor(left, other, 2), strict=True
        ):
            np.testing.assert_allclose(r, cpu_r, rtol=0, atol=1.2e-7)
            assert (index == cpu_index).mean() > 0.999
        assert_same_bytes(gpu.best_pairs(left, other, 2, "cuda", programs=3), found)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("one_piece", [True, False])
def test_compiles_for_compute_capability_9_without_a_gpu(one_piece):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from homolog.matching import gpu

    def compiled(kernel, types: dict[str, str], **constants):
        type_of = {name: kind for kind, names in types.items() for name in names.split()}
        assert {*type_of, *constants} == set(kernel.arg_names)
        signature = {name: type_of.get(name, "constexpr") for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(kernel, signature, places)
        options = {"num_warps": gpu.WARPS, "enable_fp_fusion": False}
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

    types = {
        "*i64": "row_start row_id token_start column_id best_rows best_columns sums",
        "*i32": "row_token token_column queue meets",
        "*fp32": "row_value token_value",
        "*fp64": "row_mean row_inverse_sd column_mean column_inverse_sd",
        "i32": "row_stride column_stride n_rows n_columns n_tokens",
        "fp32": "scale unit",
    }
    tile = {"T": gpu.TILE // gpu.WIDEST, "W": gpu.WIDEST}
    sweep = compiled(gpu.sweep_kernel, types, K=2, ONE_PIECE=one_piece, STRIP=gpu.STRIP, **tile)
    # Atomics are native ones of 64 bits and without fences.
    atomics = set(re.findall(r"(?:atom|red)\.global[.\w]*", sweep.asm["ptx"]))
    assert {name.split(".", 2)[2] for name in atomics} == {
        "gpu.relaxed.add.u64",
        "gpu.relaxed.max.s64",
        "gpu.relaxed.add.u32",
    }
    if one_piece:
        types = {
            "*i64": "row_start",
            "*i32": "row_token meets",
            "*fp32": "row_value dense",
            "*fp64": "out",
            "i32": "dense_stride n_columns",
        }
        assert compiled(gpu.dense_kernel, types, T=32, W=64).asm["cubin"]


@needs_triton
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests run as they are")
def test_all_of_these_in_the_interpreter():
    if HAS_TRITON and tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) < (3, 7):
        pytest.skip(
            "the interpreter of Triton before 3.7 does not read loop bounds under numpy 2.4"
        )
    environment = dict(os.environ, TRITON_INTERPRET="1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 40, done.stdout
