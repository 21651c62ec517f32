"""What every format is read with: files with named mistakes, weights that are numbers alone.

safetensors hold tensors alone.  A file of `torch.save` is a pickle, which may run code: it is read
with `weights_only=True`, which refuses everything but tensors in plain containers.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats import hub
from homolog.errors import InputError
from homolog.record.atomic import atomic_path, sha256_file

REMEDY = "Remove the folder and train or fetch the dictionary again."


class File:
    """What was read from one file, for errors about a part of it."""

    path: Path

    def refuse(self, part: str, value: object, expected: str, remedy: str = REMEDY) -> NoReturn:
        """InputError about a part of the file."""
        raise InputError(f"{part} in {self.path}", value, f"it must be {expected}", remedy)


class Config(dict[str, Any], File):
    """A JSON object of a file: a configuration, or a part of one."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.path = path

    def table(self, key: str) -> Config:
        """An object inside it, empty where there is none."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, value, "an object")
        return Config(self.path, value or {})

    def name(self, key: str) -> str | None:
        """A name; None where there is none."""
        value = self.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str, default: float = 0.0) -> float:
        """A number, `default` where it is missing or null."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            self.refuse(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false, `default` where it is missing or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return default if value is None else value

    def positive(self, key: str, otherwise: Callable[[], int] | None = None) -> int:
        """A whole number above 0.

        otherwise: where it is missing, null or 0, which then is allowed.
        """
        value = self.get(key)
        if otherwise is not None and not isinstance(value, bool) and value in (None, 0):
            return otherwise()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.refuse(key, value, "a positive integer")
        return value


@dataclass(frozen=True)
class Folder:
    """A folder that holds a dictionary.  `ref` is what the user called it, for errors."""

    path: Path
    ref: str
    origin: hub.Origin | None = None
    """The repository of the Hub that it came from."""
    used: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files read so far, by name."""

    @property
    def names(self) -> tuple[str, str]:
        """Names of the folder above and of the folder itself, "" where unknown."""
        parts = self.origin.folder.split("/") if self.origin else self.path.absolute().parts
        above, own = ["", "", *parts][-2:]
        return above, own

    def json(self, name: str) -> Config:
        """A JSON object; InputError where it is none."""
        path = self.path / name
        try:
            content = parse(path, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("dictionary folder", self.ref, f"{name} is missing", REMEDY) from None
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, f"it must be readable JSON ({error})") from error
        if not isinstance(content, dict):
            raise _damaged(path, "it must hold a JSON object")
        self.used[name] = sha256_file(path)
        return Config(path, content)

    def beside(self, name: str) -> Config:
        """A JSON object, empty where it is not there; "../NAME" lies in the folder above."""
        path = self.path / name
        return self.json(name) if path.is_file() else Config(path, {})

    def tensors(self, *names: str, checksum: str | None = None) -> Tensors:
        """All tensors of the first of these files that is there, .safetensors or .pt.

        checksum: its SHA-256.
        """
        name = next((name for name in names if (self.path / name).is_file()), None)
        if name is None:
            missing = f"{' or '.join(names)} is missing"
            raise InputError("dictionary folder", self.ref, missing, REMEDY)
        path = self.path / name
        self.used[name] = sha256_file(path)
        if checksum is not None and self.used[name] != checksum:
            raise _damaged(path, "its SHA-256 must be the one in cfg.json")
        if path.suffix == ".safetensors":
            return Tensors(path, *_safetensors(path))
        return Tensors(path, _torch_file(path))


@dataclass(frozen=True)
class Tensors(File):
    """Tensors of one file, by name."""

    path: Path
    values: dict[str, torch.Tensor]
    header: dict[str, str] = field(default_factory=dict)
    """Text that a safetensors file holds beside them."""

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor as it is stored.

        InputError where it is missing, of another shape or type, or not finite.
        """
        if name not in self.values:
            self.refuse(name, "missing", f"there with shape {shape}")
        tensor = self.values[name]
        if tuple(tensor.shape) != shape:
            self.refuse(name, f"of shape {tuple(tensor.shape)}", f"of shape {shape}")
        if not tensor.is_floating_point():
            self.refuse(name, f"of type {tensor.dtype}", "of real numbers")
        if not bool(torch.isfinite(tensor.float()).all()):
            self.refuse(name, "NaN or infinite", "finite everywhere, in float32")
        return tensor

    def integer(self, name: str) -> int:
        """A whole number that is stored as a tensor; InputError where it is none."""
        tensor = self.values[name]
        is_real = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
        if tensor.ndim or is_real:
            stored_as = f"of type {tensor.dtype} and shape {tuple(tensor.shape)}"
            self.refuse(name, stored_as, "a whole number")
        return int(tensor)

    def matrix(self, *names: str) -> tuple[str, tuple[int, int]]:
        """Which of these matrices the file holds, and its shape."""
        name = next((name for name in names if name in self.values), None)
        if name is None:
            self.refuse(names[0], "missing", "there")
        shape = tuple(self.values[name].shape)
        if len(shape) != 2:
            self.refuse(name, f"of shape {shape}", "a matrix")
        return name, (shape[0], shape[1])

    def norms(self, name: str, W_dec: torch.Tensor, expected: str) -> torch.Tensor:
        """Norms of the rows of W_dec, as the file calls it; InputError where one is 0."""
        norms = W_dec.double().norm(dim=1)
        if not bool((norms > 0).all()):
            self.refuse(name, "with a row of norm 0", expected)
        return norms

    def only(self, *names: str) -> None:
        """InputError where the file holds any other tensor: it is another kind than it says."""
        if extra := sorted(set(self.values) - set(names)):
            known = f"of this kind, which has {', '.join(names)} alone"
            self.refuse("tensors", ", ".join(extra), known)


