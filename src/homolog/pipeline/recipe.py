"""Recipes: everything that decides the numbers of a run, as one TOML file of flat tables.

Read with `load_recipe("demo")` (a built-in name) or `load_recipe("my.toml")`.  Unknown keys are
refused and the nearest known key is named.  A recipe is a value: frozen, hashed by its contents,
stored in run.json.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from homolog.errors import InputError
from homolog.record.run_folder import recipe_hash

SPARSITY = {"relu": "l1", "topk": "k", "batchtopk": "k", "jumprelu": "l0", "gated": "l1"}
"""The key of each kind that decides how sparse it is: `dictionaries.configs.SPARSITY`, which takes
long to import.
"""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(_Table):
    """One of the models that are compared, with the models that serve as its controls."""

    ref: str
    """Zoo name ("zoo:transformer-s0"), local folder or Hugging Face Hub id; all share one
    tokenizer.
    """

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    untrained: str | None = None
    """Its untrained twin: what the other models' features find in an architecture without training."""

    other_seed: str | None = None
    """The same model trained from another seed: the model-seed skyline."""

    saes: str | None = None
    """Its dictionaries, where they are there already: a folder, or "hf:OWNER/NAME/FOLDER", of any
    format that `dictionaries.load` reads, with {layer} for the block.  None: they are trained, as
    [sae] says.
    """

    saes_seed: str | None = None
    """The same from another seed, for the SAE-seed skyline and stability, which the model is
    without otherwise.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.saes_seed is not None and self.saes in (None, self.saes_seed):
            raise ValueError("saes_seed needs saes, and must be other dictionaries than those")
        return self


class Corpus(_Table):
    """The text that every model reads, and how much of it."""

    source: str
    """"zoo:demo" (ships with us), a .txt, .jsonl (.gz, .xz) or .parquet file, a folder, or "hf:ID"."""

    field: str = "text"
    """Name of the text field or column."""

    split: str = "train"
    """Split of a Hugging Face dataset; other sources have none."""

    context: int = Field(default=128, ge=8)
    """Tokens of a window."""

    train_tokens: int = Field(ge=1)
    """Tokens that the dictionaries learn from, before they are read again (`sae.epochs`)."""

    match_tokens: int = Field(ge=1)
    """Tokens over which features are correlated; never any of the training tokens."""

    neuron_tokens: int | None = Field(default=None, ge=1)
    """Tokens over which neurons are correlated, the first of the match tokens; all of them by
    default.
    """

    quality_tokens: int = Field(default=16_384, ge=1)
    """Tokens for the quality of the dictionaries, the first of the match tokens."""

    shuffle: bool = True
    """Put the documents in random order before packing."""

    seed: int = Field(default=0, ge=0)
    """Seed of that order."""


class Sae(_Table):
    """The dictionaries that are trained, alike: one for every layer of every model that does not
    bring its own.
    """

    kind: Literal["relu", "topk", "batchtopk", "jumprelu", "gated"] = "relu"
    """"relu" with an L1 penalty as in the paper, or another (`dictionaries.configs`)."""

    d_sae: int | None = Field(default=None, ge=1)
    """Number of features; or give `expansion`."""

    expansion: float | None = Field(default=None, gt=0)
    """Number of features as a multiple of d_model; or give `d_sae`."""

    l1: float | None = Field(default=None, ge=0)
    """Weight of the L1 penalty, for inputs of norm sqrt(d_model); "relu" and "gated" only."""

    k: int | None = Field(default=None, ge=1)
    """Features a token may use ("topk"), or uses in the mean ("batchtopk")."""

    l0: float | None = Field(default=None, ge=0)
    """Weight of the number of active features, for inputs of norm sqrt(d_model); "jumprelu" only."""

    epochs: int = Field(default=1, ge=1)
    """How often the training tokens are read."""

    batch: int = Field(default=2048, ge=1)
    """Tokens a step."""

    lr: float = Field(default=1e-3, gt=0)
    """Highest step size of Adam."""

    residuals: Literal["float32", "bfloat16"] = "float32"
    """How the residuals that dictionaries learn from are stored until they are trained."""

    seeds: tuple[int, ...] = (0, 1)
    """Root seeds: the first for the main comparison, the second for the SAE-seed skyline."""

    @model_validator(mode="after")
    def _consistent(self) -> Sae:
        if (self.d_sae is None) == (self.expansion is None):
            raise ValueError("give exactly one of d_sae and expansion")
        needed = SPARSITY[self.kind]
        others = [key for key in dict.fromkeys(SPARSITY.values()) if key != needed]
        if getattr(self, needed) is None or any(getattr(self, key) is not None for key in others):
            raise ValueError(f'kind "{self.kind}" needs {needed} and no {" or ".join(others)}')
        if (
            self.d_sae is not None and (self.k or 1) > self.d_sae
        ):  # with an expansion `parse_config` finds it, later
            raise ValueError(
                f"k is {self.k}, and there are d_sae = {self.d_sae} features to choose from"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be different from each other, and at least one")
        return self

    def width(self, d_model: int) -> int:
        """Number of features of a dictionary on a residual stream of `d_model` dimensions."""
        return self.d_sae if self.d_sae is not None else round((self.expansion or 0) * d_model)

    def config(self, d_model: int) -> dict[str, Any]:
        """What `dictionaries.parse_config` makes the settings of a dictionary from."""
        key = SPARSITY[self.kind]
        return {"kind": self.kind, "d_sae": self.width(d_model), key: getattr(self, key)}


class Gates(_Table):
    """What a dictionary must reach on held-out text (`dictionaries.Gates`); one that does not gives
    no verdict.
    """

    explained_variance: float = Field(default=0.5, le=1)
    """At least; predicting the mean scores 0."""

    l0_least: float = Field(default=1.0, ge=0)
    """Features active on a token, mean, at least."""

    l0_share_most: float = Field(default=0.25, gt=0, le=1)
    """L0 at most this share of d_sae."""

    dead_share: float = Field(default=0.5, ge=0, le=1)
    """Features that never fire, at most."""

    dense_share: float = Field(default=0.25, ge=0, le=1)
    """Features that fire on more than a tenth of the tokens, at most."""

    loss_recovered: float = Field(default=0.5, le=1)
    """(ablated - spliced) / (ablated - clean) next-token loss, ablated being the mean residual; at
    least.
    """

    sink_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the residuals' variance on tokens with norms over 10 times the median, at most."""


