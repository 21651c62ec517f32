"""The step of a training in torch and Triton: the steps and checkpoints of the CPU.

The product x W_enc is dense, in bfloat16 where the device computes it natively.  After it only
active features are touched: they become entries in order of token, tokens are decoded and
differentiated, the entries are sorted by feature, and each feature's gradient is summed and used.
Where many features are active, as in the first steps, products of whole matrices are taken instead.
Two modules compute the parts: `device_kernels`, fused in Triton, and `device_plain`, in torch
operations.  A kind without rules takes its gradients by autograd, here, on the CPU too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from homolog.dictionaries.encoder import _full_sums
from homolog.dictionaries.training.ahead import Ahead
from homolog.dictionaries.training.device_plain import (
    Entries,
    Gradients,
    Move,
    Slopes,
    Sorted,
    adam,
)
from homolog.dictionaries.training.device_plain import update_dense as update_plainly
from homolog.dictionaries.training.device_state import DeviceState
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.rules import on_tensors
from homolog.dictionaries.training.run import Run
from homolog.dictionaries.training.scratch import DENSE
from homolog.dictionaries.training.sparse import _GUESSES, _SAMPLE
from homolog.dictionaries.training.step import rates_at

_BLOCK = 1024  # tokens whose features are all held in float32 at once, in a dense step


class OnDevice(Run):
    """Trains on a device, layer after layer; states are `DeviceState`, all of one device."""

    def __enter__(self) -> OnDevice:
        end, device = self.training.n_steps * self.training.batch, self.flat_states[0].device
        self.normal = [replace(n, mean=n.mean.to(device)) for n in self.normal]
        # throughout: a source may run a model, and sees the same all the time
        self.enter_context(_full_sums())
        self.ahead = self.enter_context(Ahead(self.source, device, end))
        return self

    def advance(self, step: int, n_steps: int) -> None:
        size = self.training.batch
        for layer, states in enumerate(self.states):
            raw = self.ahead.read(step * size, n_steps * size, layer)
            x, seen = self.inputs(raw, layer, step)
            for state in states:
                advance(state, x, seen, step)


def advance(state: DeviceState, x: Tensor, seen: Tensor, step: int) -> None:
    """The steps of a chunk of tokens on the device, then dead features drawn anew.

    x: float32; seen: what products see of it, bfloat16 or x itself.  Raises TrainingDivergedError
    when a loss is not finite.
    """
    size = state.training.batch
    parts = [slice(first, first + size) for first in range(0, len(x) - size + 1, size)]
    with torch.no_grad(), _current(state.device):
        for i, part in enumerate(parts):
            take_step(state, x[part], seen[part], step + i)
        state.settle()
        state.measure_norms()
        if state.kind.redraws and state.n_dead():
            revive(state, x[parts[-1]].cpu(), state.g.cpu().numpy(), step + len(parts) - 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step is given."""

    x: Tensor
    """(token, d_model) float32."""
    seen: Tensor
    """What products see of it: bfloat16, or x itself."""
    penalty: float
    """Weight of what is penalised, over the number of tokens."""
    move: Move


def take_step(state: DeviceState, x: Tensor, seen: Tensor, step: int) -> None:
    """One step of Adam on a batch; its losses are looked at by `settle`."""
    penalty = state.penalty_at(step) / len(x)
    rates = tuple(float(rate) for rate in rates_at(state.training, step))
    batch = Batch(x, seen, penalty, Move(0.0 if state.unit else penalty, rates))
    if len(state.g) != len(x):
        state.g = torch.empty_like(x)
    losses = None
    if state.kind.rules is None:
        losses = _step_by_autograd(state, batch)
    elif not state.may_be_dense or state.scalars[0] <= DENSE[state.half] * state.d_sae:
        losses = _sparse_step(state, batch)
    if losses is None:
        losses = _dense_step(state, batch)
    for name in state.kind.thresholds:
        state.weights.vectors[state.vectors.index(name)].clamp_(min=0)
    state.put_back()
    state.end_step(step, len(x), *losses)


