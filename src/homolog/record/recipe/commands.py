"""What commands beside a study decide: circuits alone, dictionaries alone, their measurement."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from homolog.record.layers import ALL, STREAM_AFTER, Layers
from homolog.record.names import model_name
from homolog.record.recipe.dictionaries import Dictionaries
from homolog.record.recipe.machine import Machine, RunSettings
from homolog.record.recipe.meaning import Circuits
from homolog.record.recipe.models import WindowBeginning
from homolog.record.recipe.text import SinkMask, TextSource


class CircuitRecipe(WindowBeginning):
    """Circuits of some models, without dictionaries and matches."""

    name: str
    """Of the run."""

    models: tuple[str, ...] = Field(min_length=1)
    """Zoo names, folders, GGUF files or Hub ids."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    circuits: Circuits = Field(default_factory=Circuits)
    run: RunSettings = Field(default_factory=RunSettings)


class SaeRecipe(Dictionaries, TextSource, SinkMask, WindowBeginning, Machine):
    """Dictionaries of the residual stream after some blocks of one model, on their own."""

    model_config = ConfigDict(extra="allow")

    model: str
    """Zoo name, folder, GGUF file or Hub id."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    layers: Layers = ALL
    """Blocks after which the residual stream is read: all, numbers as 0,3,5-7, every so many
    ("every 4"), or depths as shares of the blocks passed ("0.25, 0.5").
    """

    site: str = STREAM_AFTER
    """Place of a block whose values the dictionaries are of: resid, resid_pre, resid_mid, attn_out,
    mlp_out, mixer_out; what a model has depends on its architecture (docs/sites.md).
    """

    text: str = "zoo:demo"
    """zoo:demo, a .txt, .jsonl or .parquet file, a folder, or hf:DATASET."""

    heldout: int = Field(default=16_384, ge=1)
    """Tokens of the text that only measure quality."""

    tokens: int = Field(default=1_048_576, ge=1)
    """Tokens every dictionary sees; the text is read again, in a new order, as often as needed."""

    seeds: int = Field(default=2, ge=1)
    """Dictionaries of each layer, which differ in their initial weights."""

    @property
    def name(self) -> str:
        """The model's name in tables and folders: "mamba-s0"."""
        return model_name(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the dictionaries of a layer, as those of a study: "sae", "seed1", ..."""
        return ("sae", *(f"seed{number}" for number in range(1, self.seeds)))


class EvaluationRecipe(TextSource, WindowBeginning, Machine):
    """What a dictionary is measured on."""

    sae: str
    """Folder of a dictionary, of any format, or hf:OWNER/NAME/FOLDER."""

    model: str | None = None
    """The model it is of; that of the file by default."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    layer: int | None = Field(default=None, ge=0)
    """Its layer; that of the file by default."""

    site: str | None = None
    """The place of the block that it is of; that of the file by default."""

    text: str | None = None
    """A source of text; by default what was held out in training, else zoo:demo."""

    tokens: int = Field(default=16_384, ge=1)
    """Tokens of a --text."""

    sinks: Literal["auto", "mask", "keep"] = "auto"
    """Whether sinks are left out: as in its training where its file is one of ours, else where its
    layer has them (auto), those of its layer all the same (mask), or not (keep).
    """