class Controls(_Table):
    """What stands beside the main comparison, apart from the models' own `untrained` and
    `other_seed`.
    """

    rotated: bool = True
    """The partner model's dictionaries with randomly rotated directions."""

    current_token: bool = True
    """One feature for each token of the vocabulary: what knowing the current token alone gives."""

    sae_seed: bool = True
    """Each model against itself through dictionaries of the second seed: the SAE-seed skyline."""

    stability: bool = True
    """Each model against the others' dictionaries of the second seed: does the same partner come
    back.
    """

    neurons: bool = True
    """MLP neurons and mixer channels instead of features, and those of the untrained twins."""


class Matching(_Table):
    """How matches are found, calibrated and summarised."""

    frequency_floor: float = Field(default=1e-3, ge=0, le=1)
    """Features firing on at least this share of tokens are the stratum "frequent"."""

    resamples: int = Field(default=200, ge=2)
    """Bootstrap resamples of documents behind every interval."""

    null_exchanges: int = Field(default=2, ge=0)
    """Exchanges of whole documents behind the null of the maximum; each costs another pass over all
    pairs of layers.
    """

    fdr: float = Field(default=0.01, gt=0, lt=1)
    """False discovery rate at which a match is significant."""

    homolog_r: float = Field(default=0.2, ge=0, le=1)
    """Correlation that a homolog has at least."""

    rival_ratio: float = Field(default=0.7, ge=0, le=1)
    """Share of the partner's highest correlation with any feature of the own model that a homolog
    reaches; 0: any.
    """

    space_tokens: int = Field(default=65_536, ge=0)
    """Tokens for the similarity of the residual streams (CKA, SVCCA), the first of the match
    tokens; 0: none.
    """


