"""Text to packed token windows, with document index, special-token mask and hashes."""

from homolog.corpus.documents import Document, read_documents
from homolog.corpus.tokenizers import check_same_tokenizer, fingerprint
from homolog.corpus.windows import TokenWindows, load_windows, pack, save_windows

__all__ = [
    "Document",
    "TokenWindows",
    "check_same_tokenizer",
    "fingerprint",
    "load_windows",
    "pack",
    "read_documents",
    "save_windows",
]
