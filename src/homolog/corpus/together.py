"""One text as several tokenizers cut it: windows of each, and the units between two of them.

Every tokenizer has a stream of its own over the same documents,

    stream = tokens(document 0) EOT tokens(document 1) EOT ...

and windows of its own, `context` of its own tokens each; in the text that they share, a document is
its bytes and one more for the token that ends it.  Windows lie at `TokenWindows.bounds` of it.

Between two tokenizers a unit (`units`) counts if

    each of its tokens is in the windows of its side, one after the other
    none of them is masked, on either side

At its end both have read the same text, though not from the same beginning: each window begins
where its model's own does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int32

from homolog.corpus.documents import Document
from homolog.corpus.tokenizers import joining_id
from homolog.corpus.units import Cutter, TokenEnds, Units, units_of
from homolog.corpus.windows import Counts, TokenWindows, batches, windows_of


@dataclass
class _Stream:
    """The tokens of one tokenizer so far, with where they end."""

    tokenizer: Any
    ids: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    n_bytes: int = 0
    n_tokens: int = 0

    def __post_init__(self) -> None:
        self.cutter, self.joining = Cutter(self.tokenizer), joining_id(self.tokenizer)

    def add(self, tokens: TokenEnds) -> None:
        """A document, and the token that ends it."""
        self.ids.append(np.append(tokens.ids, np.int32(self.joining)))
        self.ends.append(self.n_bytes + np.append(tokens.end, tokens.end[-1] + 1))
        self.n_bytes, self.n_tokens = int(self.ends[-1][-1]), self.n_tokens + len(self.ids[-1])

    def windows(self, n_windows: int, context: int, counts: Counts) -> TokenWindows:
        """The first of the stream."""
        windows = windows_of(self.ids, self.tokenizer, n_windows, context, counts)
        end = np.concatenate(self.ends)[: n_windows * context].reshape(n_windows, context)
        begin = np.append(0, end[:-1, -1])
        return replace(windows, bounds=np.concatenate([begin[:, None], end], axis=1))

    def n_before(self, byte: int, context: int) -> int:
        """Whole windows that begin before a byte."""
        end = np.concatenate(self.ends)
        begin = np.append(0, end[context - 1 :: context])[: len(end) // context]
        return int(np.searchsorted(begin, byte))


def pack_together(
    documents: Iterable[Document], tokenizers: Sequence[Any], context: int, *, n_tokens: int
) -> list[TokenWindows]:
    """The windows of each tokenizer over the same text, with their bounds.

    n_tokens: how many are wanted of the first tokenizer, rounded up to whole windows; reading stops
    there.  The windows of the others begin where the text of the first's lies.  Documents in which
    one of them has no token are left out of all.  Raises `InputError` as `pack` and `Cutter` do.
    """
    streams, given = [_Stream(tokenizer) for tokenizer in tokenizers], 0
    wanted = -(-n_tokens // context)
    for batch in batches(documents):
        given += len(batch)
        texts = [document.text for document in batch]
        for each in zip(*(stream.cutter.cut(texts) for stream in streams), strict=True):
            if all(len(tokens.ids) for tokens in each):
                for stream, tokens in zip(streams, each, strict=True):
                    stream.add(tokens)
        if streams[0].n_tokens >= wanted * context:
            break
    made: list[TokenWindows] = []
    for stream in streams:
        counts = Counts.of(documents, given, len(stream.ids), stream.n_tokens)
        bounds = made[0].bounds if made else None
        n_windows = min(stream.n_tokens // context, wanted)
        if bounds is not None:
            n_windows = stream.n_before(int(bounds[-1, -1]), context)
        counts.require(n_windows, 1 if made else max(1, wanted), context)
        made.append(stream.windows(n_windows, context, counts))
    return made


@dataclass(frozen=True, eq=False)
class Alignment:
    """The units between two tokenizers' windows of a text, as rows of what is made from them.

    units: its tokens are rows of A and of B: tokens that are not masked, in order.  document: int32
    (units,).  text_share: of the bytes of A's tokens that are not masked, those in units.
    """

    units: Units
    document: Int32[np.ndarray, " units"]
    text_share: float

    @classmethod
    def of(cls, a: TokenWindows, b: TokenWindows) -> Alignment:
        """The units that count.  Both must be of one text (`pack_together`)."""
        assert a.bounds is not None and b.bounds is not None
        units = units_of(a.bounds, b.bounds)
        before_a, before_b = (np.append(0, np.cumsum(side.mask)) for side in (a, b))
        counts = _none_masked(before_a, units.first_a, units.last_a)
        counts &= _none_masked(before_b, units.first_b, units.last_b)
        units = units[counts]
        document = a.document.reshape(-1)[units.last_a]
        read = int(np.diff(a.bounds, axis=1)[a.mask].sum())
        of_rows = Units(
            before_a[units.first_a],
            before_a[units.last_a],
            before_b[units.first_b],
            before_b[units.last_b],
            units.n_bytes,
        )
        return cls(of_rows, document, int(units.n_bytes.sum()) / max(1, read))

    def facts(self) -> dict[str, Any]:
        """What a run says of them; shares and means are NaN where there is no unit.

        tokens_per_unit: means, of A and of B.  single_share: of the bytes in units, those in units
        of one token on both sides.
        """
        units = self.units
        sizes = [units.last_a - units.first_a + 1, units.last_b - units.first_b + 1]
        single = (sizes[0] == 1) & (sizes[1] == 1)
        n_bytes = int(units.n_bytes.sum())
        known = len(units) > 0
        return {
            "units": len(units),
            "tokens_per_unit": [float(size.mean()) if known else float("nan") for size in sizes],
            "single_share": int(units.n_bytes[single].sum()) / n_bytes if known else float("nan"),
            "text_share": self.text_share,
        }


def _none_masked(before: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return before[last + 1] - before[first] == last + 1 - first
