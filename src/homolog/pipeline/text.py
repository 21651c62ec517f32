"""The text of a study: read once, cut by use, and what is worth saying of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homolog.corpus import Documents, TokenWindows, pack, read_documents
from homolog.corpus.together import pack_together
from homolog.errors import InputError
from homolog.pipeline.inputs import read_facts
from homolog.progress import Progress
from homolog.record.recipe import Corpus, Recipe

TRAIN, MATCH, QUALITY, NEURONS = "train", "match", "quality", "neurons"
RUN = 32  # windows
USES = (TRAIN, MATCH, QUALITY, NEURONS)
"""Training and matched text share no window; the last two are the first of the matched."""


def read_text(recipe: Recipe, tokenizer: Any, progress: Progress) -> dict[str, TokenWindows]:
    """Windows by use, and "whole" for all.  InputError where the text does not fill them."""
    corpus = recipe.corpus
    n_match, n_train = (-(-n // corpus.context) for n in (corpus.match_tokens, corpus.train_tokens))
    with progress.stage("read the text"):
        n_tokens = (n_match + n_train) * corpus.context
        whole = pack(_documents(corpus), tokenizer, corpus.context, n_tokens=n_tokens)
    # Windows in random order: a part then holds some of every document, not all of a few long ones.
    match, train = whole.shuffled(corpus.seed).split(n_match)
    text = {"whole": whole, TRAIN: train, MATCH: match}
    text |= {use: match[:n] for use, n in _firsts(corpus).items()}
    return _unmasked(text, corpus.source)


def read_texts(
    recipe: Recipe, tokenizers: Mapping[str, Any], progress: Progress
) -> dict[str, dict[str, TokenWindows]]:
    """What `read_text` does for each of several tokenizers, by their names, over the same text.

    The text of each use is the first tokenizer's: the windows of the others belong where they
    begin.  They are in random order by runs of `RUN` windows of the first, so that most units lie
    in one run, on both sides.  What is matched has no window that begins in one run and ends in
    another, so that all read it in one order.
    """
    names, given = list(tokenizers), list(tokenizers.values())
    if len(given) == 1:
        return {names[0]: read_text(recipe, given[0], progress)}
    corpus = recipe.corpus
    n_match, n_train = (-(-n // corpus.context) for n in (corpus.match_tokens, corpus.train_tokens))
    with progress.stage("read the text"):
        n_tokens = (n_match + n_train) * corpus.context
        packed = pack_together(_documents(corpus), given, corpus.context, n_tokens=n_tokens)
    place = _places(len(packed[0]), corpus.seed)
    first_begins, _ = _ends(packed[0])
    uses, texts = {MATCH: n_match} | _firsts(corpus), {}
    for name, whole in zip(names, packed, strict=True):
        begins, ends = _ends(whole)
        at = np.searchsorted(first_begins, begins, "right") - 1
        after = np.searchsorted(first_begins, ends - 1, "right") - 1  # where the last byte is
        own, in_order = place[at], np.argsort(place[at], kind="stable")
        own, is_within = own[in_order], (at // RUN == after // RUN)[in_order]
        text = {"whole": whole, TRAIN: whole[in_order[own >= n_match]]}
        text |= {use: whole[in_order[is_within & (own < n)]] for use, n in uses.items()}
        for use, windows in text.items():
            if not len(windows):
                asked = f"{use} tokens of {corpus.source}"
                requirement = "each tokenizer must make a window of them"
                raise InputError("corpus", asked, requirement, "Ask for more tokens.")
        texts[name] = _unmasked(text, corpus.source)
    return texts


def _places(n: int, seed: int) -> np.ndarray:
    """The place of each of n windows when runs of them stand in random order."""
    n_runs = -(-n // RUN)
    order = np.random.default_rng(seed).permutation(n_runs)
    windows = np.concatenate([np.arange(run * RUN, min((run + 1) * RUN, n)) for run in order])
    place = np.empty(n, np.int64)
    place[windows] = np.arange(n)
    return place


def _ends(windows: TokenWindows) -> tuple[np.ndarray, np.ndarray]:
    """Where in the text the windows begin and end."""
    assert windows.bounds is not None
    return windows.bounds[:, 0], windows.bounds[:, -1]


def _documents(corpus: Corpus) -> Documents:
    return read_documents(
        corpus.source,
        field=corpus.field,
        split=corpus.split,
        shuffle=corpus.shuffle,
        seed=corpus.seed,
    )


def _firsts(corpus: Corpus) -> dict[str, int]:
    """The windows of the matched text that have another use too: how many, the first of them."""
    parts = {QUALITY: corpus.quality_tokens, NEURONS: corpus.neuron_tokens or corpus.match_tokens}
    return {use: -(-tokens // corpus.context) for use, tokens in parts.items()}


def _unmasked(text: dict[str, TokenWindows], source: str) -> dict[str, TokenWindows]:
    for use, windows in text.items():
        windows.require_unmasked(f"{use} windows of {source}")
    return text


def text_facts(recipe: Recipe, text: Mapping[str, TokenWindows], tokenizer: Any) -> dict[str, Any]:
    """What run.json says of the text."""
    whole = text["whole"]
    return {
        "hash": whole.hash,
        "tokenizer": whole.tokenizer_fingerprint,
        "n_documents": whole.n_documents,
        "n_windows": len(whole),
        "context": whole.context,
        "n_tokens": whole.n_tokens,
        "train_tokens": text[TRAIN].n_tokens,
        "match_tokens": int(text[MATCH].mask.sum()),
        **{f"{use}_documents": text[use].n_documents for use in USES},
        "neuron_tokens": int(text[NEURONS].mask.sum()),
        "sources": [recipe.corpus.source],
        **read_facts(whole, tokenizer),
    }


def warnings_of(recipe: Recipe, matched: TokenWindows) -> list[str]:
    """In words, what a study does without because its matched text has too few documents."""
    asked, possible = recipe.matching.null_exchanges, most_exchanges(matched.token_document)
    if matched.n_documents < 2:
        return [
            "the matched text is one document (corpus.match_tokens, corpus.source): there are no "
            "intervals, which come from documents resampled, and no null of the maximum, so no "
            "verdict"
        ]
    if 0 < possible < asked:
        return [f"the null has {possible} of {asked} exchanges: the text has too few documents"]
    return []


def most_exchanges(document: np.ndarray) -> int:
    """Exchanges that a null can have: a document meets a different one in each.

    document: of each token, or unit, that is matched.
    """
    return max(0, len(np.unique(document)) - 1)
