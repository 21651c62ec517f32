"""Are a real model's features found again under a second tokenisation of its own text?

    python benchmarks/alignment_model.py [--model zoo:transformer-s0] [--layer 2]
    python benchmarks/alignment_model.py --model FOLDER --layer 14 --text FILE \
        --dictionaries RUN/saes/NAME/14 RUN/saes/NAME@seed1/14

A model with a BPE tokenizer reads one text twice: as its tokenizer cuts it, and with merges dropped
at random [Provilkov et al. 2020], so that every occurrence of a word is cut in its own way:

    of the merges that could be made in a word, each is left out with probability d; the first of
    the others is made; and so on, until none is left

(`tokenizers` does the same, but from a generator that takes no seed.)  One dictionary reads both;
its features are pooled to units (`homolog.corpus.together`, `homolog.features.pooled`) by the last
token or the largest, and matched.  The right partner of a feature is known: itself.  Printed are
the share of features whose best match is the feature itself, the mean r with itself, the mean best
r, and two to compare with: the mean best r in a dictionary of a second seed on the same units, and
with the units of one side in random order.  d = 0 is one tokenisation: the first is 1, the seed's
the skyline of a study.  Counted are features that fire in at least 30 units of the first side.

The model was not trained on such text: what it makes of a word in pieces differs too, so that this
bounds what comparing by units loses from above.

Provilkov, Emelianenko and Voita, "BPE-dropout: simple and effective subword regularization", 2020.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

import homolog
from homolog.corpus import Document, TokenWindows, pack, read_documents
from homolog.corpus.together import Alignment, pack_together
from homolog.dictionaries import ResidualArrays, SparseAutoencoder, TrainingConfig, train
from homolog.dictionaries import load as load_dictionary
from homolog.dictionaries.kinds import relu
from homolog.dictionaries.variance import SINK_NORM
from homolog.features import capture_residuals
from homolog.features.pooled import pool
from homolog.matching import max_pearson

LABELS = ("sae", "seed1")
LEAST_FIRINGS = 30
MOST_CHARACTERS = 4000  # of a document, so that there are many
ALIGNS = ("last", "max")
COLUMNS = ("itself", "r itself", "best r", "seed", "shuffled")


class Dropping:
    """A byte-level BPE tokenizer that leaves merges out at random; the rest is the tokenizer's."""

    backend_tokenizer = None  # which would cut the text itself

    def __init__(self, tokenizer: Any, dropout: float, seed: int) -> None:
        self.tokenizer, self.dropout = tokenizer, dropout
        self.random = np.random.default_rng(seed)
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        assert model["type"] == "BPE", "merges are dropped of BPE alone"
        pairs = (tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"])
        self.rank = {pair: rank for rank, pair in enumerate(pairs)}
        self.vocabulary = model["vocab"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        assert not add_special_tokens
        cut = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [self.vocabulary[piece] for word, _ in cut for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        pieces = list(word)
        while True:
            ranks = [self.rank.get(pair) for pair in pairwise(pieces)]
            kept = self.random.random(len(ranks)) >= self.dropout
            known = [(r, i) for i, r in enumerate(ranks) if r is not None and kept[i]]
            if not known:
                return pieces
            _, at = min(known)
            pieces[at : at + 2] = ["".join(pieces[at : at + 2])]


class Reader:
    """A model's residuals after one block as two dictionaries read them."""

    def __init__(self, model: homolog.LanguageModel, layer: int) -> None:
        self.model, self.layer = model, layer
        self.dictionaries: list[SparseAutoencoder] = []

    def residuals(self, windows: TokenWindows) -> torch.Tensor:
        return capture_residuals(self.model, windows, [self.layer])[self.layer].float().cpu()

    def learn(self, windows: TokenWindows, epochs: int) -> None:
        """The demo's dictionaries: ReLU + L1, six features per dimension, two seeds."""
        x = self.residuals(windows)
        config = relu.Settings(d_sae=6 * x.shape[1], l1=4.0)
        training = TrainingConfig(n_tokens=epochs * len(x), batch=512, lr=3e-3)
        made = train(
            ResidualArrays([x], seed=0), config, training, model=self.model.name, labels=LABELS
        )
        self.dictionaries = [made[label][0] for label in LABELS]

    def features(self, windows: TokenWindows) -> tuple[TokenWindows, list[csr_array]]:
        """The windows with sinks masked, and the features of either dictionary at the others."""
        x = self.residuals(windows)
        norm = x.norm(dim=1)
        usual = (norm <= SINK_NORM * norm.median()).numpy()
        mask = windows.mask.copy()
        mask[windows.mask] = usual
        read = [each.encode_sparse(x[torch.from_numpy(usual)]) for each in self.dictionaries]
        return replace(windows, mask=mask), read


def with_itself(a: csr_array, b: csr_array) -> np.ndarray:
    """Pearson's r of every column of a with the same one of b; NaN where one is constant."""
    n = a.shape[0]
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = a.sum(axis=0) / n, b.sum(axis=0) / n
    variances = [
        (x.multiply(x)).sum(axis=0) / n - mean**2 for x, mean in ((a, mean_a), (b, mean_b))
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a.multiply(b).sum(axis=0) / n - mean_a * mean_b) / np.sqrt(np.prod(variances, 0))


def found_again(a: csr_array, b: csr_array, seed: csr_array) -> list[float]:
    """`COLUMNS` of the features of a in b; seed: another dictionary on the rows of b."""
    frequent = np.flatnonzero(np.diff(a.tocsc().indptr) >= LEAST_FIRINGS)
    order = np.random.default_rng(0).permutation(a.shape[0])
    best, of_seed, by_chance = (max_pearson(a, side).a_to_b for side in (b, seed, b[order]))
    own = best.index[frequent, 0] == frequent
    r = [with_itself(a, b)[frequent]]
    r += [partners.r[frequent, 0] for partners in (best, of_seed, by_chance)]
    return [float(own.mean()), *(float(np.nanmean(values)) for values in r)]


def compare(reader: Reader, documents: Iterable[Document], options: argparse.Namespace) -> None:
    tokenizer = reader.model.require_tokenizer()
    print(f"{'dropped':8} {'tokens per unit':16} {'align':6}", *(f"{c:>9}" for c in COLUMNS))
    for dropout in (0.0, *options.dropout):
        sides = [tokenizer, Dropping(tokenizer, dropout, options.seed)]
        packed = pack_together(documents, sides, options.context, n_tokens=options.tokens)
        (a, own), (b, other) = map(reader.features, packed)
        aligned = Alignment.of(a, b)
        units, facts = aligned.units, aligned.facts()
        for align in ALIGNS:
            mine = pool(own[0], units.first_a, units.last_a, align)
            theirs = [pool(x, units.first_b, units.last_b, align) for x in other]
            row = (f"{value:9.3f}" for value in found_again(mine, *theirs))
            sizes = " and ".join(f"{size:.2f}" for size in facts["tokens_per_unit"])
            print(f"{dropout:<8} {sizes:16} {align:6}", *row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="zoo:transformer-s0")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--text", default="zoo:demo")
    parser.add_argument("--dictionaries", nargs=2, help="folders of two seeds; else they are made")
    parser.add_argument("--train-tokens", type=int, default=262_144)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--dropout", type=float, nargs="*", default=[0.1, 0.3])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reader = Reader(homolog.load(options.model), options.layer)
    documents = list(read_documents(options.text))
    if options.dictionaries:
        reader.dictionaries = [load_dictionary(folder) for folder in options.dictionaries]
    else:
        tokenizer = reader.model.require_tokenizer()
        text = pack(
            documents[::2],
            tokenizer,
            options.context,
            n_tokens=options.train_tokens,
            fewer=True,
        )
        reader.learn(text, options.epochs)
    where = f"{options.model}, block {options.layer}, {options.tokens:,} tokens"
    print(f"{where}, {reader.dictionaries[0].W_dec.shape[0]} features")
    heldout = [Document(each.text[:MOST_CHARACTERS], each.source) for each in documents[1::2]]
    compare(reader, heldout, options)


if __name__ == "__main__":
    main()
