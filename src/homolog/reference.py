"""What a model's reference names: a model of the zoo, a folder or a Hub id.  Loads nothing.

zoo:NAME      the zoo's; NAME alone too, where no file or folder has that name
a path        of a folder with config.json and *.safetensors, of a GGUF file, or of a folder that
              holds one and no safetensors; "~" is the home folder
OWNER/NAME    a repository of the Hub, where there is no such folder
REF#CHANGE    that model changed for a control: "#untrained=1", "#noise=0.1", "#permuted",
              "#rotated", or for a rehearsal: "#blocks=2" (`models.variants`)
"""

from __future__ import annotations

import re
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
GGUF = ".gguf"
_PART = r"-\d{5}-of-\d{5}\.gguf"
_ORGANISATIONS = {
    r"(gpt2|gpt2-medium|gpt2-large|gpt2-xl)": "openai-community",
    r"distilgpt2": "distilbert",
    r"(pythia|gpt-neo|gpt-j|gpt-neox)-.+": "EleutherAI",
    r"mamba-.+-hf": "state-spaces",
    r"opt-.+": "facebook",
    r"bloom-.+": "bigscience",
    r"smollm[23]?-.+": "HuggingFaceTB",
    r"qwen[\d.]*-.+": "Qwen",
    r"gemma-.+": "google",
    r"llama-\d.*": "meta-llama",
    r"(mistral|mixtral)-.+": "mistralai",
    r"olmo-.+": "allenai",
    r"phi-.+": "microsoft",
    r"rwkv-4-.+": "RWKV",
    r"falcon-mamba-.+": "tiiuae",
}
"""Who publishes the models that are often named without their owner."""


@dataclass(frozen=True)
class Reference:
    """A model by its name (without "zoo:"), its path or its id.

    folder: where its weights lie, if that is known; of a GGUF file its own path.
    change: what is done to it; "" for nothing.
    """

    kind: Literal["zoo", "folder", "hub"]
    name: str
    folder: Path | None = None
    change: str = ""

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that is all of it: weights, configuration and tokenizer."""
        return None if self.folder is None else gguf_file(self.folder)

    @property
    def source(self) -> str:
        """What its files are read from: a GGUF file, a folder, or the id on the Hub."""
        return str(self.gguf or self.folder or self.name)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The configuration and the weights; none for the Hub, and for what a seed makes."""
        return (self.gguf,) if self.gguf else _files(self.folder, _WEIGHTS)

    @property
    def configuration_files(self) -> tuple[Path, ...]:
        """Those of the configuration; none for the Hub, and for what a seed makes."""
        return (self.gguf,) if self.gguf else _files(self.folder, _WEIGHTS[:1])

    @property
    def untrained(self) -> bool:
        """Whether nothing but its configuration is taken of it."""
        return self.change.partition("=")[0] == "untrained"

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files of its tokenizer; none for the Hub."""
        if self.gguf:
            return (self.gguf,)
        folder = catalog.entry(self.name).tokenizer if self.kind == "zoo" else self.folder
        return _files(folder, _TOKENIZER)


CHANGES = ("untrained", "noise", "permuted", "rotated", "blocks")


def resolve(ref: str | Path) -> Reference:
    """What `ref` names.  InputError for nothing, for two things, and for what the zoo has not."""
    base, change = parted(ref)
    return replace(_unchanged(base), change=change)


def parted(ref: str | Path) -> tuple[str, str]:
    """A reference without what is done to the model, and that; "" for nothing."""
    base, mark, change = str(ref).rpartition("#")
    return (base, change) if mark and change.partition("=")[0] in CHANGES else (str(ref), "")


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
    if path.suffix.lower() == GGUF:
        raise InputError("model", name, "there is no such file", "Name a GGUF file that is there.")
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model and not name.startswith((".", "~")):
        return Reference("hub", name)
    raise InputError(
        "model",
        name,
        "there is no such folder, and it is no Hub id (OWNER/NAME)",
        f"{_full_id(name)}Name a folder, a Hub id, or one of the zoo: {zoo()}.",
    )


def _full_id(name: str) -> str:
    """A question that gives the Hub id of a well-known model; "" for other names."""
    for pattern, owner in _ORGANISATIONS.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return f"Is it {owner}/{name}? "
    return ""


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that it holds where it holds no safetensors; None for none.

    InputError for a folder with several, and for a part of a model.
    """
    inside = path.is_dir() and not any(path.glob("*.safetensors*"))
    candidates = sorted(path.iterdir()) if inside else [path]
    files = [file for file in candidates if file.suffix.lower() == GGUF and file.is_file()]
    if parts := [file.name for file in files if re.search(_PART, file.name, re.IGNORECASE)]:
        requirement = f"its GGUF file is one of several parts ({parts[0]}), which are not read"
        remedy = "Make one file of them: llama-gguf-split --merge FIRST_PART WHOLE.gguf"
        raise InputError("model", str(path), requirement, remedy)
    if len(files) > 1:
        named = ", ".join(file.name for file in files)
        requirement = f"the folder holds {len(files)} GGUF files ({named})"
        raise InputError("model", str(path), requirement, f"Name one: {files[0]}.")
    return files[0] if files else None


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
