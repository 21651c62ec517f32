"""What a run reads, known by its contents: a run goes on only with the inputs that it began with.

    state     SHA-256 of names, sizes, times and inodes of files: the same if nobody touched them
    contents  SHA-256 of what is read: asked for where the state is another one, or without files

A file that was copied, or written again with the same bytes, has another state and the same
contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from homolog.record.atomic import sha256_bytes, sha256_file


@dataclass(frozen=True)
class Input:
    """One thing that a run reads.

    name      in words, as messages have it: "the weights of models/b"
    files     all that it lies in; none where it is not on this file system, or made from a seed
    contents  gives the SHA-256, or another identification, of what is read of it
    """

    name: str
    files: tuple[Path, ...]
    contents: Callable[[], str]

    @property
    def state(self) -> str | None:
        """The state of the files; None where there are none."""
        if not self.files:
            return None
        stats = ((file.name, file.stat()) for file in self.files)
        return sha256_bytes(
            *(f"{n} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for n, s in stats)
        )

    def facts(self) -> dict[str, str | None]:
        """What is recorded of it."""
        return {"state": self.state, "contents": self.contents()}

    def is_as(self, facts: dict[str, str | None]) -> bool:
        """Whether it is what was recorded; its contents are read only where its state does not
        tell.
        """
        state = self.state
        return (state is not None and state == facts["state"]) or self.contents() == facts[
            "contents"
        ]


def contents_of(files: Iterable[Path]) -> str:
    """SHA-256 of the names and bytes of files, wherever they lie."""
    return sha256_bytes(*(f"{file.name} {sha256_file(file)}" for file in files))
