"""The text of the case study, from packages: prose, handbooks in four languages, manuals, code.

    python -m benchmarks.case_study.text OUT

    prose                       the text that ships with the package (public domain)
    handbook-en, -de, -fr, -es  The Debian Administrator's Handbook (debian-handbook, GPL-2+)
    perl-doc                    the manual of Perl (perl-doc, Artistic or GPL-1+)
    python                      the standard library of Python (libpython3.11-stdlib, PSF)

The last five come from Debian's packages by `apt-get download`, unpacked and not installed.  Writes
OUT/text.jsonl: documents of at most 4,000 characters, cut at ends of lines, in a fixed random
order, as much of each source as `SHARES` says.  The text is made to be read, not to be shipped.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from homolog.zoo.catalog import TRAIN_TEXT

CHARACTERS = 8_000_000
SHARES = {
    "prose": 0.3,
    "python": 0.2,
    "perl-doc": 0.15,
    "handbook-en": 0.11,
    "handbook-de": 0.08,
    "handbook-fr": 0.08,
    "handbook-es": 0.08,
}
LONGEST, SHORTEST = 4_000, 400  # characters of a document
SEED = 20_261_129
PACKAGES = ("debian-handbook", "perl-doc", "libpython3.11-stdlib")


class _Text(HTMLParser):
    """The text of a page, a line for every block; without navigation, pictures and scripts."""

    BLOCKS = frozenset({"div", "p", "li", "h1", "h2", "h3", "h4", "dt", "dd", "tr", "table", "br"})
    LEFT_OUT = frozenset({"script", "style", "head"})
    NAVIGATION = frozenset({"banner", "docnav", "toc"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._left_out: list[str] = []
        self._literal = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        words = {about.get("id"), *(about.get("class") or "").split()}
        is_navigation = bool(words & self.NAVIGATION)
        if self._left_out:
            if tag == self._left_out[0]:
                self._left_out.append(tag)
        elif tag in self.LEFT_OUT or is_navigation:
            self._left_out.append(tag)
        elif tag in self.BLOCKS:
            self.parts.append("\n")
        self._literal += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._left_out and tag == self._left_out[0]:
            self._left_out.pop()
        self._literal -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.parts.append(data if self._literal else re.sub(r"\s+", " ", data))


def page_text(html: str) -> str:
    """The readable text of a page of HTML."""
    reader = _Text()
    reader.feed(html)
    lines = (line.strip() for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line)


def cut(text: str) -> Iterator[str]:
    """The text in pieces of whole lines, of at most `LONGEST` characters where lines allow."""
    piece, size = [], 0
    for line in text.split("\n"):
        if piece and size + len(line) > LONGEST:
            yield "\n".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    yield "\n".join(piece)


def sources(unpacked: Path) -> dict[str, Iterable[tuple[str, str]]]:
    """Of every source, title and text of its files."""
    share = unpacked / "usr" / "share"
    pods = sorted(share.glob("perl/**/*.pod"))
    python = sorted((unpacked / "usr/lib/python3.11").glob("**/*.py"))
    found: dict[str, Iterable[tuple[str, str]]] = {
        "prose": _shipped(),
        "perl-doc": ((path.stem, _read(path)) for path in pods),
        "python": ((path.name, _read(path)) for path in python if path.is_file()),
    }
    for language in ("en-US", "de-DE", "fr-FR", "es-ES"):
        pages = sorted((share / "doc/debian-handbook/html" / language).glob("*.html"))
        texts = ((path.stem, page_text(_read(path))) for path in pages if path.stem != "index")
        found[f"handbook-{language[:2]}"] = texts
    return found


def _shipped() -> Iterator[tuple[str, str]]:
    with lzma.open(TRAIN_TEXT, "rt", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            yield document["title"], document["text"]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def documents(unpacked: Path) -> list[dict[str, str]]:
    """All that is read, in a fixed random order.  ValueError where a source is too small."""
    rng, chosen = np.random.default_rng(SEED), []
    for source, files in sources(unpacked).items():
        pieces = [
            {"source": source, "title": title, "text": piece}
            for title, text in files
            for piece in cut(text)
            if len(piece) >= SHORTEST
        ]
        wanted = SHARES[source] * CHARACTERS
        order = rng.permutation(len(pieces))
        ends = np.cumsum([len(pieces[i]["text"]) for i in order])
        if not len(ends) or ends[-1] < wanted:
            have = int(ends[-1]) if len(ends) else 0
            raise ValueError(f"{source} has {have:,} characters, {wanted:,.0f} are wanted")
        chosen += [pieces[i] for i in order[: int(np.searchsorted(ends, wanted)) + 1]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def make(out: Path) -> Path:
    """OUT/text.jsonl, unless it is there."""
    made = out / "text.jsonl"
    if made.is_file():
        return made
    packages, unpacked = out / "packages", out / "packages" / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    if len(list(packages.glob("*.deb"))) < len(PACKAGES):
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=packages, check=True)
    for package in sorted(packages.glob("*.deb")):
        print(package.name, hashlib.sha256(package.read_bytes()).hexdigest())
        subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
    lines = [json.dumps(document, ensure_ascii=False) for document in documents(unpacked)]
    partial = made.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(made)
    return made


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
