"""Make the text that the shipped models learn from, and the text that is held out from them.

    python -m homolog.zoo_training.text.gather OUT

OUT/train.jsonl     what models learn from; not shipped
OUT/domains.jsonl   whole files of some sources, held out; it ships as `zoo:domains`
OUT/README.md       every source: packages and versions, licence, characters, shares of domains

One JSON object a line: `source`, `title`, `text`; documents of at most `LONGEST` characters, cut at
ends of lines, each text once, in a fixed random order.  Of documents to train on those are left out
of which a tenth of the long lines is held out too: a page of which another holds a part, an example
that stands in a handbook of every language.  Packages stay in OUT/packages (0.6 GB).
Needs apt-get, npm, and Debian's mandoc.  The same packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from homolog.errors import InputError
from homolog.record.atomic import write_text
from homolog.zoo_training.text.packages import unpacked, version
from homolog.zoo_training.text.sources import SOURCES, Source

LONGEST, SHORTEST = 6_000, 300  # characters of a document
LONG_LINE = 60  # characters: shorter lines are alike by chance
MOST_HELD_OUT = 0.1  # of a training document's long lines
SEED = 20_261_129
Document = dict[str, str]


def main(out: str) -> None:
    """Write the three files into the folder `out`.  InputError for a package that is not to be had,
    or where mandoc is missing.
    """
    folder = Path(out)
    if shutil.which("mandoc") is None:
        remedy = "Install Debian's package mandoc."
        raise InputError("mandoc", "missing", "manual pages are set by it", remedy)
    rng = np.random.default_rng(SEED)
    seen: set[bytes] = set()
    held_out: dict[str, list[Document]] = {}
    train: dict[str, list[Document]] = {}
    for source in SOURCES:
        roots = [unpacked(package, folder / "packages") for package in source.packages]
        held_out[source.name], train[source.name] = divided(source, source.reader(roots), rng, seen)
    lines = {line for documents in held_out.values() for d in documents for line in _long_lines(d)}
    train = {name: without(documents, lines) for name, documents in train.items()}
    _write(folder / "domains.jsonl", held_out, rng)
    _write(folder / "train.jsonl", train, rng)
    write_text(folder / "README.md", table(held_out, train, folder / "packages"))


def divided(
    source: Source,
    texts: Iterable[tuple[str, str]],
    rng: np.random.Generator,
    seen: set[bytes],
) -> tuple[list[Document], list[Document]]:
    """Held-out and training documents of a source, from its (title, text) in random order.

    Whole files are held out until `source.held_out` characters are reached, then files are taken to
    train on until `source.train`.  A document that is in `seen` is left out; `seen` grows.
    """
    texts = list(texts)
    held_out: list[Document] = []
    train: list[Document] = []
    n_held_out = n_train = 0
    for index in rng.permutation(len(texts)):
        title, text = texts[index]
        documents = list(_documents(source.name, title, text, seen))
        if n_held_out < source.held_out:
            held_out += documents
            n_held_out += _characters(documents)
        elif n_train < source.train:
            room = source.train - n_train
            documents = documents[: _how_many(documents, room)]
            train += documents
            n_train += _characters(documents)
    return held_out, train


def without(documents: list[Document], held_out: set[str]) -> list[Document]:
    """The documents of whose long lines less than a tenth are among the lines `held_out`."""
    kept: list[Document] = []
    for document in documents:
        lines = _long_lines(document)
        if sum(line in held_out for line in lines) < MOST_HELD_OUT * max(1, len(lines)):
            kept.append(document)
    return kept


def cut(text: str, longest: int = LONGEST) -> Iterator[str]:
    """The text in pieces of whole lines, of at most `longest` characters where lines allow."""
    piece: list[str] = []
    size = 0
    for line in text.split("\n"):
        if piece and size + len(line) > longest:
            yield "\n".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    yield "\n".join(piece)


def table(
    held_out: dict[str, list[Document]], train: dict[str, list[Document]], packages: Path
) -> str:
    """The README of the text: sources with licences and versions, and the share of each domain."""
    lines = [
        "# Text of the zoo",
        "",
        "`train.jsonl` is what the families learned from; `domains.jsonl` was held out from it",
        "and ships as `zoo:domains`. One JSON object a line: `source`, `title`, `text`. Both are",
        "made again by `python -m homolog.zoo_training.text.gather OUT`.",
        "",
        "| source | domain, language | packages | licence | trained on | held out |",
        "|---|---|---|---|---:|---:|",
    ]
    n_train = {name: _characters(documents) for name, documents in train.items()}
    n_held_out = {name: _characters(documents) for name, documents in held_out.items()}
    for source in SOURCES:
        versions = ", ".join(version(package, packages) for package in source.packages)
        counts = f"{n_train[source.name]:,} | {n_held_out[source.name]:,}"
        about = f"{source.domain}, {source.language} | {versions} | {source.licence}"
        lines.append(f"| {source.name} | {about} | {counts} |")
    total, total_held_out = sum(n_train.values()), sum(n_held_out.values())
    lines += [f"| all | | | | {total:,} | {total_held_out:,} |", ""]
    lines += ["Characters. By domain:", "", "| domain | trained on | held out |", "|---|---:|---:|"]
    for domain in dict.fromkeys(source.domain for source in SOURCES):
        names = [source.name for source in SOURCES if source.domain == domain]
        trained = sum(n_train[name] for name in names) / total
        held = sum(n_held_out[name] for name in names) / total_held_out
        lines.append(f"| {domain} | {trained:.0%} | {held:.0%} |")
    return "\n".join(lines) + "\n"


def _documents(source: str, title: str, text: str, seen: set[bytes]) -> Iterator[Document]:
    for piece in cut(text):
        digest = hashlib.sha256(piece.encode()).digest()
        if len(piece) >= SHORTEST and digest not in seen:
            seen.add(digest)
            yield {"source": source, "title": title, "text": piece}


def _long_lines(document: Document) -> list[str]:
    lines = (line.strip() for line in document["text"].split("\n"))
    return [line for line in lines if len(line) >= LONG_LINE]


def _how_many(documents: list[Document], room: int) -> int:
    """How many of the documents, until they have `room` characters."""
    ends = np.cumsum([len(document["text"]) for document in documents])
    return int(np.searchsorted(ends, room)) + 1


def _characters(documents: list[Document]) -> int:
    return sum(len(document["text"]) for document in documents)


def _write(path: Path, documents: dict[str, list[Document]], rng: np.random.Generator) -> None:
    together = [document for part in documents.values() for document in part]
    order = rng.permutation(len(together))
    lines = [json.dumps(together[i], ensure_ascii=False) + "\n" for i in order]
    write_text(path, "".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
