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

import json
import lzma
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from homolog.zoo.catalog import TRAIN_TEXT
from homolog.zoo_training.text.gather import cut
from homolog.zoo_training.text.packages import unpacked, version
from homolog.zoo_training.text.readers import page_text, whole

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
HANDBOOK, PERL, PYTHON = (
    f"debian:{name}" for name in ("debian-handbook", "perl-doc", "libpython3.11-stdlib")
)


def sources(packages: Path) -> dict[str, Iterable[tuple[str, str]]]:
    """Of every source, title and text of its files; packages that are missing are fetched."""
    handbook, perl, python = (unpacked(name, packages) for name in (HANDBOOK, PERL, PYTHON))
    modules = sorted((python / "usr/lib/python3.11").glob("**/*.py"))
    found: dict[str, Iterable[tuple[str, str]]] = {
        "prose": _shipped(),
        "perl-doc": (
            (path.stem, whole(path)) for path in sorted(perl.glob("usr/share/perl/**/*.pod"))
        ),
        "python": ((path.name, whole(path)) for path in modules if path.is_file()),
    }
    for language in ("en-US", "de-DE", "fr-FR", "es-ES"):
        pages = sorted((handbook / "usr/share/doc/debian-handbook/html" / language).glob("*.html"))
        texts = ((path.stem, page_text(whole(path))) for path in pages if path.stem != "index")
        found[f"handbook-{language[:2]}"] = texts
    return found


def _shipped() -> Iterator[tuple[str, str]]:
    with lzma.open(TRAIN_TEXT, "rt", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            yield document["title"], document["text"]


def documents(packages: Path) -> list[dict[str, str]]:
    """All that is read, in a fixed random order.  ValueError where a source is too small."""
    rng, chosen = np.random.default_rng(SEED), []
    for source, files in sources(packages).items():
        pieces = [
            {"source": source, "title": title, "text": piece}
            for title, text in files
            for piece in cut(text, LONGEST)
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
    packages = out / "packages"
    lines = [json.dumps(document, ensure_ascii=False) for document in documents(packages)]
    print(*(version(name, packages) for name in (HANDBOOK, PERL, PYTHON)), sep="\n")
    partial = made.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(made)
    return made


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
