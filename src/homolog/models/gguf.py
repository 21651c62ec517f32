"""A model in one GGUF file, the format of llama.cpp: read through transformers, dequantised.

The file holds everything: configuration, tokenizer, and weights in blocks of 4 to 8 bits with their
scales.  Each weight becomes the float32 number that its block stands for; a model asked for in
another dtype is rounded after that.  Transformers reads the architectures that it lists in
`transformers.integrations.ggml`, with the packages `gguf` and `accelerate`.

What it reads over is refused here.  Of most architectures that is the stretching of rotary
frequencies, which Llama 3.1 and later files hold as a tensor rope_freqs.weight, others as settings
rope.scaling: without it every pass would be a little wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import transformers
from transformers.utils import logging
from transformers.utils.import_utils import is_accelerate_available, is_gguf_available

from homolog.errors import InputError
from homolog.models.gguf_header import GgufHeader, read_header, require_tensors
from homolog.models.guards import planned
from homolog.models.positions import rope_types
from homolog.reference import GGUF

UNREAD = "Upgrade transformers and gguf, fetch the file again, or take the model's safetensors."
OF_FLOATS = "Take a file of another type (Q4_K_M, Q8_0, F16), or upgrade gguf."
_MAGIC = b"GGUF"
_STRETCHED = "rope.scaling.type"
_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def is_gguf(ref: str) -> bool:
    """Whether `ref` is the path of a GGUF file."""
    return ref.lower().endswith(GGUF) and Path(ref).is_file()


def as_pretrained(ref: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for a model: of a GGUF file, its folder and its name."""
    if not is_gguf(ref):
        return ref, dict(options)
    path = Path(ref)
    return str(path.parent), {**options, "gguf_file": path.name}


def dequantised(ref: str) -> dict[str, Any]:
    """The option by which transformers leaves no weight of a GGUF file in its blocks."""
    if not is_gguf(ref):
        return {}
    config = transformers.GgufConfig(gguf_file=Path(ref).name, dequantize=True)
    return {"quantization_config": config}


@contextmanager
def read_well(ref: str) -> Iterator[None]:
    """While a GGUF file is read: once, with one table of names, and a bar where bars are shown.

    Transformers reads the whole header anew for the configuration, the tokenizer and the weights,
    and asks the package gguf for the table anew for every module of a model; each takes longer than
    the weights.  And its bar for these files is not one of those that can be turned off.
    """
    if not is_gguf(ref):
        yield
        return
    package: Any = import_module("gguf")
    reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    before = package.get_tensor_name_map, package.GGUFReader, reading.tqdm
    if hasattr(before[1], "cache_info"):  # within another
        yield
        return
    package.get_tensor_name_map, reading.tqdm = cache(before[0]), logging.tqdm
    package.GGUFReader = cache(_plain(before[1]))
    try:
        yield
    finally:
        package.get_tensor_name_map, package.GGUFReader, reading.tqdm = before


def _plain(reader: Any) -> Any:
    """The package's reader over plain arrays: slices of memory maps take twice as long to make."""

    class PlainReader(reader):
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(numpy.ndarray)

    return PlainReader


def require_gguf(path: Path) -> None:
    """InputError unless the file is GGUF, and the packages that read it are there."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        requirement = f"it cannot be read ({error.strerror})"
        raise InputError("model", str(path), requirement, "Give this user access to it.") from None
    if start != _MAGIC:
        requirement = f"it is no GGUF file: it begins with {start!r}, not with {_MAGIC!r}"
        raise InputError("model", str(path), requirement, "Fetch it again.")
    header = read_header(path)
    present = {
        "gguf": is_gguf_available(),
        "accelerate": is_accelerate_available(),
        "a newer transformers": hasattr(transformers, "GgufConfig"),
    }
    if missing := [package for package, there in present.items() if not there]:
        requirement = f"GGUF files are read with packages that are not here: {', '.join(missing)}"
        remedy = "Install them: pip install --upgrade 'homolog[gguf]'."
        raise InputError("model", str(path), requirement, remedy)
    package: Any = import_module("gguf")
    blocks = {int(kind): sizes for kind, sizes in package.GGML_QUANT_SIZES.items()}
    require_tensors(path, header, blocks)
    _require_floats(path, header, package)


def _require_floats(path: Path, header: GgufHeader, package: Any) -> None:
    """InputError for a type of blocks that the package gguf does not turn into floats."""
    for kind, tensor in {tensor.kind: tensor for tensor in header.tensors}.items():
        named = package.GGMLQuantizationType(kind)
        n_bytes = package.GGML_QUANT_SIZES[named][1]
        try:
            package.dequantize(numpy.zeros((1, n_bytes), numpy.uint8), named)
        except NotImplementedError:
            requirement = f"its tensor {tensor.name} is of the type {named.name}"
            no_floats = f"{requirement}, which the package gguf does not turn into floats"
            raise InputError("model", str(path), no_floats, OF_FLOATS) from None


def require_as_many(path: Path, config: Any) -> None:
    """InputError where the settings ask for many more numbers than the tensors hold.

    That is before any memory is taken for them; which weights are missing is told later.
    """
    n_planned = sum(weight.numel() for weight in planned(config).parameters())
    n_stored = sum(tensor.n_numbers for tensor in read_header(path).tensors)
    if n_planned > 2 * n_stored:
        requirement = f"its settings ask for {n_planned} numbers, and its tensors hold {n_stored}"
        raise InputError("model", str(path), requirement, "Fetch it again.")


def require_all_read(path: Path, hf: Any) -> None:
    """InputError where the file holds more numbers than the model, or other rotary frequencies."""
    header = read_header(path)
    config = hf.config.get_text_config(decoder=True)
    default = rope_types(getattr(config, "rope_parameters", None)) <= {"default"}
    if header.of_architecture(_STRETCHED) not in (None, "none") and default:
        named = f"{header.settings['general.architecture']}.{_STRETCHED}"
        requirement = f"transformers does not read its rotary frequencies ({named})"
        raise InputError("model", str(path), requirement, UNREAD)
    stored = {tensor.name: tensor.n_numbers for tensor in header.tensors}
    if config.tie_word_embeddings:
        stored.pop("output.weight", None)  # a copy
    n_stored = sum(stored.values())
    n_held = sum({value.data_ptr(): value.numel() for value in hf.state_dict().values()}.values())
    if n_stored > n_held:
        rope = [name for name in _ROPE if name in stored]
        named = f", {rope[0]} among them" if rope else ""
        counted = f"its tensors hold {n_stored} numbers{named}"
        requirement = f"{counted}, and transformers reads {n_held} of them"
        raise InputError("model", str(path), requirement, UNREAD)
