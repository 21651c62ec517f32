"""What a kind of dictionary is: everything that training, files and settings ask of one.

A kind must give `Settings`, `sparsity`, `start` and `terms`; it then trains on the CPU and on any
device, by autograd, is saved, loaded and matched.  With `Rules` it takes the fast steps of the CPU
(numba) and of CUDA (Triton), where the gradient is written once, as a function of scalars.

    p = x W_enc + vectors[0],   x' = f W_dec + b_dec,   means over tokens
    L = mean ||x - x'||^2 + weight * penalised + more

x (token, d_model) is centred and scaled to mean norm sqrt(d_model).  torch is imported where it is
used: settings are read without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_serializer, model_validator

from homolog.errors import InputError
from homolog.record.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

Named = Mapping[str, Tensor]
"""Weights by name."""
Form = Literal["plain", "k", "threshold"]
"""Of a trained dictionary: f = max(p, 0); of these a token's k largest; or above thresholds."""


class KindSettings(Settings):
    """What every kind has; its subclass adds `kind`, a literal that is its name, and its own."""

    d_sae: int = Field(default=768, ge=1)
    """Number of features."""

    freeze_decoder: bool = False
    """Keep the decoder at its random start and learn the encoder alone: a control, not a dictionary
    of the model.
    """

    freeze_encoder: bool = False
    """Keep the encoder's matrix at its random start and learn the rest: a control
    (arXiv 2602.14111).
    """

    decoder_cosine: float | None = Field(default=None, gt=0, lt=1)
    """Keep each decoder row at a cosine of at least so much with its random start, as 0.8 in
    arXiv 2602.14111: a control, between a frozen decoder and a free one.
    """

    target_l0: float | None = Field(default=None, gt=0)
    """Features active on a token that every dictionary is to have, in place of the setting that
    decides how sparse it is: that is k, or the weight of a penalty, which is then found for each.
    """

    kind: str
    """Name of the kind."""

    found: ClassVar[str | None] = None
    """The setting that `target_l0` finds: the weight of the penalty."""

    @property
    def is_held(self) -> bool:
        """Whether some of its directions are kept at, or near, their random start."""
        return self.freeze_decoder or self.freeze_encoder or self.decoder_cosine is not None

    @model_validator(mode="after")
    def _one_sparsity(self) -> "KindSettings":
        if self.target_l0 is None:
            return self
        if self.found is None:
            requirement = f"the kind {self.kind} has no penalty whose weight could be found"
            raise InputError("target_l0", self.target_l0, requirement, "Set its sparsity itself.")
        if self.found in self.model_fields_set:
            requirement = f"it finds {self.found}, which is given as well"
            raise InputError("target_l0", self.target_l0, requirement, "Give one of both.")
        if getattr(self, f"{self.found}_warmup", 0.0) > 0.5:
            requirement = f"the weight is found after {self.found}_warmup, at most half the steps"
            remedy = f"Shorten {self.found}_warmup."
            raise InputError("target_l0", self.target_l0, requirement, remedy)
        if self.target_l0 > self.d_sae:
            requirement = f"there are {self.d_sae} features"
            remedy = "Lower it, or raise the number of features (--d-sae, --expansion)."
            raise InputError("target_l0", self.target_l0, requirement, remedy)
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: Any) -> dict[str, Any]:
        """Without the one of the two settings of sparsity that decides nothing."""
        idle = "target_l0" if self.target_l0 is None else self.found
        return {name: value for name, value in handler(self).items() if name != idle}


class Start(NamedTuple):
    """Where a training begins: encoder columns of this norm, in the decoder rows' directions."""

    norm: float
    vectors: tuple[float, ...] = (0.0,)
    """The value of every feature, for each of the kind's vectors."""


class Terms(NamedTuple):
    """Parts of the loss of a batch, differentiable by autograd."""

    features: Tensor
    """f, (token, d_sae), none below 0."""
    penalised: Tensor | float = 0.0
    """What the weight of the penalty multiplies; mean over tokens."""
    more: Tensor | float = 0.0
    """What is added as it is; mean over tokens."""


class Encoder(NamedTuple):
    """The encoder in the common form, f = max(p, 0) where p = x W_enc + b_enc > threshold."""

    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor | None = None


@dataclass(frozen=True)
class Auxiliary:
    """A loss by which dead features model the error of a token: `k` of them, at this weight."""

    k: int
    weight: float


@dataclass(frozen=True)
class Rules:
    """How a step computes an entry, a feature of a token, so that only active ones are touched.

    `magnitude` and `slopes` are functions of float32 scalars that call nothing but `where`:
    each engine compiles them for itself (`training.rules`).  a and b are the kind's second and
    third vector at the feature, as `coefficients` gives them.
    """

    slopes: Callable[..., tuple[Any, ...]]
    """(p, f, h, twin, norm, a, b, penalty, first, second): the slope in x W_enc, those in the
    first, second and third vector, and what the penalty weighs.  f: what `magnitude` gave, cut at 0
    or not.  h: the slope of the loss in f.  twin: that in p, where p is decoded too.  norm: of the
    decoder row.  penalty: its weight over the number of tokens.
    """
    magnitude: Callable[..., Any] | None = None
    """(q, p, a, b): the feature where p > 0, with q = x W_enc; values below 0 stand for 0.  None:
    p itself.
    """
    select: Literal["above", "largest", "of batch"] = "above"
    """A token's entries: those above 0, its `k` largest, or the n `k` largest of n tokens."""
    twin: bool = False
    """Decode p too, for a term of the loss that does not move the decoder."""
    constants: Callable[[Any], tuple[float, float]] = lambda _: (0.0, 0.0)
    """Of the settings, the two numbers `first` and `second` of `slopes`."""
    low: Callable[[Any, Any], Any] | None = None
    """(settings, vectors): the bias with which x W_enc is above 0 where a feature has slopes, if
    that is not the first vector.
    """
    coefficients: Callable[[Any, Callable[[Any], Any]], Any] | None = None
    """(vectors, exp): the vectors as `magnitude` and `slopes` see them; None: as they are."""


