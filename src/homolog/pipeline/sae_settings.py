"""What decides the numbers of `homolog sae train`: one flat, frozen table, kept as the recipe of
its run folder.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from homolog.dictionaries.configs import SETTINGS as KINDS
from homolog.dictionaries.configs import SPARSITY, KindSettings, TrainingConfig, parse_config
from homolog.errors import InputError
from homolog.record.run_folder import folder_name

EXPANSION = 6.0
"""Features per dimension where neither their number nor this is given: 768 for the models that
ship.
"""

MOST_LAYERS = 100_000


class SaeSettings(BaseModel):
    """Dictionaries of the residual stream after some blocks of one model, and the text they learn
    from.

    None stands for a default that depends on the model or the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    """Zoo name, local folder or Hub id."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    layers: tuple[int, ...] | None = None
    """Blocks after which the residual stream is read, ascending; None: all."""

    text: str = "zoo:demo"
    """What `corpus.read_documents` reads."""

    field: str = "text"
    """Name of the text field or column."""

    split: str = "train"
    """Split of a Hugging Face dataset."""

    shuffle: bool = True
    """Put the documents in random order first, which holds the text of files in memory."""

    context: int = Field(default=128, ge=8)
    """Tokens of a window."""

    heldout: int = Field(default=16_384, ge=1)
    """Tokens on which quality is measured; never trained on."""

    kind: Literal["relu", "topk", "batchtopk", "jumprelu", "gated"] = "relu"

    d_sae: int | None = Field(default=None, ge=1)
    """Number of features; or give `expansion`."""

    expansion: float | None = Field(default=None, gt=0)
    """Number of features as a multiple of d_model; or give `d_sae`."""

    l1: float | None = Field(default=None, ge=0)
    """Weight of the L1 penalty (relu, gated)."""

    k: int | None = Field(default=None, ge=1)
    """Features of a token (topk), in the mean (batchtopk)."""

    l0: float | None = Field(default=None, ge=0)
    """Weight of the L0 penalty (jumprelu)."""

    tokens: int = Field(default=1_048_576, ge=1)
    """Tokens every dictionary sees; the text is read again, in a new order, as often as this asks
    for.
    """

    batch: int = Field(default=512, ge=1)
    """Tokens a step."""

    lr: float = Field(default=3e-3, gt=0)
    """Highest step size of Adam."""

    seeds: int = Field(default=2, ge=1)
    """Dictionaries of each layer, which differ in their initial weights."""

    seed: int = Field(default=0, ge=0)
    """Root of every random choice."""

    stream: Literal["auto", "pool", "store"] = "auto"
    """Run the model as its residuals are read, or store them first; auto stores what is read more
    than once.
    """

    pool_tokens: int = Field(default=262_144, ge=1)
    """Tokens among which the residuals of a running model are shuffled."""

    residuals: Literal["float32", "bfloat16"] = "float32"
    """Of a pool, or as they are stored."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which the model runs."""

    device: str = "cpu"

    @field_validator("layers")
    @classmethod
    def _ordered(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if layers is None else tuple(sorted(set(layers)))

    def values(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return self.model_dump(mode="json")

    @property
    def name(self) -> str:
        """The model's name in tables and folders: "mamba-s0"."""
        return folder_name(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the dictionaries of a layer, as those of a study: "sae", "seed1", ..."""
        return ("sae", *(f"seed{number}" for number in range(1, self.seeds)))

    @property
    def sparsity(self) -> float:
        """The setting that decides how sparse the kind is, given or by default."""
        key = SPARSITY[self.kind]
        given = getattr(self, key)
        return float(KINDS[self.kind].model_fields[key].default if given is None else given)

    def chosen_layers(self, n_layers: int) -> list[int]:
        """The layers of a model that has so many.  InputError where it does not have one of them."""
        chosen = list(range(n_layers) if self.layers is None else self.layers)
        if unknown := [layer for layer in chosen if layer not in range(n_layers)]:
            raise InputError(
                "--layers",
                unknown[0],
                f"{self.model} has layers 0 to {n_layers - 1}",
                "Choose of these.",
            )
        return chosen

    def config(self, d_model: int) -> KindSettings:
        """The kind of dictionary for a residual stream of this width."""
        width = self.d_sae or max(1, round((self.expansion or EXPANSION) * d_model))
        key = SPARSITY[self.kind]
        value = int(self.sparsity) if key == "k" else self.sparsity
        return parse_config({"kind": self.kind, "d_sae": width, key: value})

    @property
    def training(self) -> TrainingConfig:
        """How the dictionaries are trained."""
        return TrainingConfig(
            n_tokens=self.tokens, batch_size=self.batch, learning_rate=self.lr, seed=self.seed
        )


def make_settings(**values: Any) -> SaeSettings:
    """Settings from values by name, as the command line gives them.

    Raises InputError, with the option's name, for values that cannot be and for a sparsity of
    another kind.
    """
    try:
        settings = SaeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise InputError(
            _option(field), first["input"], f"it breaks a rule: {first['msg']}", "Change it."
        ) from error
    if settings.d_sae is not None and settings.expansion is not None:
        raise InputError(
            "--expansion",
            settings.expansion,
            "--d-sae says the number of features",
            "Give one of both.",
        )
    if settings.tokens < settings.batch:
        raise InputError(
            "--tokens",
            settings.tokens,
            f"a step takes {settings.batch}",
            "Give more, or less --batch.",
        )
    own, kind = SPARSITY[settings.kind], settings.kind
    for key in ("l1", "k", "l0"):
        given = getattr(settings, key)
        if key != own and given is not None:
            kinds = " or ".join(other for other, name in SPARSITY.items() if name == key)
            raise InputError(
                _option(key),
                given,
                f"it belongs to {kinds}, and --kind is {kind}",
                f"Give {_option(own)}, or --kind {kinds}.",
            )
    if settings.d_sae is not None:
        settings.config(settings.d_sae)  # with an expansion it depends on the model's width
    return settings


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Layers from "0,3,5-7"; None from "all".  Raises InputError."""
    if text.strip() == "all":
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.strip().isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
            raise InputError(
                "--layers",
                text,
                "it must be numbers and ranges, or all",
                "Give for example 0,3,5-7.",
            )
        if int(ends[1]) >= MOST_LAYERS:
            raise InputError(
                "--layers", text, f"no model has {MOST_LAYERS} layers", "Give for example 0,3,5-7."
            )
        found += range(int(ends[0]), int(ends[1]) + 1)
    return tuple(found)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
