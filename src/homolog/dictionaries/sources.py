"""Where training reads activations: a shuffled, endless stream of tokens.

All layers of a token come together.

Positions in the stream are addressed, so a resumed training reads on exactly where it stopped.  A
source may hold all activations (`ResidualArrays`), map files of them (`StoredResiduals`) or run a
model as it goes; training only uses the protocol.

A folder of stored residuals, written by `features.write_residuals`:

    LAYER/part-00000.safetensors ...   rows (token, d_model) of one layer; bfloat16 as its bits,
                                       uint16
    manifest.json                      widths, dtype, stream hash, rows and key of every part, and
                                       of every layer the digest of a few rows; written last
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open

from homolog.axes import Activations
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes
from homolog.record.parts import read_part
from homolog.record.receipts import read_receipt

RESIDUALS, RESIDUALS_FORMAT = "residuals", 2


@runtime_checkable
class ActivationSource(Protocol):
    """Shuffled activations of all layers. Special tokens are left out by the source."""

    @property
    def n_layers(self) -> int:
        """Layers served."""
        ...

    @property
    def layer_numbers(self) -> Sequence[int]:
        """The model's number of each layer served: seeds and names follow from it."""
        ...

    @property
    def d_model(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the stream does: a checkpoint is only continued on the same stream."""
        ...

    def read(self, start: int, n_tokens: int) -> Sequence[Activations]:
        """Tokens start to start + n_tokens of the stream: one (n_tokens, d_model) tensor per layer.

        Any float dtype.  Indexing the result may do the work (it is called from several threads,
        each layer once).
        """
        ...

    def sample(self, n_tokens: int) -> Sequence[Activations]:
        """A fixed random sample of tokens, to estimate mean and scale; at most n_tokens."""
        ...


@runtime_checkable
class _Rows(Protocol):
    """Activations of one layer, a tensor or something that gathers like one."""

    @property
    def shape(self) -> Sequence[int]: ...

    def index_select(self, dim: int, index: torch.Tensor, /) -> torch.Tensor: ...


class _Gather(Sequence[torch.Tensor]):
    """Rows of each layer, gathered when a layer is asked for."""

    def __init__(self, layers: Sequence[_Rows], rows: torch.Tensor) -> None:
        self.layers, self.rows = layers, rows

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer):  # type: ignore[override]
        return self.layers[layer].index_select(0, self.rows)


class ShuffledRows:
    """The stream over rows that can be gathered, in a new random order every epoch.

    The order is over all documents.  layers: what is served.  numbers: their layer numbers.  rows:
    int64, the rows to use.
    """

    def __init__(
        self,
        layers: Sequence[_Rows],
        numbers: Sequence[int],
        rows: np.ndarray,
        seed: int,
        name: str,
    ) -> None:
        self.layers, self.layer_numbers = layers, list(numbers)
        self.rows, self.seed, self.name = rows, seed, name
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.layers[0].shape[1]

    @property
    def n_tokens(self) -> int:
        """Different tokens held."""
        return self.rows.size

    @property
    def fingerprint(self) -> str:
        return sha256_bytes(f"{self.name} {self.seed} {self.rows.size}", *self._probes())

    def _probes(self) -> list[str]:
        """`probe_digest` of every layer that is held, served or not."""
        raise NotImplementedError

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            rng = generator(self.seed, self.name, "epoch", epoch)
            self._order = epoch, rng.permutation(self.rows)
        return self._order[1]

    def read(self, start: int, n_tokens: int) -> Sequence[torch.Tensor]:
        parts: list[np.ndarray] = []
        while n_tokens > 0:
            epoch, offset = divmod(start, self.rows.size)
            part = self._epoch(epoch)[offset : offset + n_tokens]
            parts.append(part)
            start, n_tokens = start + part.size, n_tokens - part.size
        return _Gather(self.layers, torch.from_numpy(np.concatenate(parts)))

    def sample(self, n_tokens: int) -> Sequence[torch.Tensor]:
        order = generator(self.seed, self.name, "sample").permutation(self.rows)[:n_tokens]
        return _Gather(self.layers, torch.from_numpy(np.sort(order)))


class ResidualArrays(ShuffledRows):
    """Activations held in memory or memory-mapped: (layer, token, d_model), any float dtype.

    The tokens are read in a new random order every epoch, over all documents; the order follows
    from `seed`. `keep` (token, bool) marks the tokens to use (False at special tokens).  The layers
    are numbered from 0.
    """

    def __init__(
        self,
        layers: torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray],
        *,
        seed: int,
        keep: np.ndarray | torch.Tensor | None = None,
        name: str = "",
    ) -> None:
        tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in layers]
        shapes = {tuple(a.shape) for a in tensors}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            requirement = "all must be (token, d_model) alike"
            raise InputError("layers", sorted(shapes), requirement, "Check the capture.")
        n_tokens = tensors[0].shape[0]
        kept = np.ones(n_tokens, bool) if keep is None else np.asarray(keep, bool).reshape(-1)
        if kept.size != n_tokens:
            requirement = f"it must mark {n_tokens} tokens"
            raise InputError("keep", kept.size, requirement, "Flatten the window mask.")
        rows = np.flatnonzero(kept)
        if rows.size < 2:
            requirement = "two tokens at least are needed"
            raise InputError("keep", rows.size, requirement, "Use a longer corpus.")
        super().__init__(tensors, range(len(tensors)), rows, seed, name)

    def _probes(self) -> list[str]:
        return [probe_digest(layer, self.rows) for layer in self.layers]


class StoredResiduals(ShuffledRows):
    """Activations in a folder that `features.write_residuals` wrote, memory-mapped.

    Serves all layers or some.  Gives the stream of `ResidualArrays` over the same values, seed and
    name, with the same fingerprint, however the tokens were cut into parts and whichever layers are
    served: dictionaries trained group by group of layers are those trained at once, byte for byte.
    What is held in memory is the order of an epoch (8 bytes a token) and what the system keeps of
    the files.  The parts of the served layers are read once and checked.  Raises InputError naming
    a part that is missing or damaged (it is removed, so that writing again makes it again), and
    when a layer is not there.
    """

    def __init__(
        self, folder: Path | str, *, seed: int, name: str = "", layers: Sequence[int] | None = None
    ) -> None:
        folder = Path(folder)
        manifest = _read_manifest(folder / "manifest.json")
        self.stream_hash: str = manifest["stream_hash"]
        stored = manifest.get("layers") or range(manifest["n_layers"])
        numbers = stored if layers is None else list(layers)
        if not numbers or not set(numbers) <= set(stored):
            requirement = f"those that are stored are {', '.join(map(str, stored))}"
            raise InputError("layers", list(numbers), requirement, "Choose of those.")
        served = [StoredLayer(folder, number, manifest) for number in numbers]
        for layer in served:
            layer.check()
        self._stored_probes: list[str] = manifest["probes"]
        super().__init__(served, numbers, np.arange(served[0].shape[0]), seed, name)

    def _probes(self) -> list[str]:
        return self._stored_probes


class StoredLayer:
    """Rows of one stored layer; its parts are mapped when first read."""

    def __init__(self, folder: Path, layer: int, manifest: dict) -> None:
        self.parts = [residual_part(folder, layer, i) for i in range(len(manifest["parts"]))]
        self.keys = [part["key"] for part in manifest["parts"]]
        self.starts = np.cumsum([0] + [part["tokens"] for part in manifest["parts"]])
        self.shape = (int(self.starts[-1]), int(manifest["d_model"]))
        self.dtype = getattr(torch, manifest["dtype"])
        self.mapped: dict[int, torch.Tensor] = {}

    def check(self) -> None:
        for path, key in zip(self.parts, self.keys, strict=True):
            if read_part(path, key) is None:
                remedy = "Write the residuals again: only what is missing is made again."
                raise InputError("residuals part", str(path), "it must be there and whole", remedy)

    def index_select(self, dim: int, index: torch.Tensor, /) -> torch.Tensor:
        """The rows `index`, in its order: (rows, d_model).  dim is 0."""
        assert dim == 0
        part_of = np.searchsorted(self.starts, index.numpy(), side="right") - 1
        order = np.argsort(part_of, kind="stable")
        ends = np.searchsorted(part_of[order], np.arange(len(self.parts) + 1))
        rows = torch.empty(len(index), self.shape[1], dtype=self.dtype)
        for part in np.flatnonzero(np.diff(ends)):
            places = torch.from_numpy(order[ends[part] : ends[part + 1]])
            of_part = index[places] - int(self.starts[part])
            rows[places] = self._part(int(part)).index_select(0, of_part)
        return rows

    def _part(self, number: int) -> torch.Tensor:
        if number not in self.mapped:
            # maps the file, reads nothing yet
            with safe_open(self.parts[number], framework="pt") as file:
                self.mapped[number] = file.get_tensor("x").view(self.dtype)
        return self.mapped[number]


def probe_digest(layer: _Rows, rows: np.ndarray) -> str:
    """SHA-256 of some 64 of the rows used, spread over the stream, as float32."""
    probe = torch.from_numpy(rows[:: max(1, rows.size // 64)])
    return hashlib.sha256(layer.index_select(0, probe).float().numpy().tobytes()).hexdigest()


def residual_part(folder: Path, layer: int, number: int) -> Path:
    """File of one part of one layer of stored residuals."""
    return folder / str(layer) / f"part-{number:05d}.safetensors"


def _read_manifest(path: Path) -> dict:
    manifest = read_receipt(path, RESIDUALS)
    if manifest is None:
        requirement, remedy = "it must be there and whole", "Write the residuals first."
        raise InputError("residuals manifest", str(path), requirement, remedy)
    if (written := manifest["format"]) != RESIDUALS_FORMAT:
        requirement = f"format {RESIDUALS_FORMAT} is read here"
        raise InputError("residuals format", written, requirement, "Write them again.")
    return manifest