@dataclass(frozen=True)
class Stored:
    """A name of a kind in the files of a library, and how they store it."""

    library: str
    """As `formats.FORMATS` calls it."""
    name: str
    vectors: Mapping[str, str] = field(default_factory=lambda: {"b_enc": "b_enc"})
    """Its name of each of our vectors, in its order."""
    b_dec: str = "b_dec"
    linear: bool = False
    """Matrices are the weights of two linear maps, encoder and decoder, transposed."""
    scalar_threshold: str | None = None
    """The tensor that holds one threshold for all features."""
    chooses: bool = False
    """Features are the largest of a token or batch; their number is stored beside the weights."""
    centred: bool = True
    """b_dec is subtracted before encoding."""
    unit: bool = False
    """The library scales decoder rows to norm 1 when it loads them."""
    other: tuple[str, ...] = ()
    """Tensors that may be there and do not matter."""


class Kind(ABC):
    """One kind of dictionary; its file in this folder is the whole of it."""

    Settings: ClassVar[type[KindSettings]]
    sparsity: ClassVar[str]
    """The setting that decides how sparse it is."""
    form: ClassVar[Form] = "plain"
    carries: ClassVar[bool] = False
    """Files of other libraries hold every dictionary of this form as this kind."""
    vectors: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Its weights of one number a feature, three at most; the first is added to x W_enc."""
    biases: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Those that a feature drawn anew gets a value of; the others are 0 then."""
    thresholds: ClassVar[tuple[str, ...]] = ()
    """Those that are kept at 0 or above."""
    redraws: ClassVar[bool] = True
    """Dead features are drawn anew from errors; else the loss itself trains them."""
    rules: ClassVar[Rules | None] = None
    stored: ClassVar[tuple[Stored, ...]] = ()
    """Its names elsewhere; of those in a library, the first is the one we write."""

    @property
    def name(self) -> str:
        """As in settings, files and tables."""
        return self.Settings.model_fields["kind"].default

    @abstractmethod
    def start(self, settings: Any) -> Start:
        """Where a training begins."""

    @abstractmethod
    def terms(self, settings: Any, x: Tensor, w: Named, dead: Tensor | None = None) -> Terms:
        """Features and loss of a batch.

        x: (token, d_model).  w: W_enc (d_model, d_sae), W_dec (d_sae, d_model), b_dec (d_model,),
        and the vectors (d_sae,) by name.  dead: features that did not fire for long, (d_sae,) bool.
        """

    def penalty(self, settings: Any) -> tuple[float, float]:
        """Weight of what is penalised, and share of the training over which it rises from 0."""
        return 0.0, 0.0

    def auxiliary(self, settings: Any) -> Auxiliary | None:
        """The loss that trains dead features, where the kind has one."""
        return None

    def running_rate(self, settings: Any) -> float:
        """Weight of a step in the running mean of the smallest value that a batch kept."""
        return 1.0

    def unit(self, settings: Any) -> bool:
        """Whether decoder rows are held at norm 1; else `penalised` weighs features by norms."""
        return True

    def encoder(self, settings: Any, w: Named, running: float) -> Encoder:
        """The trained encoder in the common form.

        w: W_enc and the vectors, by name.  running: the mean of the smallest value that a batch
        kept, with `Rules.select` "of batch".
        """
        return Encoder(w["W_enc"], w["b_enc"])

    def loss(
        self,
        settings: Any,
        x: Tensor,
        w: Named,
        dead: Tensor | None = None,
        weight: float | None = None,
    ) -> Tensor:
        """L of a batch, a scalar; arguments as `terms`.

        weight: of the penalty, full by default.
        """
        terms = self.terms(settings, x, w, dead)
        full = self.penalty(settings)[0] if weight is None else weight
        error = squared_error(x, terms.features @ w["W_dec"] + w["b_dec"])
        return error + full * terms.penalised + terms.more


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean over tokens of the squared error summed over dimensions."""
    return (x - x_hat).pow(2).sum(-1).mean()


def pre_activations(x: Tensor, w: Named) -> Tensor:
    """p = x W_enc + b_enc."""
    return x @ w["W_enc"] + w["b_enc"]


def keep_largest(f: Tensor, k: int) -> Tensor:
    """Each row's k largest entries, the others 0; among equal ones the lowest index."""
    if k >= f.shape[-1]:
        return f
    order = f.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return f.new_zeros(f.shape).scatter(-1, order, f.gather(-1, order))


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b: the one function that rules call.

    Each engine puts its own in its place.
    """
    return a if condition else b
