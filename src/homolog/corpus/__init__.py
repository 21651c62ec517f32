"""Text to packed token windows, with document index, special-token mask and hashes."""

from homolog.corpus.documents import Document, Documents, read_documents
from homolog.corpus.token_text import TokenText, alone, joined, token_texts
from homolog.corpus.tokenizers import (
    check_same_tokenizer,
    fingerprint,
    require_tokenizer,
    special_tokens,
)
from homolog.corpus.windows import TokenWindows, load_windows, pack, save_windows

__all__ = [
    "Document",
    "Documents",
    "TokenText",
    "TokenWindows",
    "alone",
    "check_same_tokenizer",
    "fingerprint",
    "joined",
    "load_windows",
    "pack",
    "read_documents",
    "require_tokenizer",
    "save_windows",
    "special_tokens",
    "token_texts",
]
