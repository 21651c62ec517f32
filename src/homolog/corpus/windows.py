"""Packed token windows: the one stream that every model reads, in one order, and its hash.

    stream = tokens(document 0) EOT tokens(document 1) EOT ...
    window w = stream[w * context : (w + 1) * context]

Windows are never padded; the tail that fills none is dropped and counted.  Special tokens are
masked by id wherever they stand (`tokenizers.special_tokens` says which they are).  One that is
written in a document's text, as "<|endoftext|>", is tokenised and masked as such, but it ends no
document.

The hash is the SHA-256 of context, tokens, documents and mask: two artifacts compare only if theirs
are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from homolog.corpus.documents import Document, Documents
from homolog.corpus.tokenizers import fingerprint, joining_id, special_ids
from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes
from homolog.record.parts import read_part, write_part

_HASHED = "windows 1"  # what is hashed, and how
_PART = "token windows 2"
_OLD_MANIFEST = "windows.json"  # beside windows that were not a part
_BATCH = 256  # documents tokenised together


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of tokens, with a hash of their contents; slices of whole windows have their own."""

    tokens: Int32[np.ndarray, "windows context"]
    """Token ids."""

    document: Int32[np.ndarray, "windows context"]
    """Index of the document each token is from, by the order of the stream; slices keep it."""

    mask: Bool[np.ndarray, "windows context"]
    """False at special tokens, which stay out of every statistic."""

    tokenizer_fingerprint: str
    """`corpus.fingerprint` of the tokenizer."""

    n_dropped: int = 0
    """Tokens of the tail that filled no window."""

    n_read: int = 0
    """Documents that `pack` read, empty ones among them: all of the source where shuffled."""

    n_empty: int = 0
    """Of those the ones left out because they hold no text, or none that makes a token."""

    bounds: Int64[np.ndarray, "windows bounds"] | None = None
    """Where they lie in a text that several tokenizers cut (`together`): the byte before the first
    token, and after each; no part of the hash.  None where there is one tokenizer.
    """

    def __post_init__(self) -> None:
        assert self.tokens.shape == self.document.shape == self.mask.shape

    @cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 of the contents."""
        parts = (array.tobytes() for array in (self.tokens, self.document, self.mask))
        return sha256_bytes(f"{_HASHED} {self.tokens.shape}", *parts)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, windows: slice | np.ndarray) -> TokenWindows:
        """Whole windows, by slice or by their numbers in any order."""
        parts = (
            np.ascontiguousarray(array[windows])
            for array in (self.tokens, self.document, self.mask)
        )
        bounds = None if self.bounds is None else self.bounds[windows]
        name = self.tokenizer_fingerprint
        return TokenWindows(*parts, tokenizer_fingerprint=name, bounds=bounds)

    def split(self, n_windows: int) -> tuple[TokenWindows, TokenWindows]:
        """The first `n_windows`, and the rest."""
        return self[:n_windows], self[n_windows:]

    def shuffled(self, seed: int) -> TokenWindows:
        """The same windows in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self[order], n_dropped=self.n_dropped)

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
        """Document of every token that is not masked: what is resampled for intervals."""
        return self.document[self.mask]

    def require_unmasked(self, name: str) -> None:
        """InputError where no token is left that is not masked; name: of the text."""
        if not self.mask.any():
            special = f"all {self.n_tokens} are special tokens"
            requirement = f"no token of it is left that is not masked: {special}"
            remedy = "Give text of which the tokenizer makes other tokens too."
            raise InputError("corpus", name, requirement, remedy)