class Circuits(_Table):
    """The induction circuits of both models, by path patching, and the Off-by-One test."""

    task: Literal["induction"] = "induction"
    """Random tokens whose end repeats earlier ones; the answer is what came after those."""

    n_prompts: int = Field(default=256, ge=2)
    """Prompts of every experiment."""

    length: int = Field(default=64, ge=5)
    """Tokens of a prompt."""

    repeat: int = Field(default=1, ge=1)
    """How many tokens at the end repeat earlier ones: 1 as in the paper; small models need more."""

    batch: int = Field(default=64, ge=1)
    """Prompts in memory at a time."""

    discovery_prompts: int = Field(default=64, ge=2)
    """Prompts for the attribution of all edges, which takes gradients."""

    validated_edges: int = Field(default=20, ge=2)
    """Edges that are patched for real, of the strongest and as many drawn at random."""


class Interpretation(_Table):
    """What features mean: examples and measures of all, left context, and causal checks of some."""

    top: int = Field(default=16, ge=1)
    """Most activating examples of each feature."""

    per_quantile: int = Field(default=4, ge=0)
    """Examples at each of the lower quantiles of its activation (75, 50 and 25 %)."""

    context_tokens: int = Field(default=400_000, ge=0)
    """Tokens that each model reads again with its left context cut, at most; 0: not measured."""

    causal_pairs: int = Field(default=100, ge=0)
    """Matched features of each direction that are ablated and steered, with as many controls; 0:
    none.
    """

    listed: int = Field(default=50, ge=0)
    """Best shared and exclusive features of each direction; the latter are regressed on the whole
    other model.
    """

    transplant: bool = True
    """Residuals of one model mapped into the other's space and read by its dictionaries."""


class Run(_Table):
    """Where and from which seed."""

    seed: int = Field(default=0, ge=0)
    """Root of every seed that is not named elsewhere (rotations, resampling, order of training
    tokens).
    """

    device: str = "cpu"
    """"cpu", "cuda", "cuda:1", "mps"."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which the models run."""

    shard_mib: int = Field(default=2048, ge=1)
    """MiB of residuals that one task holds; it decides how many files features lie in, and no
    number.
    """

    random_weights: bool = False
    """A rehearsal: the models' true sizes with random weights, and dictionaries made to fire as
    trained ones do.
    """


