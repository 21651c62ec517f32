"""Does `target_l0` hold the L0 that was asked for, and what does it cost?

    python benchmarks/target_l0.py [--models zoo:mamba-s0 ...] [--layers 0 3] [--kinds relu ...]

Trains, for every model, kind and target, the dictionaries of all layers with `target_l0`, and
again with the weights that it found held constant from the first step.  Measures both on tokens
that none was trained on.  Prints, for every model, kind and target: the L0 of its layers, least and
most, the weights, the explained variance against that at the constant weights (their mean
difference), and the time against that of the constant weights.
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
    parts = zip(
        numbers, *(capture(model, part, sites) for part in (learned, held_out)), strict=True
    )
    for number, to_train, to_measure in parts:
        yield Layer(name.rsplit("/")[-1], number, to_train, to_measure)


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
    key = KINDS[settings["kind"]].sparsity
    held = [trained(layer, settings | {"target_l0": target}, options) for layer in layers]
    l0, weights = np.array([one.l0 for one in held]), np.array([one.weight for one in held])
    line = (
        f"| {layers[0].model} | {settings['kind']} | {target:g} | {l0.min():.1f} to {l0.max():.1f} "
    )
    line += f"| {np.abs(l0 / target - 1).max():.0%} | {weights.min():.3g} to {weights.max():.3g} "
    line += f"| {np.mean([one.explained_variance for one in held]):.3f} "
    if not options.alone:
        constant = [
            trained(layer, settings | {key: one.weight}, options)
            for layer, one in zip(layers, held, strict=True)
        ]
        gains = [
            a.explained_variance - b.explained_variance for a, b in zip(held, constant, strict=True)
        ]
        seconds = [sum(one.seconds for one in side) for side in (held, constant)]
        line += f"| {np.mean(gains):+.4f} ({min(gains):+.4f} to {max(gains):+.4f}) "
        line += f"| {np.mean([b.l0 / a.l0 for a, b in zip(held, constant, strict=True)]):.2f} "
        line += f"| {seconds[0] / seconds[1]:.2f} "
    print(f"{line}|", flush=True)


if __name__ == "__main__":
    main()
