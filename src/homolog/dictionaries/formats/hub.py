"""Dictionaries on the Hugging Face Hub, by reference.

    hf:OWNER/NAME[@REVISION][/FOLDER]        "hf:OWNER/NAME/layers.3"

REVISION is a branch, tag or commit.  Configurations are fetched first, and of the weights only the
files that the format needs, all from one commit.  What is in the Hub's cache is not fetched again
and needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from homolog.errors import InputError

PREFIX = "hf:"
_REF = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<folder>[^@]*?))?/?")


@dataclass(frozen=True)
class Origin:
    """A folder of a repository at one commit."""

    commit: str
    folder: str


def fetch(ref: str, names: Iterable[str], *, at: Origin | None = None) -> tuple[Path, Origin]:
    """The local copy of the folder with the files of these names, as far as they exist.

    at: of this commit.  Raises InputError for a reference of another form, and where the Hub does
    not give the files.
    """
    parts = _REF.fullmatch(ref)
    if parts is None or ".." in (parts["folder"] or "").split("/"):
        requirement = "it must have the form hf:OWNER/NAME[@REVISION][/FOLDER]"
        raise InputError("dictionary", ref, requirement, "Change it.")
    repo, folder = parts["repo"], parts["folder"] or ""
    patterns = [_inside(folder, name) for name in names]
    try:
        path = huggingface_hub.snapshot_download(
            repo,
            revision=at.commit if at else parts["revision"],
            allow_patterns=[p for p in patterns if p],
        )
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        remedy = (
            "Check owner, name, revision and network; or download it elsewhere and name the folder."
        )
        raise InputError("dictionary", ref, f"the Hub did not give it ({first})", remedy) from error
    return Path(path) / folder, Origin(Path(path).name, folder)


def _inside(folder: str, name: str) -> str:
    """Path of a file in the repository; "../NAME" is in the folder above, "" where none is."""
    if name.startswith("../"):
        return "/".join([*folder.split("/")[:-1], name[3:]]) if folder else ""
    return f"{folder}/{name}" if folder else name
