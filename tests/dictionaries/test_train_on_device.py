"""Training in torch and Triton against autograd and the CPU's own steps.

The kernels run on a CUDA device; where there is none the last test runs all the others in Triton's
interpreter.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import (
    D_MODEL,
    D_SAE,
    by_name,
    confine,
    random_state,
    small_source,
    weights64,
)
from tests.dictionaries.test_gradients import KINDS, WAYS, assert_same, loss_of

from homolog.dictionaries import (
    Checkpoint,
    KindSettings,
    Place,
    ResidualArrays,
    SparseAutoencoder,
    TrainingConfig,
    TrainingDivergedError,
    TrainingProgress,
    explained_variance,
    plant,
    train,
)
from homolog.dictionaries.kinds import batchtopk, gated, jumprelu, relu, topk
from homolog.dictionaries.kinds.base import keep_largest
from homolog.dictionaries.training import checkpoint, device_plain, on_device, scratch, trainer
from homolog.dictionaries.training.ahead import Ahead
from homolog.dictionaries.training.device_state import DeviceState
from homolog.dictionaries.training.state import SaeState
from homolog.dictionaries.training.step import advance, take_step
from homolog.errors import InputError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
N_TOKENS = 12 if INTERPRETED else 96
X = torch.from_numpy(
    np.random.default_rng(1).standard_normal((4 * N_TOKENS, D_MODEL)).astype(np.float32)
)
CONFIGS: dict[str, KindSettings] = {
    **KINDS,
    "topk, dead": topk.Settings(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25),
    "batchtopk, dead": batchtopk.Settings(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25),
    "relu, frozen": relu.Settings(d_sae=D_SAE, freeze_decoder=True),
    "gated, frozen": gated.Settings(d_sae=D_SAE, freeze_decoder=True),
    "relu, confined": relu.Settings(d_sae=D_SAE, l1=1.5),
    "batchtopk, confined": batchtopk.Settings(d_sae=D_SAE, k=5),
}
EVERY_WAY = [
    (name, dense) for name in CONFIGS for dense in ([False] if "topk" in name else [False, True])
]


@pytest.fixture(params=["plain", "triton"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that computes, with pieces so small that few features and tokens fill several."""
    if request.param == "plain":
        monkeypatch.setattr(device_plain, "GATHERED", 300)
        return device_plain
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; the same test runs in Triton's interpreter")
    from homolog.dictionaries.training import device_kernels, device_selection

    monkeypatch.setattr(device_selection, "STRIP", 16)
    monkeypatch.setattr(device_kernels, "TILE", 128)
    return device_kernels


def place_of(engine: ModuleType) -> str:
    return "cpu" if engine is device_plain or INTERPRETED else "cuda"


