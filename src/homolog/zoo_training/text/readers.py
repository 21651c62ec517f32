"""From the files of packages to plain text: titles and texts, one of each file.

A reader takes the folders of unpacked packages and gives (title, text) in a fixed order.
"""

from __future__ import annotations

import functools
import gzip
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

Texts = Iterator[tuple[str, str]]
Reader = Callable[[Sequence[Path]], Texts]
BLOCKS = frozenset({"h1", "h2", "h3", "h4", "p", "pre", "br", "div", "li", "dt", "dd"})
BLOCKS |= {"table", "tr"}
# Curled quotes and carriage returns of the English prose.
_PLAIN = str.maketrans({"\r": "", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})


def files(pattern: str, text_of: Callable[[Path], str]) -> Reader:
    """A reader of the files that match `pattern`, in the order of their paths; links are left."""

    def read(roots: Sequence[Path]) -> Texts:
        for root in roots:
            for path in sorted(root.glob(pattern)):
                if path.is_file() and not path.is_symlink():
                    yield str(path.relative_to(root)), text_of(path)

    return read


def whole(path: Path) -> str:
    """The file as it stands, unpacked where it is compressed."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return data.decode("utf-8", errors="replace")


def prose(path: Path) -> str:
    """Paragraphs by line, plain quotes, single spaces."""
    text = whole(path).translate(_PLAIN)
    return re.sub(r"[ \t]+", " ", re.sub(r"\n{2,}", "\n", text)).strip()


def page(path: Path) -> str:
    """The readable text of a page of HTML."""
    return page_text(whole(path))


def manual_page(path: Path) -> str:
    """A manual page as mandoc sets it, without its header and footer; "" for a redirection.

    FileNotFoundError without mandoc.
    """
    source = whole(path)
    if source.lstrip().startswith(".so "):
        return ""
    command = ["mandoc", "-K", "utf-8", "-T", "utf8", "-O", "width=100,indent=2"]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    text = re.sub(".\b", "", done.stdout.decode("utf-8", errors="replace"))
    return "\n".join(text.rstrip().split("\n")[1:-1]).strip()


def bible(roots: Sequence[Path]) -> Texts:
    """The King James Bible by chapter: Debian's program `bible`, and the package of its text."""
    program, data = roots[0] / "usr/bin/bible", roots[1] / "usr/lib"
    command = [str(program), "-f", "-p", str(data), "Gen1:1-Rev22:21"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    chapters: dict[str, list[str]] = {}
    for line in printed.splitlines():
        match = re.fullmatch(r"(\S+?)(\d+):(\d+) (.*)", line)
        if match:
            chapters.setdefault(f"{match[1]} {match[2]}", []).append(match[4].strip())
    for title, verses in chapters.items():
        yield title, "\n".join(verses)


def page_text(html: str) -> str:
    """A line for every element of `BLOCKS`; without navigation, pictures and scripts."""
    reader = _Page()
    reader.feed(html)
    lines = (line.strip() for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line)


class _Page(HTMLParser):
    LEFT_OUT = frozenset({"script", "style", "head"})
    NAVIGATION = frozenset({"banner", "docnav", "toc", "navheader", "navfooter"})

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
        elif tag in BLOCKS:
            self.parts.append("\n")
        self._literal += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._left_out and tag == self._left_out[0]:
            self._left_out.pop()
        self._literal -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.parts.append(data if self._literal else re.sub(r"\s+", " ", data))


whole_files = functools.partial(files, text_of=whole)
pages = functools.partial(files, text_of=page)
manual_pages = functools.partial(files, text_of=manual_page)