class Recipe(_Table):
    """A whole run.  `hash` changes with anything in it."""

    name: str
    models: tuple[Model, ...] = Field(min_length=2)
    corpus: Corpus
    sae: Sae
    gates: Gates = Field(default_factory=Gates)
    controls: Controls = Field(default_factory=Controls)
    matching: Matching = Field(default_factory=Matching)
    interpretation: Interpretation | None = None
    circuits: Circuits | None = None
    run: Run = Field(default_factory=Run)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        trained = any(model.saes is None for model in self.models)
        for control in ("sae_seed", "stability"):
            if getattr(self.controls, control) and len(self.sae.seeds) < 2 and trained:
                raise ValueError(f"controls.{control} needs two seeds in sae.seeds")
        for name in ("neuron_tokens", "quality_tokens"):
            if (getattr(self.corpus, name) or 0) > self.corpus.match_tokens:
                raise ValueError(
                    f"corpus.{name} are the first of the match tokens, and cannot be more than "
                    "those"
                )
        return self

    def values(self) -> dict[str, Any]:
        """The recipe as JSON values: what run.json holds."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `values()`."""
        return recipe_hash(self.values())

    def with_run(self, seed: int | None = None, device: str | None = None) -> Recipe:
        """This recipe with the seed or device of the command line, where given."""
        given = {
            key: value for key, value in (("seed", seed), ("device", device)) if value is not None
        }
        return parse_recipe(self.values() | {"run": self.run.model_dump() | given}, self.name)

    def rehearsal(self, tokens: int) -> Recipe:
        """This recipe at the true size of models and dictionaries, with random weights and `tokens`
        tokens to match.

        Text and tokenizer are the zoo's, everything runs on the CPU unless a device is given later,
        and what is counted in tokens, prompts or steps shrinks: a rehearsal tries every stage and
        measures its time.  Dictionaries of random weights are trained, for those that models bring
        say nothing of them.
        """
        values = self.values()
        part = {
            "match_tokens": tokens,
            "neuron_tokens": max(1, tokens // 10),
            "train_tokens": 256,
            "quality_tokens": max(1024, tokens // 10),
            "source": "zoo:demo",
        }
        corpus = values["corpus"] | part | {"context": min(self.corpus.context, 1024)}
        sae = values["sae"] | {
            "epochs": 1,
            "batch": 128,
        }  # an untrained feature fires half the time: steps are slow
        matching = values["matching"] | {"space_tokens": min(self.matching.space_tokens, 2048)}
        run = values["run"] | {"random_weights": True, "device": "cpu"}
        models = [model | {"saes": None, "saes_seed": None} for model in values["models"]]
        if len(self.sae.seeds) < 2 and any(model.saes is not None for model in self.models):
            sae["seeds"] = [*self.sae.seeds, max(self.sae.seeds) + 1]
        changed = {
            "name": f"{self.name}-rehearsal",
            "models": models,
            "corpus": corpus,
            "sae": sae,
            "matching": matching,
            "run": run,
        }
        if self.interpretation is not None:
            changed["interpretation"] = values["interpretation"] | {
                "context_tokens": tokens,
                "causal_pairs": 8,
                "listed": 8,
            }
        if self.circuits is not None:
            changed["circuits"] = values["circuits"] | {
                "n_prompts": 8,
                "batch": 8,
                "discovery_prompts": 2,
            }
        return parse_recipe(values | changed, self.name)


class CircuitRecipe(_Table):
    """Circuits of some models, without dictionaries and matches."""

    name: str
    models: tuple[str, ...] = Field(min_length=1)
    revision: str | None = None
    circuits: Circuits = Field(default_factory=Circuits)
    run: Run = Field(default_factory=Run)

    def values(self) -> dict[str, Any]:
        """The recipe as JSON values: what run.json holds."""
        return self.model_dump(mode="json")


def built_in_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    files = resources.files("homolog.pipeline") / "recipes"
    return sorted(
        file.name.removesuffix(".toml") for file in files.iterdir() if file.name.endswith(".toml")
    )


def load_recipe(ref: str | Path) -> Recipe:
    """Read a built-in recipe by name or a TOML file by path.

    Raises `InputError` when there is no such recipe, and for TOML errors, unknown keys and unusable
    values.
    """
    if str(ref) in built_in_recipes():
        if Path(ref).is_file():
            raise InputError(
                "recipe",
                str(ref),
                f"both a built-in recipe and {Path(ref).absolute()} have that name",
                f"Write ./{ref} for the file, or give the command in another folder.",
            )
        data = (resources.files("homolog.pipeline") / "recipes" / f"{ref}.toml").read_bytes()
    elif Path(ref).is_file():
        data = Path(ref).read_bytes()
    else:
        known = ", ".join(built_in_recipes())
        raise InputError(
            "recipe",
            str(ref),
            "it must be a TOML file or the name of a built-in recipe",
            f"Built in: {known}.",
        )
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            "recipe", str(ref), f"it must be TOML: {error}", "Mend that place."
        ) from error
    return parse_recipe({"name": Path(ref).stem} | values, str(ref))


def parse_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from tables of values; `source` says in errors where they came from.  Raises
    `InputError`.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _input_error(error, source) from error


def parse_circuits(values: Mapping[str, Any]) -> CircuitRecipe:
    """A recipe of circuits from values, as the command line gives them.  Raises `InputError`."""
    try:
        return CircuitRecipe.model_validate(values)
    except ValidationError as error:
        raise _input_error(error, "circuits") from error


def _input_error(error: ValidationError, source: str) -> InputError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path) or "the tables together"
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)
        where = f"[{'.'.join(path[:-1])}]" if path[:-1] else "a recipe"
        remedy = f"Did you mean {nearest[0]!r}? " if nearest else ""
        return InputError(
            f"{source}: {field}",
            first["input"],
            f"{where} has no such key",
            f"{remedy}Known: {', '.join(known)}.",
        )
    if first["type"] == "missing":
        return InputError(f"{source}: {field}", None, "it is required", "Add it.")
    message = first["msg"].removeprefix("Value error, ")
    return InputError(
        f"{source}: {field}", first["input"], f"it breaks a rule: {message}", "Change it."
    )


def _known_keys(path: list[str]) -> list[str]:
    table: type[BaseModel] = Recipe
    for key in (key for key in path if not key.isdigit()):
        annotation = table.model_fields[key].annotation
        tables = [
            t
            for t in (annotation, *get_args(annotation))
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        table = tables[0]
    return list(table.model_fields)