@pytest.fixture
def few_or_many(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any number of active features has room: the state alone decides which way a step takes."""
    for module in (on_device, scratch):
        monkeypatch.setattr(module, "DENSE", {True: 1.0, False: 1.0})
    yield


def take(state: DeviceState, x: torch.Tensor, step: int = 0, dense: bool = False) -> None:
    """One step, through products of whole matrices or not."""
    state.scalars[0] = 2 * state.d_sae if dense else 0
    x = x.to(state.device)
    on_device.take_step(state, x, x.bfloat16() if state.half else x, step)


def on_the_processor(state: SaeState, x: torch.Tensor, step: int = 0, dense: bool = False) -> None:
    state.scalars[0] = 2 * state.d_sae if dense else 0
    take_step(state, x, x.bfloat16() if state.half else x, step)


def moments(host: SaeState, state: DeviceState) -> dict[str, np.ndarray]:
    """First moments of a state on a device by their public names."""
    copy = SaeState(
        host.config, host.training, host.d_model, False, host.names, state.mean.flat.cpu().numpy()
    )
    return by_name(host, copy.weights)


def pair(
    engine: ModuleType, name: str, half: bool = False, **training
) -> tuple[SaeState, DeviceState]:
    """The same state for the CPU's steps and for the device's; some features are dead."""
    settings = {
        "lr": 1e-3,
        "beta1": 0.9,
        "warmup": 0.0,
        "batch": N_TOKENS,
        "dead_after": 100,
    }
    host = random_state(CONFIGS[name], half=half, **(settings | training))
    if "dead" in name:
        host.silent[:8] = 100
    if "confined" in name:
        confine(host)
    return host, DeviceState(host, place_of(engine), half, engine)


def assert_close(
    host: SaeState, state: DeviceState, start: np.ndarray, limit: float = 1e-4
) -> None:
    """Weights and moments moved alike since `start`, and the same features fired."""
    np.testing.assert_array_equal(host.fired, state.fired.cpu().numpy())
    np.testing.assert_array_equal(host.silent, state.tokens_silent())
    exported = state.export()
    moved = np.linalg.norm(host.weights.flat - start)
    assert moved > 0 and np.linalg.norm(exported.weights.flat - host.weights.flat) < limit * moved
    for found, expected in ((state.mean, host.mean), (state.square, host.square)):
        difference = np.linalg.norm(found.flat.cpu().numpy() - expected.flat)
        assert difference < limit * np.linalg.norm(expected.flat)


@pytest.mark.usefixtures("few_or_many")
@pytest.mark.parametrize(("name", "dense"), WAYS)
def test_gradients_equal_autograd(engine: ModuleType, name: str, dense: bool) -> None:
    config = KINDS[name]
    host = random_state(config)
    leaves = weights64(host)
    loss_of(config, X.double(), leaves).backward()
    state = DeviceState(host, place_of(engine), False, engine)
    take(state, X, dense=dense)
    assert_same(moments(host, state), leaves, host.unit)


@pytest.mark.parametrize("whole_batch", [False, True])
@pytest.mark.parametrize("n_dead", [1, 12])
def test_auxiliary_loss_equals_autograd(engine: ModuleType, n_dead: int, whole_batch: bool) -> None:
    kind = batchtopk if whole_batch else topk
    config = kind.Settings(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25)
    host = random_state(config, dead_after=10)
    host.silent[:n_dead] = 10
    leaves, dead = weights64(host), torch.arange(D_SAE) < n_dead
    loss_of(config, X.double(), leaves, dead).backward()
    state = DeviceState(host, place_of(engine), False, engine)
    take(state, X)
    assert_same(moments(host, state), leaves, unit=True)


@pytest.mark.usefixtures("few_or_many")
@pytest.mark.parametrize(("name", "dense"), EVERY_WAY)
def test_steps_equal_those_of_the_cpu(engine: ModuleType, name: str, dense: bool) -> None:
    host, state = pair(engine, name)
    start = host.weights.flat.copy()
    for step in range(4):
        x = X[step * N_TOKENS : (step + 1) * N_TOKENS]
        on_the_processor(host, x, step, dense), take(state, x, step, dense)
    assert_close(host, state, start)
    assert state.scalars[1] == pytest.approx(host.scalars[1], rel=1e-5)
    if "topk" not in name:
        assert state.scalars[0] == host.scalars[0] > 0
    if "confined" in name:
        assert not (state.export().weights.W_dec * ~host.inside()).any()
    expected, found = host.take_report(), state.take_report()
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.l0, found.silent_share) == (expected.l0, expected.silent_share)
    assert state.take_report().loss == 0  # begun anew
    if "frozen" in name:
        np.testing.assert_array_equal(
            state.export().weights.W_dec, random_state(CONFIGS[name]).weights.W_dec
        )


@pytest.mark.usefixtures("few_or_many")
@pytest.mark.parametrize(("name", "dense"), [way for way in EVERY_WAY if "," not in way[0]])
def test_bfloat16_products_round_as_on_the_cpu(engine: ModuleType, name: str, dense: bool) -> None:
    host, state = pair(engine, name, half=True)
    start = host.weights.flat.copy()
    on_the_processor(host, X, 0, dense), take(state, X, 0, dense)
    assert (
        abs(host.fired - state.fired.cpu().numpy()).max() <= 2
    )  # a product may round to the other side of a limit
    moved = np.linalg.norm(host.weights.flat - start)
    assert np.linalg.norm(state.export().weights.flat - host.weights.flat) < 0.05 * moved
    for copy, whole in (
        (state.enc_half, state.weights.W_enc_T),
        (state.dec_half, state.weights.W_dec),
    ):
        # to nearest, 2^-8; the interpreter cuts, 2^-7
        torch.testing.assert_close(
            copy.float(), whole[: len(copy)], rtol=2**-7 if INTERPRETED else 2**-8, atol=0
        )


@pytest.mark.parametrize("name", ["relu", "plain relu", "jumprelu", "gated"])
def test_dead_features_are_drawn_anew_as_on_the_cpu(engine: ModuleType, name: str) -> None:
    host = random_state(CONFIGS[name], lr=1e-4, batch=N_TOKENS, dead_after=3 * N_TOKENS)
    host.weights.vectors[0, :6] = -1e4  # never fire
    host.refresh()
    state = DeviceState(host, place_of(engine), False, engine)
    advance(host, X, X, 0)
    x = X.to(state.device)
    on_device.advance(state, x, x, 0)
    assert (host.weights.vectors[0, :6] > -1e3).all() and (host.silent[:6] == 0).all()  # drawn anew
    np.testing.assert_array_equal(state.tokens_silent(), host.silent)
    np.testing.assert_allclose(state.export().weights.flat, host.weights.flat, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.norms.cpu(), host.norms, rtol=1e-5)
    for moment in (state.mean, state.square):
        assert (
            (moment.W_enc_T[:6] == 0).all()
            and (moment.W_dec[:6] == 0).all()
            and (moment.vectors[:, :6] == 0).all()
        )


@pytest.mark.parametrize(("n_tokens", "k"), [(1, 1), (7, 3), (9, 40), (5, 200)])
def test_the_largest_of_a_token_lowest_first_among_equal_ones(
    engine: ModuleType, n_tokens: int, k: int
) -> None:
    rng = np.random.default_rng(n_tokens)
    product = torch.from_numpy(rng.integers(-3, 4, (n_tokens, 41)).astype(np.float32))
    product[0] = -1.0  # nothing above 0
    bias = torch.from_numpy(rng.integers(-1, 2, 41).astype(np.float32))
    among = torch.from_numpy(rng.random(41) < 0.5)
    place = place_of(engine)
    for some in (None, among):
        found = engine.largest(
            product.to(place), bias.to(place), k, None if some is None else some.to(place)
        )
        f = torch.zeros(n_tokens, 41)
        for t in range(n_tokens):
            part = slice(int(found.start[t]), int(found.stop[t]))
            index = found.index[part].long().cpu()
            assert (index.diff() > 0).all() and (found.token[part].cpu() == t).all()
            f[t, index] = found.value[part].cpu()
        pre = torch.relu(product + bias) * (1 if some is None else some)
        assert torch.equal(f, keep_largest(pre, k))


def test_a_product_that_is_not_a_number_is_not_overlooked(engine: ModuleType) -> None:
    product = torch.ones(2, 8)
    product[1, 5] = torch.nan
    place = place_of(engine)
    found = engine.largest(product.to(place), torch.zeros(8, device=place), 2)
    assert found.value[int(found.start[1]) : int(found.stop[1])].isnan().any()


def test_features_above_zero_and_how_many_are_too_many(engine: ModuleType) -> None:
    product = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 53)).astype(np.float32))
    bias, low = product[0].clone(), product[1].clone()
    place = place_of(engine)
    keep = product + low > 0
    arguments = product.to(place), bias.to(place), low.to(place)
    assert engine.above(*arguments, int(keep.sum()) - 1) is None
    found = engine.above(*arguments, int(keep.sum()))
    token, index = keep.nonzero(as_tuple=True)
    assert torch.equal(found.token.cpu().long(), token) and torch.equal(
        found.index.cpu().long(), index
    )
    torch.testing.assert_close(found.value.cpu(), (product + bias)[token, index])
    assert torch.equal((found.stop - found.start).cpu(), keep.sum(1)) and found.start[0] == 0


def test_equal_values_of_a_batch_go_to_the_first_token_and_feature(engine: ModuleType) -> None:
    state = DeviceState(
        random_state(batchtopk.Settings(d_sae=D_SAE, k=2)), place_of(engine), False, engine
    )
    state.weights.vectors.zero_()
    product = torch.zeros(5, D_SAE)
    product[:, 3:6] = 1.0
    product[3, 7] = 2.0
    found = on_device._keep_of_batch(state, product.to(state.device))
    entries = list(zip(found.token.tolist(), found.index.tolist(), strict=True))
    assert entries == [
        (0, 3),
        (0, 4),
        (0, 5),
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 3),
        (2, 4),
        (2, 5),
        (3, 7),
    ]
    assert found.start.tolist() == [0, 3, 6, 9, 10] and found.stop.tolist() == [3, 6, 9, 10, 10]
    assert state.scalars[1] == 1.0


def test_more_active_features_than_pay_take_the_other_way(engine: ModuleType) -> None:
    narrow, wide = (pair(engine, "relu")[1] for _ in range(2))
    take(narrow, X)  # expects none, finds half
    take(wide, X, dense=True)
    assert narrow.scalars[0] == wide.scalars[0] > 0
    assert torch.equal(narrow.mean.flat, wide.mean.flat)


def test_rows_that_no_program_holds_are_selected_otherwise(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [pair(engine, "topk, dead")[1] for _ in range(2)]
    take(states[0], X[:N_TOKENS])
    if engine is not device_plain:
        from homolog.dictionaries.training import device_selection

        monkeypatch.setattr(device_selection, "WIDEST", 8)
    take(states[1], X[:N_TOKENS])
    torch.testing.assert_close(states[1].mean.flat, states[0].mean.flat, rtol=1e-5, atol=1e-6)
    assert torch.equal(states[1].fired, states[0].fired)


@pytest.mark.parametrize("name", ["relu", "topk, dead", "gated"])
def test_devices_that_sum_no_runs_add_instead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [pair(device_plain, name)[1] for _ in range(2)]
    take(states[0], X)
    monkeypatch.setattr(device_plain, "SUMS_RUNS", ())
    take(states[1], X)
    torch.testing.assert_close(states[1].mean.flat, states[0].mean.flat, rtol=1e-5, atol=1e-6)
    assert torch.equal(states[1].fired, states[0].fired)


def test_checkpoints_hold_the_whole_state(engine: ModuleType, tmp_path: Path) -> None:
    _, state = pair(engine, "batchtopk, dead")
    take(state, X[:N_TOKENS])
    checkpoint.write(tmp_path / "file", [state], {}, 1)
    _, other = pair(engine, "batchtopk, dead", seed=5)
    assert checkpoint.restore(tmp_path / "file", [other], {}) == 1
    for one in (state, other):
        take(one, X[N_TOKENS:], 1)
    assert torch.equal(state.weights.flat, other.weights.flat) and torch.equal(
        state.silent, other.silent
    )
    assert (
        torch.equal(state.square.flat, other.square.flat) and (state.scalars == other.scalars).all()
    )


def test_divergence_names_layer_and_step(engine: ModuleType) -> None:
    _, state = pair(engine, "relu")
    x = X.clone()
    x[2 * N_TOKENS, 3] = torch.nan
    with pytest.raises(
        TrainingDivergedError, match=r"model 'm', dictionary 'sae', layer 0, step 2 of"
    ):
        on_device.advance(state, x.to(state.device), x.to(state.device), 0)


# The whole of `train`, with the plain form on the CPU in the place of another device.

SMALL = TrainingConfig(
    n_tokens=40_000, batch=256, scale_sample=2000, dead_after=2000, precision="float32"
)
TRAINED: list[KindSettings] = [
    relu.Settings(d_sae=D_SAE),
    topk.Settings(d_sae=D_SAE, k=5),
    batchtopk.Settings(d_sae=D_SAE, k=5),
    jumprelu.Settings(d_sae=D_SAE),
    gated.Settings(d_sae=D_SAE),
]


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_is_cpu", lambda device: False)


def same_bytes(a: SparseAutoencoder, b: SparseAutoencoder) -> bool:
    return all(getattr(a, n).numpy().tobytes() == getattr(b, n).numpy().tobytes() for n in NAMES)


def kill(progress: TrainingProgress) -> None:
    if progress.tokens_done > 20_000:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize("config", TRAINED, ids=lambda config: config.kind)
def test_killed_run_resumes_to_the_same_bytes(config: KindSettings, tmp_path: Path) -> None:
    whole = train(small_source(), config, SMALL, model="m")["sae"]
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(
            small_source(),
            config,
            SMALL,
            model="m",
            checkpoint=Checkpoint(file, 1),
            progress=kill,
        )
    reports: list[TrainingProgress] = []
    resumed = train(
        small_source(),
        config,
        SMALL,
        model="m",
        checkpoint=Checkpoint(file),
        progress=reports.append,
    )["sae"]
    assert reports[-1].tokens_total < 30_000  # it did not start again
    assert all(same_bytes(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not file.exists()


@pytest.mark.parametrize("config", TRAINED, ids=lambda config: config.kind)
def test_dictionaries_are_as_good_as_the_cpus(
    config: KindSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = plant(8_000, 32, 48, seed=7, mean_active=3.0, zipf=0.5)
    config = config.model_copy(update={"d_sae": 96})
    source, training = (
        ResidualArrays(truth.x[None, :6000], seed=0),
        SMALL.model_copy(update={"n_tokens": 100_000}),
    )
    scores, reports = [], []
    for on_cpu in (True, False):
        monkeypatch.setattr(trainer, "_is_cpu", lambda device, on_cpu=on_cpu: on_cpu)
        found: list[TrainingProgress] = []
        sae = train(source, config, training, model="p", progress=found.append)["sae"][0]
        f = sae.encode(truth.x[6000:])
        scores.append(
            (
                explained_variance(truth.x[6000:], sae.decode(f)),
                float((f > 0).sum(1).float().mean()),
            )
        )
        reports.append(found[-1])
    assert scores[1] == pytest.approx(scores[0], rel=0.02)
    assert reports[1].loss == pytest.approx(reports[0].loss, rel=0.02)
    assert reports[1].l0 == pytest.approx(reports[0].l0, rel=0.02)
    assert (sae.metadata["device"], sae.metadata["product"]) == ("cpu", "float32")


def test_a_checkpoint_of_the_cpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, config = tmp_path / "checkpoint.safetensors", relu.Settings(d_sae=D_SAE)
    with pytest.raises(KeyboardInterrupt):
        train(
            small_source(),
            config,
            SMALL,
            model="m",
            checkpoint=Checkpoint(file, 1),
            progress=kill,
        )
    monkeypatch.setattr(trainer, "_is_cpu", lambda device: False)
    with pytest.raises(InputError, match="device differ"):
        train(small_source(), config, SMALL, model="m", checkpoint=Checkpoint(file))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(
        InputError, match=r"device is 'cuda:99', but torch must see it .*homolog doctor"
    ):
        train(small_source(), relu.Settings(d_sae=D_SAE), SMALL, model="m", on=Place("cuda:99"))


def test_chunks_come_in_order_and_are_read_once() -> None:
    source = small_source(n_layers=3, n_tokens=500)
    read, asked = source.read, []
    source.read = lambda start, n: asked.append((start, n)) or read(start, n)
    with Ahead(source, torch.device("cpu"), 230) as ahead:
        for start, n in ((0, 100), (100, 100), (200, 30)):
            for layer in range(3):
                torch.testing.assert_close(
                    ahead.read(start, n, layer), read(start, n)[layer], rtol=0, atol=0
                )
    assert asked == [(0, 100), (100, 100), (200, 30)]


def test_errors_of_a_source_reach_the_caller() -> None:
    source = small_source()

    def broken(start: int, n_tokens: int) -> None:
        raise InputError("residuals part", "x", "it must be there", "Write it again.")

    source.read = broken
    with (
        Ahead(source, torch.device("cpu"), 230) as ahead,
        pytest.raises(InputError, match="residuals part"),
    ):
        ahead.read(0, 100, 0)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("config", TRAINED, ids=lambda config: config.kind)
def test_training_on_a_gpu_equals_that_on_the_cpu(config: KindSettings, precision: str) -> None:
    truth = plant(20_000, 96, 300, seed=7, mean_active=6.0, zipf=0.5)
    source = ResidualArrays(truth.x[None, :16_000].repeat(2, 1, 1), seed=0)
    config = config.model_copy(update={"d_sae": 600})
    training = SMALL.model_copy(
        update={"n_tokens": 400_000, "dead_after": 20_000, "precision": precision}
    )
    runs = [
        train(source, config, training, model="p", on=Place(device))["sae"]
        for device in ("cpu", "cuda", "cuda")
    ]
    assert all(same_bytes(a, b) for a, b in zip(runs[1], runs[2], strict=True))
    for cpu, gpu in zip(runs[0], runs[1], strict=True):
        held_out = truth.x[16_000:]
        scores = [explained_variance(held_out, sae.reconstruct(held_out)) for sae in (cpu, gpu)]
        assert scores[1] == pytest.approx(scores[0], abs=0.01)
        nearest = (cpu.W_dec @ gpu.W_dec.T).max(dim=1).values
        assert float(nearest.median()) > 0.95
        assert (gpu.W_enc.device.type, gpu.metadata["device"]) == ("cpu", "cuda")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("product", ["bf16", "fp32"])
def test_kernels_compile_for_compute_capability_9_without_a_gpu(product: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from homolog.dictionaries.kinds import KINDS as every
    from homolog.dictionaries.training import device_kernels, device_selection

    def compiles(kernel, types: str, **constants) -> None:
        """types: names of arguments after their type, "TYPE: NAME NAME, TYPE: NAME"."""
        groups = (group.split(": ") for group in types.replace("PRODUCT", product).split(", "))
        type_of = {name: kind for kind, names in groups for name in names.split()}
        assert {*type_of, *constants} == set(kernel.arg_names)
        signature = {name: type_of.get(name, "constexpr") for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        options = {"num_warps": 8, "enable_fp_fusion": True}
        made = triton.compile(
            ASTSource(kernel, signature, places), target=GPUTarget("cuda", 90, 32), options=options
        )
        assert made.asm["cubin"]

    for some in (False, True):
        compiles(
            device_selection._largest_kernel,
            "*PRODUCT: product, *fp32: bias, *fp32: value, *i1: among, *i32: index token, *i64: "
            "stop, i32: d_sae k",
            SOME=some,
            WIDTH=4096,
            STRIP=2048,
        )
    compiles(
        device_selection._count_kernel,
        "*PRODUCT: product, *fp32: low, *i64: counts, i32: d_sae",
        STRIP=2048,
    )
    compiles(
        device_selection._gather_kernel,
        "*PRODUCT: product, *fp32: low more value, *i64: start, *i32: index token, i32: d_sae",
        STRIP=2048,
    )
    for kind in {kind.rules.slopes: kind for kind in every.values()}.values():
        compiles(
            device_kernels._decode_kernel,
            "*i32: index, *i64: start stop, i32: d_model d_sae n_entries, "
            "fp32: factor penalty constant other_constant, "
            "*fp32: value target bias W_dec vectors norms f_out d_out v_out g squared penalised",
            **device_kernels.rules_of(kind),
            T=4,
            D=1024,
        )
    for sparse in (False, True):
        for unit in (False, True):
            compiles(
                device_kernels._update_kernel,
                "*i64: rank offset order fired, *i32: token, *PRODUCT: G_enc G_dec, *bf16: "
                "half_enc half_dec, "
                "*fp32: f d v x g g_vectors totals W_enc W_dec vectors mean_enc square_enc "
                "mean_dec square_dec "
                "mean_vec square_vec norms, i32: n_tokens n_entries d_model d_sae, "
                "fp32: penalty rate beta1 beta2 correction1 correction2 epsilon",
                SPARSE=sparse,
                UNIT=unit,
                FROZEN=False,
                PENALISED=not unit,
                HALF_ENC=True,
                HALF_DEC=not unit,
                N=1 if unit else 3,
                T=4,
                D=1024,
            )


@needs_triton
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests run as they are")
@pytest.mark.slow
def test_all_of_these_in_the_interpreter() -> None:
    if HAS_TRITON and tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) < (3, 7):
        pytest.skip(
            "the interpreter of Triton before 3.7 does not read loop bounds under numpy 2.4"
        )
    environment = dict(os.environ, TRITON_INTERPRET="1")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "triton",
        __file__,
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 50, done.stdout