def pack(
    documents: Iterable[Document],
    tokenizer: Any,
    context: int,
    *,
    n_tokens: int | None = None,
    fewer: bool = False,
) -> TokenWindows:
    """Tokenise documents, in their order, and cut the stream into windows of `context` tokens.

    n_tokens  how many are wanted, rounded up to whole windows; reading stops there.  None: all
    fewer     take what there is where the documents hold fewer

    Documents without a token are left out and counted.  Raises `InputError` when the documents do
    not fill what is wanted (None, or fewer: one window), with the counts, and when all that they
    hold is masked.
    """
    end = joining_id(tokenizer)
    wanted = None if n_tokens is None else -(-n_tokens // context) * context
    ids: list[np.ndarray] = []
    total = given = 0
    for batch in batches(documents):
        given += len(batch)
        for encoded in _encode(tokenizer, [document.text for document in batch]):
            if len(encoded):
                ids.append(np.asarray([*encoded, end], dtype=np.int32))
                total += len(ids[-1])
        if wanted is not None and total >= wanted:
            break
    counts = Counts.of(documents, given, len(ids), total)
    n_windows = (total if wanted is None else min(total, wanted)) // context
    counts.require(n_windows, 1 if fewer or wanted is None else max(1, wanted // context), context)
    return windows_of(ids, tokenizer, n_windows, context, counts)


@dataclass(frozen=True)
class Counts:
    """What was read for windows: tokens and documents, and those that gave none."""

    n_tokens: int
    n_read: int
    n_empty: int
    name: str

    @classmethod
    def of(cls, documents: Iterable[Document], given: int, kept: int, n_tokens: int) -> Counts:
        """given, kept: documents that were read, and of these the ones with tokens."""
        n_read, n_empty, name = given, given - kept, f"{n_tokens} tokens in {kept} documents"
        if isinstance(documents, Documents):  # it has left out documents of its own
            n_read, n_empty = documents.n_read, n_empty + documents.n_empty
            name = f"{name} of {documents.name}"
        return cls(n_tokens, n_read, n_empty, name)

    def require(self, n_windows: int, least: int, context: int) -> None:
        """InputError where the documents fill fewer windows than are needed."""
        if n_windows < least:
            empty = f", {self.n_empty} empty ones left out" if self.n_empty else ""
            requirement = f"it must fill {least} windows of {context} tokens"
            remedy = "Give more text, ask for fewer tokens, or a shorter context."
            raise InputError("corpus", f"{self.name}{empty}", requirement, remedy)


def windows_of(
    ids: Sequence[np.ndarray], tokenizer: Any, n_windows: int, context: int, counts: Counts
) -> TokenWindows:
    """The first windows of a stream.  InputError where all that they hold is masked.

    ids: int32, the tokens of each document with the one that ends it.
    """
    used = n_windows * context
    tokens = np.concatenate(ids)[:used]
    document = np.repeat(np.arange(len(ids), dtype=np.int32), list(map(len, ids)))[:used]
    mask = ~np.isin(tokens, special_ids(tokenizer))
    parts = (array.reshape(n_windows, context) for array in (tokens, document, mask))
    windows = TokenWindows(
        *parts,
        tokenizer_fingerprint=fingerprint(tokenizer),
        n_dropped=counts.n_tokens - used,
        n_read=counts.n_read,
        n_empty=counts.n_empty,
    )
    windows.require_unmasked(counts.name)
    return windows


def save_windows(windows: TokenWindows, folder: Path | str) -> Path:
    """Write windows.safetensors, a part that proves itself whole; returns the folder."""
    folder = Path(folder)
    arrays = {
        "tokens": windows.tokens,
        "document": windows.document,
        "mask": windows.mask,
        "tokenizer_fingerprint": np.array([*windows.tokenizer_fingerprint.encode()], np.uint8),
        "n_dropped": np.array(windows.n_dropped),
    } | ({} if windows.bounds is None else {"bounds": windows.bounds})
    write_part(folder / "windows.safetensors", arrays, _PART)
    (folder / _OLD_MANIFEST).unlink(missing_ok=True)
    return folder


def load_windows(folder: Path | str) -> TokenWindows:
    """Read what `save_windows` wrote.  InputError where it is missing, damaged or older."""
    folder = Path(folder)
    if (folder / _OLD_MANIFEST).exists():
        raise _unreadable(folder, "format 1, this version reads 2")
    try:
        arrays = read_part(folder / "windows.safetensors", _PART)
    except OSError as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from error
    if arrays is None:
        raise _unreadable(folder, "windows.safetensors is missing, damaged or of other contents")
    return TokenWindows(
        *(arrays[name] for name in ("tokens", "document", "mask")),
        tokenizer_fingerprint=bytes(arrays["tokenizer_fingerprint"]).decode(),
        n_dropped=int(arrays["n_dropped"]),
        bounds=arrays.get("bounds"),
    )


def _unreadable(folder: Path, reason: str) -> InputError:
    requirement = f"they must be whole and unaltered ({reason})"
    remedy = "Start the run again, or save them again."
    return InputError("token windows", str(folder), requirement, remedy)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents that are tokenised together."""
    iterator = iter(documents)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _encode(tokenizer: Any, texts: list[str]) -> Iterable[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return (
            encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)
        )
    return (tokenizer.encode(text, add_special_tokens=False) for text in texts)
