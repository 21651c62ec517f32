"""What each token id stands for, and how a run of ids reads.

A token is its text where that is made of whole characters, and else its bytes: a tokenizer of bytes
spreads a rare character over several tokens, 自 (E8 87 AA) for instance over E8, 87 and AA, none of
which is a letter.

    alone     "the", and of bytes that are no whole character their names: "<E8>"
    joined    the bytes of neighbours make characters; each is shown at the token that has its last
              byte, which is where the model has read it, and the tokens before show nothing: "",
              "", "自".  What stays incomplete, at the border of what is shown, is named at its own
              token.

The texts joined are the text that was tokenised, as the tokenizer's normaliser leaves it (a space
that it puts in front is one).  Where the tokenizer itself forgets spaces (WordPiece, tokens that
take the space beside them), they are those of its own decoder.  Nothing here needs a tokenizer but
`token_texts`, so that pages are made without one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from homolog.corpus.tokenizers import special_tokens

TokenText: TypeAlias = str | list[int]
"""The text of a token, or its bytes where they are no whole characters; so in vocabulary.json."""

_UNKNOWN = "\ufffd"
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# stand beside a token, so that no decoder takes it for the beginning or end of a text
_BEFORE, _AFTER = "x", "y"


def token_texts(tokenizer: Any) -> list[TokenText]:
    """What each id stands for, from 0 to the highest of a Hugging Face tokenizer, fast or slow.

    Special tokens are their names.  An id that no token has, or whose bytes the tokenizer does not
    show, is named "<token ID>".
    """
    by_id = {int(i): token for token, i in tokenizer.get_vocab().items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = backend.get_vocab(with_added_tokens=False) if backend is not None else {}
    # An added token is looked for in the text as it is written, unless the model spells it with its
    # other tokens.
    added = {
        int(i): token.content
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.content not in spelled
    } | special_tokens(tokenizer)
    falls_back = all(f"<0x{byte:02X}>" in by_id.values() for byte in (0, 255))
    spell = _speller(_decoder(tokenizer), falls_back)

    def text_of(i: int) -> TokenText:
        text = added.get(i)
        if text is None and i in by_id:
            text = spell(by_id[i])
        return f"<token {i}>" if text is None else text

    return [text_of(i) for i in range(max([*by_id, *added], default=-1) + 1)]


def alone(token: TokenText) -> str:
    """A token by itself: its text, each byte of an incomplete character as "<E8>"."""
    return token if isinstance(token, str) else "".join(map(_named, _decoded(bytes(token))))


def joined(tokens: Sequence[TokenText]) -> list[str]:
    """What each token of a run shows: put together it is the run's text."""
    if all(isinstance(token, str) for token in tokens):
        return [str(token) for token in tokens]
    parts = [token.encode() if isinstance(token, str) else bytes(token) for token in tokens]
    owner = [number for number, part in enumerate(parts) for _ in part]
    shown, end = [""] * len(parts), 0
    for character in _decoded(b"".join(parts)):
        end += len(character.encode("utf-8", "surrogateescape"))
        shown[owner[end - 1]] += _named(character)
    return shown


def _decoded(whole: bytes) -> str:
    """Bytes as characters; one that belongs to none as the surrogate of PEP 383."""
    return whole.decode("utf-8", "surrogateescape")


def _named(character: str) -> str:
    byte = ord(character) - 0xDC00
    return f"<{byte:02X}>" if 0x80 <= byte <= 0xFF else character


def _decoder(tokenizer: Any) -> Callable[[list[str]], str]:
    """The tokenizer's function from tokens to text; a fast one without has that of its cutting.

    Without either, tokens are words, as they are for the library; but a vocabulary that has spaces
    needs no others.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is not None:
        return tokenizer.convert_tokens_to_string
    from tokenizers import decoders

    cutting = backend.pre_tokenizer
    cut: dict[str, Any] = {"type": ""} if cutting is None else json.loads(cutting.__getstate__())
    kinds = [part["type"] for part in cut.get("pretokenizers", [cut])]
    for kind in ("ByteLevel", "Metaspace"):
        if kind in kinds:
            return getattr(decoders, kind)().decode
    spaced = any(" " in token for token in backend.get_vocab(with_added_tokens=False))
    return "".join if spaced else tokenizer.convert_tokens_to_string


def _speller(
    decode: Callable[[list[str]], str], falls_back: bool
) -> Callable[[str | bytes], TokenText | None]:
    """A function from a token to what it stands for, None where that cannot be told.

    decode: the tokenizer's own, from a list of tokens to text.  falls_back: "<0xE8>" is a byte,
    also where decode leaves it as it is.  The text of a token is what it adds between two others: a
    decoder drops the space before the first token, and WordPiece its "##" only after another.
    """
    before = decode([_BEFORE])
    after = decode([_BEFORE, _AFTER])[len(before) :]

    def spell(token: str | bytes) -> TokenText | None:
        if isinstance(token, bytes):
            return _whole(token)
        decoded, fallback = decode([_BEFORE, token, _AFTER]), _FALLBACK.fullmatch(token)
        if fallback and (falls_back or _BEFORE + token + _AFTER not in decoded):
            return _whole(bytes.fromhex(fallback[1]))
        length = len(decoded) - len(before) - len(after)
        if length < 0 or not (decoded.startswith(before) and decoded.endswith(after)):
            return None
        text = decoded[len(before) :][:length]
        if text and (_UNKNOWN not in text or _UNKNOWN in token):
            return text
        bytes_of = _byte_alphabet()
        if not bytes_of.keys() >= set(token):
            return None
        return _whole(bytes(map(bytes_of.__getitem__, token)))

    return spell


def _whole(token: bytes) -> TokenText:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return list(token)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """The byte that a character stands for in a vocabulary of bytes.

    GPT-2's: a printable character of Latin-1 is its own code, other bytes are U+0100 and on, in
    order.  A vocabulary that writes every byte as its own code agrees with it in all characters
    that both have.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in range(256)} | {
        chr(0x100 + k): byte for k, byte in enumerate(rest)
    }
