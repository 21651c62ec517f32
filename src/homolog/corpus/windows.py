"""Packed token windows: the one stream that every model reads, in one order, and its hash.

    stream = tokens(document 0) EOT tokens(document 1) EOT ...
    window w = stream[w * context : (w + 1) * context]

Windows are never padded; the tail that fills none is dropped and counted.  Special tokens are masked by id
wherever they stand.  The hash is the SHA-256 of context, tokens, documents and mask: two artifacts compare
only if theirs are equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Int32

from homolog.corpus.documents import Document
from homolog.corpus.tokenizers import fingerprint, joining_id, special_ids
from homolog.errors import InputError
from homolog.storage.atomic import atomic_path, sha256_bytes, write_json

FORMAT = 1
_BATCH = 256  # documents tokenised together


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of tokens.  `hash` is computed from the arrays; slices of whole windows have their own."""

    tokens: Int32[np.ndarray, "windows context"]
    """Token ids."""

    document: Int32[np.ndarray, "windows context"]
    """Index of the document each token is from, in the order of the stream; kept when windows are sliced."""

    mask: Bool[np.ndarray, "windows context"]
    """False at special tokens, which stay out of every statistic."""

    tokenizer_fingerprint: str
    """`corpus.fingerprint` of the tokenizer."""

    n_dropped: int = 0
    """Tokens of the tail that filled no window."""

    hash: str = field(init=False)
    """Hexadecimal SHA-256 of the contents."""

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.document.shape == self.mask.shape
        arrays = (np.ascontiguousarray(array) for array in (self.tokens, self.document, self.mask))
        parts = (array.tobytes() for array in arrays)
        object.__setattr__(self, "hash", sha256_bytes(f"windows {FORMAT} {self.tokens.shape}", *parts))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, windows: slice | np.ndarray) -> TokenWindows:
        """Whole windows, by slice or by their numbers in any order."""
        parts = (np.ascontiguousarray(array[windows]) for array in (self.tokens, self.document, self.mask))
        return TokenWindows(*parts, tokenizer_fingerprint=self.tokenizer_fingerprint)

    def split(self, n_windows: int) -> tuple[TokenWindows, TokenWindows]:
        """The first `n_windows`, and the rest."""
        return self[:n_windows], self[n_windows:]

    def shuffled(self, seed: int) -> TokenWindows:
        """The same windows in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        parts = (array[order] for array in (self.tokens, self.document, self.mask))
        return TokenWindows(*parts, tokenizer_fingerprint=self.tokenizer_fingerprint, n_dropped=self.n_dropped)

    @property
    def context(self) -> int:
        """Tokens of a window."""
        return self.tokens.shape[1]

    @property
    def n_tokens(self) -> int:
        """Tokens in all windows, special ones included."""
        return self.tokens.size

    @property
    def n_documents(self) -> int:
        """Documents with a token in these windows."""
        return len(np.unique(self.document))

    @property
    def token_document(self) -> Int32[np.ndarray, " token"]:
        """Document of every token that is not masked, windows flattened: what is resampled for intervals."""
        return self.document[self.mask]

    def sample(self, tokenizer: Any, n_tokens: int = 64) -> str:
        """The first tokens as text, to see that it is text."""
        return str(tokenizer.decode(self.tokens.reshape(-1)[:n_tokens].tolist()))


def pack(
    documents: Iterable[Document], tokenizer: Any, context: int, *, n_tokens: int | None = None, fewer: bool = False
) -> TokenWindows:
    """Tokenise documents, in their order, and cut the stream into windows of `context` tokens.

    n_tokens  how many are wanted, rounded up to whole windows; reading stops there.  None takes all.
    fewer     take what there is where the documents hold fewer
    Raises `InputError` when the documents do not fill what is wanted (None, or fewer: one window), with the counts.
    """
    end = joining_id(tokenizer)
    wanted = None if n_tokens is None else -(-n_tokens // context) * context
    ids: list[np.ndarray] = []
    lengths: list[int] = []
    total = 0
    for batch in _batches(documents):
        for encoded in _encode(tokenizer, [document.text for document in batch]):
            ids.append(np.asarray([*encoded, end], dtype=np.int32))
            lengths.append(len(encoded) + 1)
            total += len(encoded) + 1
        if wanted is not None and total >= wanted:
            break
    n_windows = (total if wanted is None else min(total, wanted)) // context
    least = 1 if fewer or wanted is None else max(1, wanted // context)
    if n_windows < least:
        raise InputError(
            "corpus", f"{total} tokens in {len(lengths)} documents",
            f"it must fill {least} windows of {context} tokens",
            "Give more text, ask for fewer tokens, or a shorter context.",
        )  # fmt: skip
    used = n_windows * context
    tokens = np.concatenate(ids)[:used]
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[:used]
    mask = ~np.isin(tokens, special_ids(tokenizer))
    parts = (array.reshape(n_windows, context) for array in (tokens, document, mask))
    return TokenWindows(*parts, tokenizer_fingerprint=fingerprint(tokenizer), n_dropped=total - used)


def save_windows(windows: TokenWindows, folder: Path | str) -> Path:
    """Write windows.safetensors, then windows.json (the manifest, with the hash); returns the folder."""
    folder = Path(folder)
    arrays = {"tokens": windows.tokens, "document": windows.document, "mask": windows.mask}
    with atomic_path(folder / "windows.safetensors") as partial:
        safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    manifest = {
        "format": FORMAT,
        "hash": windows.hash,
        "tokenizer_fingerprint": windows.tokenizer_fingerprint,
        "n_windows": len(windows),
        "context": windows.context,
        "n_documents": windows.n_documents,
        "n_masked": int((~windows.mask).sum()),
        "n_dropped": windows.n_dropped,
    }
    write_json(folder / "windows.json", manifest)
    return folder


def load_windows(folder: Path | str) -> TokenWindows:
    """Read what `save_windows` wrote.  Raises `InputError` when it is missing, damaged or otherwise made."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
        arrays = safetensors.numpy.load_file(folder / "windows.safetensors")
        windows = TokenWindows(
            arrays["tokens"], arrays["document"], arrays["mask"],
            manifest["tokenizer_fingerprint"], manifest["n_dropped"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from error
    if manifest.get("format") != FORMAT:
        raise _unreadable(folder, f"format {manifest.get('format')}, this version reads {FORMAT}")
    if manifest.get("hash") != windows.hash:
        raise _unreadable(folder, "the contents do not have the recorded hash")
    return windows


def _unreadable(folder: Path, reason: str) -> InputError:
    return InputError(
        "token windows", str(folder), f"they must be whole and unaltered ({reason})", "Start the run again."
    )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _encode(tokenizer: Any, texts: list[str]) -> Iterable[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return (encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False))
    return (tokenizer.encode(text, add_special_tokens=False) for text in texts)
