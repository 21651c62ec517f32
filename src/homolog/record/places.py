"""Where everything of a run lies: the only code that knows these names.

run.json                        recipe, its hash, versions, machine, stages with their checksums
saes/MODEL[@LABEL]/LAYER/       dictionaries
features/MODEL[@LABEL]/LAYER/   sparse activations
sinks/MODEL.safetensors         places of the matched text that are masked, where a model has such
*.parquet  TABLE/MODEL/         tables
null/COMPARISON.safetensors     the null of a calibrated comparison
cells/NAME/                     of a grid: the run of each cell
cache/                          what is removed when the run ends
report/                         pages and charts
"""

from __future__ import annotations

import shutil
from pathlib import Path

from homolog.record.names import folder_name
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import Table


class Places:
    """The paths of a run in the folder `path`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def run_json(self) -> Path:
        """The record of the run."""
        return self.path / "run.json"

    def table(self, table: Table | str, model: str = "", layer: int = 0) -> Path:
        """A table; of one per layer, that of a layer of a model."""
        if isinstance(table, Table) and table.per_layer:
            return self.path / table.name / folder_name(model) / f"{layer}.parquet"
        return self.path / f"{table.name if isinstance(table, Table) else table}.parquet"

    def folder_of(self, table: Table) -> Path:
        """The file of a table, or the folder with its files."""
        return self.path / table.name if table.per_layer else self.table(table)

    def null_file(self, comparison: str) -> Path:
        """What chance finds in a calibrated comparison, by its key (`Planned.key`)."""
        return self.path / "null" / f"{comparison}.safetensors"

    @property
    def vocabulary(self) -> Path:
        """The text of every token id, a JSON list."""
        return self.vocabulary_of("")

    def vocabulary_of(self, text: str) -> Path:
        """That of another tokenizer than the first; text: its name (`RunFolder.text_of`)."""
        return self.path / f"vocabulary{'-' if text else ''}{text}.json"

    @property
    def report_folder(self) -> Path:
        """The pages and charts."""
        return self.path / "report"

    def cell_folder(self, name: str) -> Path:
        """The run folder of a cell of a grid."""
        return self.path / "cells" / name

    @property
    def cache_folder(self) -> Path:
        """What may be removed when the run has ended."""
        return self.path / "cache"

    def sae_folder(self, model: str, layer: int, label: str = MAIN_LABEL) -> Path:
        """Folder of a dictionary: saes/MODEL/LAYER, or saes/MODEL@LABEL/LAYER for other labels."""
        return self._layer_folder("saes", model, layer, label)

    def feature_folder(self, model: str, layer: int, label: str = MAIN_LABEL) -> Path:
        """Folder of the sparse activations of one dictionary, named like `sae_folder`."""
        return self._layer_folder("features", model, layer, label)

    def crosscoder_folder(self, a: str, b: str) -> Path:
        """Folder of the crosscoder of two models."""
        return self.path / "crosscoders" / folder_name(a) / folder_name(b)

    def sinks_file(self, model: str) -> Path:
        """Where a model's sinks are in the matched text."""
        return self.path / "sinks" / f"{folder_name(model)}.safetensors"

    def residuals_folder(self, model: str) -> Path:
        """Folder, in the cache, of a model's residuals."""
        return self.cache_folder / "residuals" / folder_name(model)

    def windows_folder(self, use: str, text: str = "") -> Path:
        """Folder, in the cache, of the text for a use; text: as other tokenizers cut it."""
        return self.cache_folder / "windows" / (f"{use}@{text}" if text else use)

    def units_folder(self, texts: tuple[str, str], model: str, layer: int, label: str) -> Path:
        """Folder, in the cache, of features by the units of two tokenizers."""
        pair = self.cache_folder / "units" / "-".join(text or "first" for text in texts)
        return pair / folder_name(f"{model}@{label}") / str(layer)

    def drop_residuals(self, model: str) -> None:
        """Remove a model's residuals from the cache."""
        shutil.rmtree(self.residuals_folder(model), ignore_errors=True)

    def drop_cache(self) -> None:
        """Remove the cache folder."""
        shutil.rmtree(self.cache_folder, ignore_errors=True)

    def _layer_folder(self, kind: str, model: str, layer: int, label: str) -> Path:
        name = folder_name(model)
        name = name if label == MAIN_LABEL else f"{name}@{folder_name(label)}"
        return self.path / kind / name / str(layer)
