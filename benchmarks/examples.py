"""Processor seconds and memory of describing the features of one layer, and of all of a study.

    python benchmarks/examples.py [--quick] [--tokens 1000000] [--features 24576] [--active 50]
    [--layers 36]

Random features (`skewed`) on random tokens, one thread.  Each step runs once on a small layer
before it is timed, so that nothing is compiled in between.  Effects on logits are measured on a
part of the features: each costs the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from measuring import busy, machine, peak_beyond, worked
from skewed import skewed_features
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from homolog.analyses.features.measure import (
    consistency,
    examples,
    nearest,
    promoted,
    token_statistics,
)
from homolog.corpus import TokenWindows
from homolog.features import SparseFeatures
from homolog.models.gpt_neox import GPTNeoX

CONTEXT, VOCABULARY, D_MODEL = 1024, 50_304, 768
SOME = 512  # features whose effects on logits are timed
DOCUMENT = 700  # tokens
STEPS = {"examples": examples, "token_statistics": token_statistics, "consistency": consistency}


def layer(tokens: int, n_features: int, active: float) -> tuple[SparseFeatures, TokenWindows]:
    """Features on a stream of tokens by Zipf's law."""
    generator = np.random.default_rng(0)
    p = 1 / np.arange(10.0, VOCABULARY)
    shape = max(1, tokens // CONTEXT), CONTEXT
    stream = generator.choice(len(p), shape, p=p / p.sum()).astype(np.int32)
    document = (np.arange(stream.size) // DOCUMENT).astype(np.int32).reshape(shape)
    windows = TokenWindows(stream, document, np.ones(shape, bool), tokenizer_fingerprint="none")
    matrix = skewed_features(stream.size, n_features, active, seed=1)
    return SparseFeatures(matrix, windows.hash, windows.token_document, "random", 0), windows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    quick = "a layer of 50,000 tokens and 1,024 features"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of the stream")
    parser.add_argument("--features", type=int, default=24_576, help="features of the layer")
    parser.add_argument("--active", type=float, default=50, help="mean active features per token")
    parser.add_argument("--layers", type=int, default=36, help="layers of the study")
    options = parser.parse_args()
    tokens, n_features = (50_000, 1_024) if options.quick else (options.tokens, options.features)
    torch.set_num_threads(1)
    small = layer(2 * CONTEXT, 64, 8)
    for step in STEPS.values():
        step(*small)
    x, windows = layer(tokens, n_features, options.active)
    print(f"{machine()}, one thread. {busy()}")
    entries, size = x.matrix.nnz, x.matrix.nnz * 8 / 2**20
    print(
        f"{x.n_tokens} tokens, {n_features} features, {entries:.3g} active, matrix {size:.0f} MiB"
    )
    print(f"{'':18}{'seconds':>10}{'MiB beyond':>12}{f'{options.layers} layers':>14}")
    minutes = options.layers / 60
    total = 0.0
    for name, step in STEPS.items():
        memory, (seconds, made) = peak_beyond(lambda step=step: worked(lambda: step(x, windows)))
        total += seconds
        print(
            f"{name:18}{seconds:10.1f}{memory / 2**20:12.0f}{minutes * seconds:10.1f} min", end=""
        )
        if name == "examples":
            size = made.estimated_size() / 2**20
            print(f"   {len(made)} examples, table {size:.0f} MiB", end="")
        print()
        del made
    for name, memory, seconds in effects(n_features):
        total += seconds
        print(f"{name:18}{seconds:10.1f}{memory / 2**20:12.0f}{minutes * seconds:10.1f} min")
    print(f"{'together':18}{total:10.1f}{'':12}{minutes * total:10.1f} min")


def effects(n_features: int) -> Iterator[tuple[str, int, float]]:
    """(step, bytes beyond, seconds) of what the decoder alone says of so many features."""
    W_dec = torch.randn(n_features, D_MODEL, generator=torch.Generator().manual_seed(0))
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=8,
    )
    model = GPTNeoX("random", GPTNeoXForCausalLM(config).eval())
    some = min(SOME, n_features)
    memory, (seconds, _) = peak_beyond(lambda: worked(lambda: promoted(model, W_dec[:some])))
    yield "promoted", memory, seconds * n_features / some
    memory, (seconds, _) = peak_beyond(lambda: worked(lambda: nearest(W_dec)))
    yield "nearest", memory, seconds


if __name__ == "__main__":
    main()
