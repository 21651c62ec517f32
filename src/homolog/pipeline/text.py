"""The text of a study: read once, cut by use, and what is worth saying of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homolog.corpus import TokenWindows, pack, read_documents
from homolog.pipeline.inputs import read_facts
from homolog.progress import Progress
from homolog.record.recipe import Recipe

TRAIN, MATCH, QUALITY, NEURONS = "train", "match", "quality", "neurons"
USES = (TRAIN, MATCH, QUALITY, NEURONS)
"""Training and matched text share no window; the last two are the first of the matched."""


def read_text(recipe: Recipe, tokenizer: Any, progress: Progress) -> dict[str, TokenWindows]:
    """Windows by use, and "whole" for all.  InputError where the text does not fill them."""
    corpus = recipe.corpus
    documents = read_documents(
        corpus.source,
        field=corpus.field,
        split=corpus.split,
        shuffle=corpus.shuffle,
        seed=corpus.seed,
    )
    n_match, n_train = (-(-n // corpus.context) for n in (corpus.match_tokens, corpus.train_tokens))
    with progress.stage("read the text"):
        n_tokens = (n_match + n_train) * corpus.context
        whole = pack(documents, tokenizer, corpus.context, n_tokens=n_tokens)
    # Windows in random order: a part then holds some of every document, not all of a few long ones.
    match, train = whole.shuffled(corpus.seed).split(n_match)
    parts = {QUALITY: corpus.quality_tokens, NEURONS: corpus.neuron_tokens or corpus.match_tokens}
    text = {"whole": whole, TRAIN: train, MATCH: match}
    text |= {use: match[: -(-tokens // corpus.context)] for use, tokens in parts.items()}
    for use, windows in text.items():
        windows.require_unmasked(f"{use} windows of {corpus.source}")
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
    asked, possible = recipe.matching.null_exchanges, most_exchanges(matched)
    if matched.n_documents < 2:
        return [
            "the matched text is one document (corpus.match_tokens, corpus.source): there are no "
            "intervals, which come from documents resampled, and no null of the maximum, so no "
            "verdict"
        ]
    if 0 < possible < asked:
        return [f"the null has {possible} of {asked} exchanges: the text has too few documents"]
    return []


def most_exchanges(matched: TokenWindows) -> int:
    """Exchanges that a null can have: a document meets a different one in each."""
    return max(0, len(np.unique(matched.token_document)) - 1)