@dataclass(frozen=True)
class Format:
    """One library's way to store a dictionary."""

    name: str
    library: str
    """As people call it."""
    configs: tuple[str, ...]
    """Names that its configuration file may have."""
    recognises: Callable[[Config], bool]
    """Whether a configuration in a file of such a name is of this format."""
    weights: Callable[[Config], tuple[str, ...]]
    """Files that may hold the weights, first choice first."""
    read: Callable[[Folder, Config], SparseAutoencoder]
    write: Callable[[SparseAutoencoder, Path], list[Path]]
    beside: tuple[str, ...] = ()
    """Small files beside the configuration that may say more; ".." is the folder above."""


def parse(path: Path, text: str) -> Any:
    """A JSON value, with null for NaN and infinity, which JSON does not know; else InputError."""
    try:
        content = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        # halves of letters cannot be written again
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it must be readable JSON ({error})") from error
    return content


def write_tensors(
    weights: Path, config: Path, tensors: Mapping[str, torch.Tensor], header: str | None = None
) -> None:
    """Write the weights of a dictionary as safetensors, and take its old configuration away.

    header: our facts, where they stand beside the tensors.
    """
    config.unlink(missing_ok=True)
    metadata = {"format": "pt"} | ({} if header is None else {"homolog": header})
    with atomic_path(weights) as partial:
        save_file({name: w.contiguous() for name, w in tensors.items()}, partial, metadata)


def _damaged(path: Path, requirement: str) -> InputError:
    return InputError("dictionary file", str(path), requirement, REMEDY)


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, f"it must be safetensors ({error})") from error


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            # of protocols that nobody writes: the file is damaged, and is refused
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            "dictionary file",
            str(path),
            f"only tensors are read from a pickle, and this holds more or is damaged ({words})",
            "Save its state_dict() alone with torch.save, where you trust it.",
        ) from error
    is_named = isinstance(content, dict)
    if not is_named or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise _damaged(path, "it must be a state_dict: names with tensors")
    return {str(name): tensor.detach() for name, tensor in content.items()}
