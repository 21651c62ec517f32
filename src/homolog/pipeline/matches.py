"""One comparison: every pair of layers a task with a file of its own.

A pair of layers depends on nothing but its two layers, so tasks run in any order, here or on a
cluster, and a run that was stopped goes on with the pairs that are missing.  The maximum over
layers is taken when the files are read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from homolog.engine import Engine, Report, Task
from homolog.features.stored import StoredFeatures, open_features
from homolog.matching import Columns, PairMatch, document_exchanges, match_pair, prepare
from homolog.matching.layers import check_layers
from homolog.matching.prepared import ORDERS, Order, store_columns, stored_columns
from homolog.record.atomic import sha256_bytes
from homolog.record.parts import read_part, write_part

K = 2  # partners kept of a pair of layers
FORMAT = 1  # of the files of pairs
_kept: OrderedDict[tuple[str, str], Columns] = (
    OrderedDict()
)  # of this process, least recently used first


def prepare_layer(folder: Path, out: Path, key: str) -> None:
    """Task: prepare a folder's features for matching and write them to `out`, if not there."""
    if any(read_part(out / f"{order}.safetensors", key) is None for order in ORDERS):
        features = open_features(folder)
        name = f"{features.name} layer {features.layer}"
        store_columns(prepare(features.load().matrix, name), out, key)


@lru_cache(maxsize=1)
def _orders(folder: Path, n_exchanges: int, seed: int) -> np.ndarray:
    """Orders of the tokens under each exchange: the same for all layers of the same documents."""
    document = open_features(folder).document
    return (
        document_exchanges(document, n_exchanges, seed)
        if n_exchanges
        else np.empty((0, len(document)), np.int64)
    )


def match_layers(
    a: PreparedLayer,
    b: PreparedLayer,
    out: Path,
    key: str,
    exchanges: tuple[int, int],
    threads: int | None,
    device: str,
    room: int,
) -> None:
    """Task: match two prepared layers and write the result to `out`, unless it is there.

    exchanges: how many exchanges of documents for the null, and from which seed.  room: bytes that
    this process may keep of layers it has read, for the next tasks.
    """
    if read_part(out, key) is not None:
        return
    on_gpu = device.startswith("cuda")
    left = a.on_gpu(room) if on_gpu else a.columns("by_column", room)
    right = b.on_gpu(room) if on_gpu else b.columns("packed", room)
    orders = _orders(a.folder, *exchanges)
    pair = match_pair(left, right, K, exchanges=orders, threads=threads, device=device)
    write_part(out, pair.arrays(), key)


@dataclass(frozen=True)
class PreparedLayer:
    """A layer's features and where their prepared columns lie."""

    folder: Path
    prepared: Path
    key: str

    def columns(self, order: Order, room: int) -> Columns:
        """Its prepared columns in one order of entries."""
        return _keep((self.key, order), room, lambda: self._read(order))

    def on_gpu(self, room: int) -> Columns:
        """Columns from which a device makes both orders itself."""
        return _keep(
            (self.key, "all"), room, lambda: prepare(open_features(self.folder).load().matrix)
        )

    def _read(self, order: Order) -> Columns:
        columns = stored_columns(self.prepared, self.key, order)
        if columns is None:  # damaged since: what was prepared is made again
            prepare_layer(self.folder, self.prepared, self.key)
            columns = stored_columns(self.prepared, self.key, order)
            assert columns is not None
        return columns


def _keep(name: tuple[str, str], room: int, make: Callable[[], Columns]) -> Columns:
    if name in _kept:
        _kept.move_to_end(name)
    else:
        _kept[name] = make()
        while len(_kept) > 2 and sum(columns.n_bytes for columns in _kept.values()) > room:
            _kept.popitem(last=False)
    return _kept[name]


@dataclass(frozen=True)
class Matched:
    """A comparison with all pairs finished: the layers of both sides, and of each pair its file and
    key.
    """

    layers_a: list[StoredFeatures]
    layers_b: list[StoredFeatures]
    files: list[list[tuple[Path, str]]]

    def pairs(self) -> list[list[PairMatch]]:
        """All pairs, read from their files."""
        return [[read_pair(*file) for file in row] for row in self.files]