def _sparse_step(state: DeviceState, batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Sums of squared error and of what is penalised; None if too many features are active."""
    x, seen = batch.x, batch.seen
    w, engine, n = state.weights, state.engine, len(x)
    product, bias = torch.mm(seen, state.W_product.T), w.vectors[0]
    if state.rules.select == "of batch":
        entries = _keep_of_batch(state, product)
    elif state.rules.select == "largest":
        entries = engine.largest(product, bias, state.k)
    else:
        limit = int(min(1.0, 2 * DENSE[state.half]) * n * state.d_sae)
        entries = engine.above(product, bias, state.low(w.vectors), limit)
        if entries is None:
            return None
        state.scalars[0] = len(entries.value) / n
    factor, g = 2 / n, state.g
    slopes = engine.decode(state, entries, x, w.b_dec, factor, batch.penalty, g)
    losses = slopes.squared.sum(), slopes.penalised.sum()
    if state.auxiliary is not None:
        entries, slopes, g = _with_auxiliary(state, product, entries, slopes, factor)
    del product  # memory that the sort may use
    by_feature = Sorted.of(entries, state.d_sae)
    engine.update_sparse(state, by_feature, slopes, x, g, batch.move)
    _move_bias(state, state.g.sum(0), batch.move)
    return losses


def _move_bias(state: DeviceState, gradient: Tensor, move: Move) -> None:
    adam(state.weights.b_dec, gradient, state.mean.b_dec, state.square.b_dec, move.rates)


def _step_by_autograd(state: DeviceState, batch: Batch) -> tuple[Tensor, Tensor]:
    """A step of a kind that gives its loss alone; returns what `_sparse_step` does."""
    kind, w, x, n = state.kind, state.weights, batch.x, len(batch.x)
    weights = {"W_enc": w.W_enc_T.T, "W_dec": w.W_dec, "b_dec": w.b_dec}
    weights |= dict(zip(state.vectors, w.vectors, strict=True))
    dead = None if kind.redraws else state.silent >= state.training.dead_after
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        terms = kind.terms(state.config, x, leaves, dead)
        error = terms.features @ leaves["W_dec"] + leaves["b_dec"] - x
        squared, penalised = error.square().sum(), terms.penalised * n
        loss = squared / n + batch.penalty * penalised + terms.more
        slopes = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    G_enc, G_dec, g_bias, *g_vectors = slopes
    torch.mul(error.detach(), 2 / n, out=state.g)
    state.fired.copy_((terms.features > 0).sum(0))
    state.scalars[0] = float(state.fired.sum()) / n
    no_total = torch.zeros_like(state.norms)
    gradients = Gradients(G_enc.T, G_dec, torch.stack(g_vectors), no_total)
    # what the penalty does to the decoder is in its gradient
    update_plainly(state, gradients, batch.move._replace(penalty=0.0))
    _move_bias(state, g_bias, batch.move)
    return squared.detach(), torch.as_tensor(penalised, device=x.device).detach()


def _with_auxiliary(
    state: DeviceState, product: Tensor, entries: Entries, slopes: Slopes, factor: float
) -> tuple[Entries, Slopes, Tensor]:
    """Entries, slopes and errors, behind them those of the auxiliary loss of dead features."""
    auxiliary, engine, g, n_dead = state.auxiliary, state.engine, state.g, state.n_dead()
    if n_dead == 0:
        return entries, slopes, g
    assert auxiliary is not None
    dead = state.silent >= state.training.dead_after
    more = engine.largest(product, state.weights.vectors[0], auxiliary.k, dead)
    weight = auxiliary.weight * min(n_dead / auxiliary.k, 1.0) * factor
    nothing, pull = torch.zeros_like(state.weights.b_dec), torch.empty_like(g)
    pulled = engine.decode(state, more, g * (-1 / factor), nothing, weight, 0.0, pull)
    index = torch.cat([entries.index, more.index])
    token = torch.cat([entries.token, more.token + len(g)])
    value = torch.cat([entries.value, more.value])
    both = Entries(index, token, value, entries.start, entries.stop)
    f, d = torch.cat([slopes.f, pulled.f]), torch.cat([slopes.d, pulled.d])
    return both, Slopes(f, d, d[None], slopes.squared, slopes.penalised), torch.cat([g, pull])


def _keep_of_batch(state: DeviceState, product: Tensor) -> Entries:
    """Entries of the n k largest values above 0 of n tokens together; moves their running least.

    As on the CPU: entries from well below the value that a sample of tokens keeps are gathered, and
    cut exactly.
    """
    bias, n, k = state.weights.vectors[0], len(product), state.k
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
        chosen = entries.index[keep], entries.token[keep], value[keep]
        entries = Entries(*chosen, kept[entries.start], kept[entries.stop])
    state.follow(float(cut))
    return entries


def _dense_step(state: DeviceState, batch: Batch) -> tuple[Tensor, Tensor]:
    """What `_sparse_step` does, at a cost that does not depend on how many features are active."""
    n, seen = len(batch.x), batch.seen
    f, h = (seen.new_empty(n, state.d_sae) for _ in range(2))
    sums, losses = torch.zeros_like(state.weights.vectors), torch.zeros(2, device=state.device)
    total, count, within = (torch.zeros_like(state.norms) for _ in range(3))
    out = DenseStep(f, h, torch.empty_like(seen), sums, total, count, within, losses)
    for low in range(0, n, _BLOCK):
        _differentiate(state, batch, slice(low, min(low + _BLOCK, n)), out)
    used = out.count if state.rules.low is None else out.seen
    state.scalars[0] = float(used.sum()) / n
    state.fired.copy_(out.count)
    G_enc, G_dec = torch.mm(out.h.T, seen), torch.mm(out.f.T, out.g)
    state.engine.update_dense(state, Gradients(G_enc, G_dec, out.sums, out.total), batch.move)
    _move_bias(state, state.g.sum(0), batch.move)
    return out.losses[0], out.losses[1]


@dataclass(frozen=True, eq=False)
class DenseStep:
    """Features f, slopes h in x W_enc and errors g of a batch, as products see them.

    Below them sums over its tokens, as those of `elementwise.slopes`.
    """

    f: Tensor
    h: Tensor
    g: Tensor
    sums: Tensor
    total: Tensor
    count: Tensor
    seen: Tensor
    losses: Tensor


def _differentiate(state: DeviceState, batch: Batch, part: slice, out: DenseStep) -> None:
    """Fill the rows `part` of a batch, and add to its sums."""
    x, seen, factor = batch.x[part], batch.seen[part], 2 / len(batch.x)
    w, vectors = state.weights, state.coefficients(torch.exp)
    magnitude, slopes = on_tensors(state.kind)
    second, third = vectors[min(1, len(vectors) - 1)], vectors[min(2, len(vectors) - 1)]
    W_dec = state.dec_half if state.half else w.W_dec
    product = torch.mm(seen, state.W_product.T).float()
    p, g, g_seen = product + vectors[0], state.g[part], out.g[part]
    m = magnitude(product, p, second, third)
    f = torch.where(p > 0, m, 0).clamp_(min=0)
    out.f[part] = f

    def slopes_of(features: Tensor) -> Tensor:
        """Errors with these features into g, and from them the slopes in the features."""
        error = torch.mm(features, W_dec).float().add_(w.b_dec).sub_(x)
        torch.mul(error, factor, out=g)
        g_seen.copy_(g)
        return torch.mm(g_seen, W_dec.T).float()

    twin = slopes_of(torch.relu(p).to(out.f.dtype)) if state.rules.twin else p
    slope, constants = slopes_of(out.f[part]), state.rules.constants(state.config)
    d, *of_vectors, weighed = slopes(
        p, m, slope, twin, state.norms, second, third, batch.penalty, *constants
    )
    out.h[part] = d
    for row, of_vector in zip(out.sums, of_vectors, strict=False):
        row += of_vector.sum(0)
    out.total.add_(f.sum(0))
    out.count.add_((f > 0).sum(0))
    if state.rules.low is not None:
        out.seen.add_((product + state.low(w.vectors) > 0).sum(0))
    out.losses.add_(torch.stack([g.square().sum() / factor**2, weighed.sum()]))


def _current(device: torch.device) -> Any:
    """Triton launches on the current device, which may be another one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
