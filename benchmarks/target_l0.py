"""Does `target_l0` hold the L0 that was asked for, and what does it cost?

    python benchmarks/target_l0.py [--models zoo:mamba-s0 ...] [--layers 0 3] [--kinds relu ...]

Trains, for every model, kind and target, the dictionaries of all layers with `target_l0`, and with
two constant weights: the one that was found, and the one at which L0 should be that of the first.
Measures all on tokens that none was trained on.  Prints, for every model, kind and target: the L0
of the layers, least and most, the largest miss, the weights, the explained variance, by how much it
differs from that of constant weights at the same L0 (a line through both, in log L0; mean, least
and most over layers), and the time of processors against that of the found weight held constant.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measuring import busy, machine

import homolog
from homolog.corpus import pack, read_documents
from homolog.dictionaries import (
    KINDS,
    Place,
    ResidualArrays,
    SparseAutoencoder,
    TrainingConfig,
    explained_variance,
    parse_config,
    train,
)
from homolog.features import capture

CONTEXT, HELD_OUT = 128, 16_384
MODELS = ("zoo:transformer-s0", "zoo:mamba-s0", "zoo:mamba-random")
WEIGHTED = ("relu", "gated", "jumprelu")
POWER = 0.8  # of a ratio of L0, the ratio of weights that makes up for it, about


@dataclass(frozen=True)
class Layer:
    """Residuals of a layer: to train on, and held out."""

    model: str
    number: int
    train: torch.Tensor
    held_out: torch.Tensor


@dataclass(frozen=True)
class Trained:
    """A dictionary on held-out tokens, and the seconds of its training."""

    l0: float
    explained_variance: float
    weight: float
    seconds: float


def layers_of(name: str, chosen: list[int] | None, text: str, sink: bool) -> Iterator[Layer]:
    """Residuals of the chosen layers, all by default, on windows of the text in random order."""
    model = homolog.load(name)
    numbers = [i for i in range(model.n_layers) if chosen is None or i in chosen]
    windows = pack(read_documents(text), model.tokenizer, CONTEXT).shuffled(0)
    if sink:
        windows.mask[:, 0] = False
    sites = [homolog.Site("resid", i) for i in numbers]
    held_out, learned = windows.split(HELD_OUT // CONTEXT)
    residuals = [capture(model, part, sites) for part in (learned, held_out)]
    for number, to_train, to_measure in zip(numbers, *residuals, strict=True):
        yield Layer(name.removeprefix("zoo:"), number, to_train, to_measure)


def trained(layer: Layer, settings: dict[str, Any], options: argparse.Namespace) -> Trained:
    """One dictionary of these settings."""
    training = TrainingConfig(n_tokens=options.tokens, batch=options.batch, lr=options.lr)
    source = ResidualArrays(layer.train[None], seed=0, name=f"{layer.model} {layer.number}")
    config, begun = parse_config(settings), time.process_time()
    made = train(source, config, training, model=layer.model, on=Place(workers=1))
    seconds = time.process_time() - begun
    sae: SparseAutoencoder = made["sae"][0]
    x, f = layer.held_out.float(), sae.encode(layer.held_out.float())
    l0 = float((f > 0).sum(1).float().mean())
    weight = sae.metadata["config"][KINDS[config.kind].sparsity]
    return Trained(l0, explained_variance(x, sae.decode(f)), weight, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--layers", type=int, nargs="+", help="all by default")
    parser.add_argument("--kinds", nargs="+", choices=WEIGHTED, default=WEIGHTED)
    parser.add_argument("--targets", type=float, nargs="+", default=(8, 16, 32, 64))
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--text", default="zoo:demo")
    parser.add_argument("--sink", action="store_true", help="mask the first token of a window")
    parser.add_argument("--alone", action="store_true", help="without the constant weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        layers = list(layers_of(name, options.layers, options.text, options.sink))
        for kind in options.kinds:
            for target in options.targets:
                report(layers, {"kind": kind, "d_sae": options.features}, target, options)
    print(f"{machine()}. {busy()}")


def report(
    layers: list[Layer], settings: dict[str, Any], target: float, options: argparse.Namespace
) -> None:
    """Print the line of one model, kind and target."""
    held = [trained(layer, settings | {"target_l0": target}, options) for layer in layers]
    l0, weights = np.array([one.l0 for one in held]), np.array([one.weight for one in held])
    explained = np.mean([one.explained_variance for one in held])
    cells = [layers[0].model, settings["kind"], f"{target:g}", f"{l0.min():.1f} to {l0.max():.1f}"]
    cells += [f"{np.abs(l0 / target - 1).max():.0%}", f"{weights.min():.3g} to {weights.max():.3g}"]
    cells.append(f"{explained:.3f}")
    if not options.alone:
        pairs = zip(layers, held, strict=True)
        beside = [at_constant_weights(layer, settings, one, options) for layer, one in pairs]
        gains, ratios = (np.array(side) for side in zip(*beside, strict=True))
        cells.append(f"{gains.mean():+.3f} ({gains.min():+.3f} to {gains.max():+.3f})")
        cells.append(f"{np.median(ratios):.2f}")
    print(f"| {' | '.join(cells)} |", flush=True)


def at_constant_weights(
    layer: Layer, settings: dict[str, Any], held: Trained, options: argparse.Namespace
) -> tuple[float, float]:
    """What a dictionary explains beyond those of constant weights at its L0, and its time."""
    key = KINDS[settings["kind"]].sparsity
    one = trained(layer, settings | {key: held.weight}, options)
    moved = (one.l0 / held.l0) ** POWER
    if abs(np.log(moved)) < 0.1:  # two points that are too near give no line
        moved = 1.2
    other = trained(layer, settings | {key: held.weight * moved}, options)
    (x, y), (x_other, y_other) = (
        (np.log(max(each.l0, 1e-3)), each.explained_variance) for each in (one, other)
    )
    slope = (y_other - y) / (x_other - x)
    expected = y + slope * (np.log(held.l0) - x)
    return held.explained_variance - expected, held.seconds / one.seconds


if __name__ == "__main__":
    main()