def read_pair(path: Path, key: str) -> PairMatch:
    """A finished pair.  RuntimeError when its file has been damaged since."""
    arrays = read_part(path, key)
    if arrays is None:
        raise RuntimeError(
            f"{path} was damaged after it was written: start the run again, and it is made anew"
        )
    return PairMatch.from_arrays(arrays)


@dataclass(frozen=True)
class Comparer:
    """Matches two sides, layer by layer, by tasks of an engine.

    cache: folder for prepared columns and finished pairs. room: bytes that a task may keep.
    threads, device: as in `max_pearson`.
    """

    engine: Engine
    cache: Path
    room: int
    threads: int | None
    device: str

    def match(
        self,
        folders_a: Sequence[Path],
        folders_b: Sequence[Path],
        pairs: Path,
        exchanges: tuple[int, int],
        progress: Report,
    ) -> Matched:
        """The layers of both sides and the match of each pair; files of finished pairs are kept in
        `pairs`.

        exchanges: how many exchanges of documents for the null, and from which seed.
        Raises InputError when the folders are not of one token stream, or one is damaged.
        """
        layers = layers_a, layers_b = [
            [open_features(f) for f in folders] for folders in (folders_a, folders_b)
        ]
        check_layers(layers_a, layers_b)
        a, b = ([self.prepared(layer) for layer in side] for side in layers)
        if not self.device.startswith("cuda"):
            calls = [
                {"folder": p.folder, "out": p.prepared, "key": p.key}
                for p in dict.fromkeys([*a, *b])
            ]
            self.engine.map(
                [Task(prepare_layer, call, f"prepare {call['folder']}") for call in calls]
            )
        names = {
            (i, j): (pairs / f"{i}-{j}.safetensors").absolute()
            for i in range(len(a))
            for j in range(len(b))
        }
        keys = {
            (i, j): sha256_bytes(f"pair {FORMAT} {K} {exchanges} {a[i].key} {b[j].key}")
            for i, j in names
        }
        common = {
            "exchanges": exchanges,
            "threads": self.threads,
            "device": self.device,
            "room": self.room,
        }
        tasks = [
            Task(
                match_layers,
                common | {"a": a[i], "b": b[j], "out": names[i, j], "key": keys[i, j]},
                f"match layer {i} of {layers_a[0].name} with layer {j} of {layers_b[0].name}",
            )
            for i, j in _in_blocks(layers_a, len(b), self.room)
        ]
        try:
            self.engine.map(tasks, progress)
        finally:
            _kept.clear()
        files = [[(names[i, j], keys[i, j]) for j in range(len(b))] for i in range(len(a))]
        return Matched(layers_a, layers_b, files)

    def prepared(self, layer: StoredFeatures) -> PreparedLayer:
        """Where the layer's columns lie; the name follows from the bytes of its features."""
        files = [entry["sha256"] for entry in layer.manifest["parts"]]
        key = sha256_bytes(f"columns {FORMAT} {layer.kind} {layer.n_features}", *files)
        return PreparedLayer(
            layer.folder.absolute(), (self.cache / "columns" / key[:16]).absolute(), key
        )

    def columns(self, layer: StoredFeatures) -> Columns:
        """The layer's columns, by column; for work in this process that meets layers in turn.  See
        `forget`.
        """
        return self.prepared(layer).columns("by_column", self.room)

    def forget(self) -> None:
        """Let go of what this process has read."""
        _kept.clear()


def _in_blocks(layers_a: Sequence[StoredFeatures], n_b: int, room: int) -> list[tuple[int, int]]:
    """All pairs, in blocks of as many layers of A as have room together: each B is read once a
    block.
    """
    largest = max(_expected_bytes(layer) for layer in layers_a)
    block = max(1, room // max(1, largest) - 2)
    return [
        (i, j)
        for first in range(0, len(layers_a), block)
        for j in range(n_b)
        for i in range(first, min(first + block, len(layers_a)))
    ]


def _expected_bytes(layer: StoredFeatures) -> int:
    """Of its columns in one order: 8 bytes an entry, or 4 a value of a dense column."""
    if layer.kind == "neuron":
        return 4 * layer.n_tokens * layer.n_features
    return 8 * int(np.sum(layer.statistics.n_active)) + 16 * layer.n_tokens
