"""What a model's reference names: a model of the zoo, a folder or a Hub id.  Loads nothing.

zoo:NAME      the zoo's; NAME alone too, where no file or folder has that name
a path        of a folder with config.json and *.safetensors; "~" is the home folder
OWNER/NAME    a repository of the Hub, where there is no such folder
REF#CHANGE    that model changed for a control: "#untrained=1", "#noise=0.1", "#permuted",
              "#rotated" (`models.variants`)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from homolog.errors import InputError
from homolog.zoo import catalog

_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)


@dataclass(frozen=True)
class Reference:
    """A model by its name (without "zoo:"), its path or its id.

    folder: where its weights lie, if that is known.  change: what is done to it; "" for nothing.
    """

    kind: Literal["zoo", "folder", "hub"]
    name: str
    folder: Path | None = None
    change: str = ""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The configuration and the weights; none for the Hub, and for what a seed makes."""
        return _files(self.folder, _WEIGHTS)

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files of its tokenizer; none for the Hub."""
        return _files(catalog.TOKENIZER if self.kind == "zoo" else self.folder, _TOKENIZER)


CHANGES = ("untrained", "noise", "permuted", "rotated")


def resolve(ref: str | Path) -> Reference:
    """What `ref` names.  InputError for nothing, for two things, and for what the zoo has not."""
    base, mark, change = str(ref).rpartition("#")
    if mark and change.partition("=")[0] in CHANGES:
        return replace(_unchanged(base), change=change)
    return _unchanged(str(ref))


def _unchanged(name: str) -> Reference:
    path = _path(name)
    if name.startswith(catalog.PREFIX) or name in catalog.names():
        entry = catalog.entry(name)
        if name == entry.name and path.exists():
            raise InputError(
                "model",
                name,
                f"both a model of the zoo and {path.absolute()} have that name",
                f"Write {catalog.PREFIX}{name} for the zoo's, ./{name} for the other.",
            )
        return Reference("zoo", entry.name, entry.folder if entry.trained else None)
    if path.exists():
        return Reference("folder", str(path), path)
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model and not name.startswith((".", "~")):
        return Reference("hub", name)
    raise InputError(
        "model",
        name,
        "there is no such folder, and it is no Hub id (OWNER/NAME)",
        f"Name a folder, a Hub id, or one of the zoo: {zoo()}.",
    )


def _path(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # too long, the home of no user, a character no name has
        raise InputError(
            "model", name, f"it names nothing ({error})", f"Name one of the zoo: {zoo()}."
        ) from error
    return path


def zoo() -> str:
    """The models of the zoo, as messages list them."""
    return ", ".join(catalog.PREFIX + name for name in catalog.names())


def _files(folder: Path | None, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    if folder is None:
        return ()
    matching = (path for pattern in patterns for path in folder.glob(pattern))
    return tuple(sorted(path for path in matching if path.is_file()))
