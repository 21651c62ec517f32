"""The step of a training on a device other than the CPU; the same steps, equations and checkpoints
as on the CPU.

The product x W_enc is dense, in bfloat16 where the device computes it natively.  After it only
active features are touched: they become entries in order of token, tokens are decoded and
differentiated, the entries are sorted by feature, and each feature's gradient is summed and used.
Where many features are active, as ReLU has them in its first steps, products of whole matrices are
taken instead.  Two modules compute the parts: `device_kernels`, fused in Triton, and
`device_plain`, in torch operations.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homolog.dictionaries.configs import BatchTopKConfig, JumpReluConfig, TopKConfig
from homolog.dictionaries.encoder import _full_sums
from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.training.ahead import Ahead
from homolog.dictionaries.training.device_plain import Entries, Rates, Slopes, adam
from homolog.dictionaries.training.device_state import GATED, JUMPRELU, KIND, RELU, DeviceState
from homolog.dictionaries.training.fold import Normalisation
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.scratch import DENSE
from homolog.dictionaries.training.sparse import _GUESSES, _SAMPLE
from homolog.dictionaries.training.state import MAY_BE_DENSE
from homolog.dictionaries.training.step import _EPSILON

_BLOCK = 1024  # tokens whose features are all held in float32 at once, in a dense step


class OnDevice:
    """Trains the states of all layers, layer after layer, on chunks of a stream.

    states: of one device, a list of `DeviceState` for each layer of the source.  normal: one a
    layer.
    """

    def __init__(
        self, source: ActivationSource, states: list[list[Any]], normal: list[Normalisation]
    ) -> None:
        self.source, self.states, self.stack = source, states, contextlib.ExitStack()
        self.device, self.training = states[0][0].device, states[0][0].training
        self.normal = [replace(n, mean=n.mean.to(self.device)) for n in normal]

    def __enter__(self) -> OnDevice:
        end = self.training.n_steps * self.training.batch_size
        self.stack.enter_context(
            _full_sums()
        )  # throughout: a source may run a model, and sees the same all the time
        self.ahead = self.stack.enter_context(Ahead(self.source, self.device, end))
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def advance(self, step: int, n_steps: int) -> None:
        """Take n_steps steps from `step` on with all dictionaries."""
        size = self.training.batch_size
        for layer, (normal, states) in enumerate(zip(self.normal, self.states, strict=True)):
            x = normal.apply(self.ahead.read(step * size, n_steps * size, layer)).contiguous()
            refuse_not_finite(x, states[0].activations, step * size)
            seen = x.bfloat16() if states[0].half else x
            for state in states:
                advance(state, x, seen, step)


def advance(state: DeviceState, x: Tensor, seen: Tensor, step: int) -> None:
    """The steps of a chunk of tokens on the device, then dead features drawn anew.

    x: float32; seen: what products see of it, bfloat16 or x itself.  Raises TrainingDivergedError
    when a loss is not finite.
    """
    size = state.training.batch_size
    parts = [slice(first, first + size) for first in range(0, len(x) - size + 1, size)]
    with torch.no_grad(), _current(state.device):
        for i, part in enumerate(parts):
            take_step(state, x[part], seen[part], step + i)
        state.settle()
        state.measure_norms()
        if state.config.kind in MAY_BE_DENSE and state.n_dead():
            revive(state, x[parts[-1]].cpu(), state.g.cpu().numpy(), step + len(parts) - 1)


def take_step(state: DeviceState, x: Tensor, seen: Tensor, step: int) -> None:
    """One step of Adam on a batch; its losses are looked at by `settle`."""
    penalty, training, t = state.penalty_at(step) / len(x), state.training, step + 1
    numbers = (
        training.learning_rate_at(step),
        training.beta1,
        training.beta2,
        1 / (1 - training.beta1**t),
        1 / (1 - training.beta2**t),
        _EPSILON,
    )
    rates = tuple(float(np.float32(number)) for number in numbers)
    if len(state.g) != len(x):
        state.g = torch.empty_like(x)
    many = state.config.kind in MAY_BE_DENSE and state.scalars[0] > DENSE[state.half] * state.d_sae
    losses = None if many else _sparse_step(state, x, seen, penalty, rates)
    if losses is None:
        losses = _dense_step(state, x, seen, penalty, rates)
    w = state.weights
    adam(w.b_dec, state.g.sum(0), state.mean.b_dec, state.square.b_dec, rates)
    if isinstance(state.config, JumpReluConfig):
        w.vectors[1].clamp_(min=0)
    state.end_step(step, len(x), *losses)


def _sparse_step(
    state: DeviceState, x: Tensor, seen: Tensor, penalty: float, rates: Rates
) -> tuple[Tensor, Tensor] | None:
    """Sums of squared error and of what is penalised; None when more features are active than this
    way pays for.
    """
    config, w, engine, n = state.config, state.weights, state.engine, len(x)
    product, bias = torch.mm(seen, state.W_product.T), w.vectors[0]
    if isinstance(config, BatchTopKConfig):
        entries = _keep_of_batch(state, product)
    elif isinstance(config, TopKConfig):
        entries = engine.largest(product, bias, config.k)
    else:
        low = bias
        if isinstance(config, JumpReluConfig):
            low = bias - w.vectors[1] + config.bandwidth / 2
        limit = int(min(1.0, 2 * DENSE[state.half]) * n * state.d_sae)
        entries = engine.above(product, bias, low, limit)
        if entries is None:
            return None
        state.scalars[0] = len(entries.value) / n
    factor, width = 2 / n, config.bandwidth if isinstance(config, JumpReluConfig) else 1.0
    slopes = engine.decode(
        state, KIND[config.kind], entries, x, w.b_dec, factor, penalty, width, state.g
    )
    losses, g = (slopes.squared.sum(), slopes.penalised.sum()), state.g
    if isinstance(config, TopKConfig):
        entries, slopes, g = _with_auxiliary(state, product, entries, slopes, factor)
    del product  # memory that the sort may use
    feature, order = entries.index.sort(stable=True)
    offset = torch.searchsorted(
        feature, torch.arange(state.d_sae + 1, dtype=feature.dtype, device=feature.device)
    )
    engine.update_sparse(
        state, order, offset, entries.token, slopes, x, g, 0.0 if state.unit else penalty, rates
    )
    return losses


def _with_auxiliary(
    state: DeviceState, product: Tensor, entries: Entries, slopes: Slopes, factor: float
) -> tuple[Entries, Slopes, Tensor]:
    """Entries and slopes with those of the auxiliary loss behind, and errors: dead features model
    the error.
    """
    config, engine, g = state.config, state.engine, state.g
    assert isinstance(config, TopKConfig)
    n_dead = state.n_dead() if config.aux_weight > 0 else 0
    if n_dead == 0:
        return entries, slopes, g
    dead = state.silent >= state.training.dead_after
    found = engine.largest(product, state.weights.vectors[0], config.aux_k, dead)
    weight = config.aux_weight * min(n_dead / config.aux_k, 1.0) * factor
    nothing, pull = torch.zeros_like(state.weights.b_dec), torch.empty_like(g)
    more = engine.decode(state, RELU, found, g * (-1 / factor), nothing, weight, 0.0, 1.0, pull)
    both = Entries(
        torch.cat([entries.index, found.index]),
        torch.cat([entries.token, found.token + len(g)]),
        torch.cat([entries.value, found.value]),
        entries.start,
        entries.stop,
    )
    f, d = torch.cat([slopes.f, more.f]), torch.cat([slopes.d, more.d])
    return both, Slopes(f, d, d[None], slopes.squared, slopes.penalised), torch.cat([g, pull])


def _keep_of_batch(state: DeviceState, product: Tensor) -> Entries:
    """Entries of the n k largest values above 0 of all n tokens together; moves the running
    threshold.

    As on the CPU: entries from well below the value that a sample of tokens keeps are gathered, and
    cut exactly.
    """
    config, bias, n = state.config, state.weights.vectors[0], len(product)
    assert isinstance(config, BatchTopKConfig)
    k = min(config.k, state.d_sae)
    sample = product[:: max(1, n // _SAMPLE)][:_SAMPLE].float() + bias
    for guess in (*_GUESSES, None):
        lowest = torch.zeros_like(bias[0])
        if guess is not None:
            rank = min(sample.numel(), guess * k * len(sample))
            lowest = sample.flatten().topk(rank, sorted=False).values.min().clamp(min=0)
        entries = state.engine.above(product, bias, bias - lowest, n * state.d_sae)
        if guess is None or len(entries.value) >= n * k or float(lowest) == 0:
            break
    value = entries.value
    cut = value.min() if len(value) else torch.zeros_like(bias[0])
    if len(value) > n * k:
        cut = value.topk(n * k, sorted=False).values.min()
        keep, ties = value > cut, value == cut
        keep |= ties & (ties.cumsum(0) <= n * k - keep.sum())
        kept = torch.cat([torch.zeros_like(entries.stop[:1]), keep.cumsum(0)])
        entries = Entries(
            entries.index[keep],
            entries.token[keep],
            value[keep],
            kept[entries.start],
            kept[entries.stop],
        )
    rate = config.threshold_rate if state.scalars[1] > 0 else 1.0
    state.scalars[1] += rate * (float(cut) - state.scalars[1])
    return entries


def _dense_step(
    state: DeviceState, x: Tensor, seen: Tensor, penalty: float, rates: Rates
) -> tuple[Tensor, Tensor]:
    """What `_sparse_step` does, at a cost that does not depend on how many features are active."""
    w, n = state.weights, len(x)
    f, h = (torch.empty(n, state.d_sae, dtype=seen.dtype, device=x.device) for _ in range(2))
    g_seen = torch.empty_like(seen)
    sums, total = torch.zeros_like(w.vectors), torch.zeros_like(state.norms)
    losses, count = torch.zeros(2, device=x.device), torch.zeros_like(total)
    for low in range(0, n, _BLOCK):
        part = slice(low, low + _BLOCK)
        _differentiate(
            state,
            x[part],
            seen[part],
            penalty,
            2 / n,
            (f[part], h[part], state.g[part], g_seen[part]),
            (sums, total, count, losses),
        )
    used = total if state.config.kind == "jumprelu" else count
    state.scalars[0] = float(used.sum()) / n
    state.fired.copy_(count)
    G_enc, G_dec = torch.mm(h.T, seen), torch.mm(f.T, g_seen)
    state.engine.update_dense(
        state, G_enc, G_dec, sums, total, 0.0 if state.unit else penalty, rates
    )
    return losses[0], losses[1]


def _differentiate(
    state: DeviceState,
    x: Tensor,
    seen: Tensor,
    penalty: float,
    factor: float,
    out: tuple[Tensor, ...],
    sums: tuple[Tensor, ...],
) -> None:
    """Features f, slopes h in x W_enc, errors g of a block of tokens; adds to sums over tokens, as
    `elementwise`.
    """
    f, h, g, g_seen = out
    of_vectors, total, count, losses = sums
    w, kind = state.weights, KIND[state.config.kind]
    W_dec = state.dec_half if state.half else w.W_dec
    product = torch.mm(seen, state.W_product.T).float()
    p = product + w.vectors[0]
    on = p > 0

    def slopes_of(features: Tensor) -> Tensor:
        """Errors with these features into g, and from them the slopes in the features."""
        error = torch.mm(features, W_dec).float().add_(w.b_dec).sub_(x)
        torch.mul(error, factor, out=g)
        g_seen.copy_(g)
        return torch.mm(g_seen, W_dec.T).float()

    if kind == RELU:
        active = torch.relu(p)
        f.copy_(active)
        d = torch.where(on, slopes_of(f) + penalty * state.norms, 0)
        penalised, of_vectors[0] = (active * state.norms).sum(), of_vectors[0] + d.sum(0)
        total += active.sum(0)
    elif kind == JUMPRELU:
        assert isinstance(state.config, JumpReluConfig)
        limit, width = w.vectors[1], state.config.bandwidth
        on = p > limit
        f.copy_(torch.where(on, p, 0))
        slope = slopes_of(f)
        near = (p - limit).abs() < width / 2
        d = torch.where(on, slope, 0)
        of_vectors[0] += d.sum(0)
        of_vectors[1] -= torch.where(near, limit * slope + penalty, 0).sum(0) / width
        total += (p > limit - width / 2).sum(0)
        penalised = on.sum()
    else:
        assert kind == GATED
        scaled = product * w.vectors[2].exp()
        chosen = torch.relu(p)
        choose = torch.where(on, slopes_of(chosen.to(f.dtype)) + penalty, 0)
        on &= scaled + w.vectors[1] > 0
        f.copy_(torch.where(on, scaled + w.vectors[1], 0))
        mag = torch.where(on, slopes_of(f), 0)
        d = choose + w.vectors[2].exp() * mag
        for row, slope in enumerate((choose, mag, mag * scaled)):
            of_vectors[row] += slope.sum(0)
        penalised = chosen.sum()
    h.copy_(d)
    count += on.sum(0)
    losses[0] += g.square().sum() / factor**2
    losses[1] += penalised


def _current(device: torch.device) -> Any:
    """Triton launches on the current device, which may be another one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
