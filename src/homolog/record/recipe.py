"""Recipes: everything that decides the numbers of a run, as one TOML file of flat tables.

A recipe is a value: frozen, hashed by its contents, stored in run.json.  `pipeline.recipes` reads
them.  A table that the command line or another study shares is a class that both inherit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from homolog.record.circuits import INDUCTION, CircuitSearch
from homolog.record.layers import ALL, STREAM_AFTER, Layers
from homolog.record.names import TOKEN_NAME, folder_name, model_name
from homolog.record.run_record import recipe_hash
from homolog.record.settings import Settings, Table

RANDOM = "random"
"""The untrained twin that is made of a model's own configuration."""
REVISION = "{revision}"
"""In a ref, the place of each of `revisions`."""
LONGEST_NAME = 64
"""Characters of a model's name: several, with labels, stand in the name of one file."""


def _as_word(value: object) -> object:
    """true and false of a TOML file, as they are written on the command line."""
    return str(value).lower() if isinstance(value, bool) else value


class WindowBeginning(Settings):
    """Whether the windows of a model begin with its beginning-of-text token."""

    bos: Annotated[Literal["auto", "true", "false"], BeforeValidator(_as_word)] = "auto"
    """Whether the model reads its beginning-of-text token before every window: as its tokenizer
    does before a text (auto; refused where the other way costs 0.5 nats a token less), true, or
    false.
    """


class Model(WindowBeginning):
    """One of the models that are compared, with the models that serve as its controls."""

    ref: str
    """Zoo name ("zoo:transformer-s0"), folder, GGUF file or Hugging Face Hub id; its controls share
    its tokenizer, and two models that do not are compared by units of text.
    """

    name: str | None = None
    """What it is called in tables, folders and pages, once in a recipe: "pythia-step1000".  None:
    the zoo's name or the Hub id; of a folder or file, the last part of its path.
    """

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    revisions: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The model at several steps of its training, each a model of the study with these settings,
    called NAME-REVISION: revisions of a Hub id or, where ref has {revision} in it, what to put
    there.
    """

    untrained: str | None = None
    """Its untrained twin: what other models' features find in an architecture without training.  A
    model, or "random": its own configuration with weights that `run.seed` draws; of several
    revisions that of the first, for all have one architecture.
    """

    other_seed: str | None = None
    """The same model trained from another seed: the model-seed skyline."""

    layers: Layers = ALL
    """Its blocks that have dictionaries, and those of its controls: all, numbers ([3, 7]), every so
    many ("every 4"), or depths as shares of the blocks passed ("0.25, 0.5, 0.75").
    """

    site: str = STREAM_AFTER
    """Place of a block whose values its dictionaries, and those of its controls, are of: the
    residual stream after it (resid), before it (resid_pre) or between (resid_mid), or what its
    parts add (attn_out, mlp_out, mixer_out); docs/sites.md has those of an architecture.
    """

    sae: dict[str, int | float] = Field(default_factory=dict)
    """Numbers of [sae] that its own dictionaries are trained with, where they differ."""

    untrained_sae: dict[str, int | float] = Field(default_factory=dict)
    """The same of its untrained twin, which has to be fitted as well (`matching.control_gap`) and
    is denser.
    """

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
        self._require_revisions()
        if self.name is not None and self.name != folder_name(self.name)[:LONGEST_NAME]:
            signs = "letters, digits and . _ -, not beginning with a dot"
            raise ValueError(f"a name is of {signs}, at most {LONGEST_NAME} of them")
        if self.name == TOKEN_NAME:
            raise ValueError(f"{TOKEN_NAME} is what stands for no model at all")
        return self

    def _require_revisions(self) -> None:
        if self.revisions is None:
            if REVISION in self.ref:
                raise ValueError(f"{REVISION} in ref stands for one of revisions: give them")
            return
        if self.revision is not None or len(set(self.revisions)) < len(self.revisions):
            raise ValueError("give revisions, each once, and no revision beside them")
        if any(saes and REVISION not in saes for saes in (self.saes, self.saes_seed)):
            raise ValueError(f"each revision has dictionaries of its own: put {REVISION} in saes")

    @property
    def called(self) -> str:
        """Its name, given or not; of revisions what they have in common."""
        return self.name or model_name(self.ref.replace(REVISION, "").rstrip("/-_.#=") or self.ref)

    @property
    def named(self) -> tuple[Model, ...]:
        """The models that it stands for, each with its name: one for each revision."""
        if self.revisions is None:
            return (self.model_copy(update={"name": self.called}),)
        return tuple(map(self._at, self.revisions))

    def _at(self, revision: str) -> Model:
        filled = {
            key: value.replace(REVISION, revision)
            for key in ("ref", "saes", "saes_seed")
            if (value := getattr(self, key)) is not None
        }
        of_hub = {} if REVISION in self.ref else {"revision": revision}
        name = f"{self.called}-{folder_name(revision)}"
        return self.model_copy(update={"name": name, "revisions": None} | filled | of_hub)


class TextSource(Settings):
    """How text is read and cut."""

    field: str = "text"
    """Name of the text in JSONL, Parquet and datasets."""

    split: str = "train"
    """Split of a Hugging Face dataset; other sources have none."""

    shuffle: bool = True
    """Put the documents in random order first, which holds the text of files in memory."""

    context: int = Field(default=128, ge=8)
    """Tokens of a window."""


class SinkMask(Settings):
    """Whether a model's sinks count."""

    sinks: Literal["mask", "keep"] = "mask"
    """Whether tokens with norms over 10 times the median are left out of training, statistics and
    matching where they hold more than a tenth of a layer's variance (mask), or
    not (keep).  Where no layer has such tokens, both are the same.
    """


class Corpus(TextSource, SinkMask):
    """The text that every model reads, and how much of it."""

    source: str
    """"zoo:demo" (ships), a .txt, .jsonl (.gz, .xz) or .parquet file, a folder, or "hf:ID"."""

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

    seed: int = Field(default=0, ge=0)
    """Seed of the order of documents."""


class Training(Settings):
    """How dictionaries are trained; the same for every kind."""

    batch: int = Field(default=512, ge=1)
    """Tokens a step."""

    lr: float = Field(default=3e-3, gt=0)
    """Highest step size of Adam."""

    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the step size rises linearly from 0."""

    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, the last ones, over which it falls linearly to 0."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam: decay of the mean of gradients."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam: decay of the mean of squared gradients."""

    dead_after: int = Field(default=200_000, ge=1)
    """Tokens without firing after which a feature counts as dead in training: kinds that choose the
    largest then train it by an auxiliary loss, the others draw it anew.
    """

    revive_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the training during which dead features are drawn anew, if the kind does so."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Products during training; auto takes bfloat16 where the device computes it natively.  Masters
    are float32.
    """

    scale_sample: int = Field(default=16_384, ge=2)
    """Tokens from which the mean and the scale of the activations are estimated."""

    @property
    def training(self) -> dict[str, Any]:
        """These settings by name, without those of a subclass."""
        return {name: getattr(self, name) for name in Training.model_fields}


TARGET = "target_l0"
SPARSITY = ("l1", "l0", "k", TARGET)
"""Keys that say how sparse a dictionary is, of one kind or another: one of them is given."""


def in_place_of(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Values with a model's or a cell's own, of which one for sparsity replaces whichever did."""
    replaced = SPARSITY if any(key in SPARSITY for key in own) else ()
    return {key: value for key, value in values.items() if key not in replaced} | dict(own)


class Dictionaries(Training):
    """The dictionaries that are trained; further keys are those of the kind."""

    model_config = ConfigDict(extra="allow")

    kind: str = "relu"
    """Kind of dictionary; docs/choosing-dictionaries.md says which when."""

    d_sae: int | None = Field(default=None, ge=1)
    """Number of features; or give `expansion`."""

    expansion: float | None = Field(default=None, gt=0)
    """Number of features as a multiple of d_model; or give `d_sae`."""

    residuals: Literal["float32", "bfloat16"] = "float32"
    """How the residuals that dictionaries learn from are kept until they are trained."""

    stream: Literal["auto", "pool", "store"] = "auto"
    """Run the model as residuals are read (pool), or store them first; auto stores what is read
    twice, and in a study everything.
    """

    pool_tokens: int = Field(default=262_144, ge=1)
    """Tokens among which the residuals of a running model are shuffled in memory."""

    def width(self, d_model: int) -> int:
        """Number of features of a dictionary on a residual stream of `d_model` dimensions."""
        return self.d_sae or max(1, round((self.expansion or 0) * d_model))

    def with_own(self: Table, numbers: dict[str, Any]) -> Table:
        """With a model's own numbers (`in_place_of`)."""
        return self.parse(in_place_of(self.values(), numbers)) if numbers else self

    @property
    def of_kind(self) -> dict[str, Any]:
        """The settings that belong to the kind, by name."""
        return {"kind": self.kind, **(self.model_extra or {})}

    def config(self, d_model: int) -> dict[str, Any]:
        """What `dictionaries.parse_config` makes the settings of a dictionary from."""
        return self.of_kind | {"d_sae": self.width(d_model)}


class Sae(Dictionaries, defaults={"batch": 2048, "lr": 1e-3}):
    """The dictionaries of a study: one for every layer of every model that does not bring its own.

    Keys of the kind are here, too: docs/settings.md has them under the kind.
    """

    epochs: int = Field(default=1, ge=1)
    """How often the training tokens are read."""

    seeds: tuple[int, ...] = (0, 1)
    """Root seeds: the first for the main comparison, the second for the SAE-seed skyline, all
    others for stability.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Sae:
        if (self.d_sae is None) == (self.expansion is None):
            raise ValueError("give exactly one of d_sae and expansion")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be different from each other, and at least one")
        return self


class GridDictionaries(Settings):
    """One of the settings of dictionaries that a grid tries: keys of [sae], with those of its kind,
    that take the place of what [sae] says.
    """

    model_config = ConfigDict(extra="allow")

    untrained: dict[str, int | float] | None = None
    """Numbers of [sae] in place of every `untrained_sae` that a model has, which is for the kind of
    [sae] alone.
    """

    @property
    def changes(self) -> dict[str, Any]:
        """The keys of [sae] that change."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _consistent(self) -> GridDictionaries:
        for key in ("d_sae", "expansion", "seeds"):
            if key in self.changes:
                raise ValueError(f"{key} is the same for all dictionaries of a grid")
        return self


class Grid(Settings):
    """The study again with other dictionaries: a cell for each of `dictionaries` and `d_sae`.

    A recipe with this table is run cell by cell, without interpretation, circuits and neurons;
    docs/grid.md has an example.
    """

    dictionaries: tuple[GridDictionaries, ...] = Field(min_length=1)

    d_sae: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of features; that of [sae] by default."""

    seeds: int | None = Field(default=None, ge=2)
    """Dictionaries of each layer, which differ in their seeds; as many as [sae] has by default."""


class Gates(Settings):
    """What a dictionary must reach on held-out text; one that does not gives no verdict.

    All of them may change when a run goes on (docs/resources.md).
    """

    explained_variance: float = Field(default=0.5, le=1)
    """At least; predicting the mean scores 0.  Below it, most of what the layer holds is not among
    the features compared.
    """

    l0_least: float = Field(default=1.0, ge=0)
    """Features active on a token, mean, at least: with less than one it has collapsed."""

    l0_share_most: float = Field(default=0.25, gt=0, le=1)
    """L0 at most this share of d_sae: above it, correlations between features mean little."""

    dead_share: float = Field(default=0.5, ge=0, le=1)
    """Features that never fire, at most: above it, the dictionary is smaller than its name says."""

    dense_share: float = Field(default=0.25, ge=0, le=1)
    """Features that fire on more than a tenth of the tokens, at most: they follow position, norm or
    the mean more than content, and any two of them correlate.
    """

    loss_recovered: float = Field(default=0.5, le=1)
    """(ablated - spliced) / (ablated - clean) next-token loss, ablated being the mean residual; at
    least, where ablating costs over 0.05 nats: the features must be those that the model uses.
    """

    sink_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the residuals' variance on tokens with norms over 10 times the median, at most: such
    tokens carry the correlations of the features that fire on them.  Mask them (`sinks`).
    """


class Controls(Settings):
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
    """Each model against the others' dictionaries of every further seed: does the same partner
    come back.
    """

    neurons: bool = True
    """MLP neurons and mixer channels instead of features, and those of the untrained twins."""


class Matching(Settings):
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

    margin: float = Field(default=0.04, gt=0, le=1)
    """Share of a feature's variance that a homolog explains beyond what all controls together are
    credited with, at least: an r of 0.2 where they explain nothing.
    """

    control_credit: float = Field(default=0.1, ge=0, le=1)
    """What controls are credited with beyond what they explain, a share of that: a control has
    noise of its own.
    """

    control_gap: float = Field(default=0.1, ge=0, le=1)
    """How much less variance the dictionaries of a control may explain than those of what it stands
    for, mean over layers; one that is further below is not used, and the verdict says so.
    """

    rival_ratio: float = Field(default=0.7, ge=0, le=1)
    """Share of the partner's highest correlation with any feature of the own model that a homolog
    reaches; 0: any.
    """

    align: Literal["last", "max"] = "last"
    """Where two models have different tokenizers: what a feature's value is in a unit of text, at
    whose ends both have a token boundary: that at its last token, or the largest in it.
    """

    space_tokens: int = Field(default=65_536, ge=0)
    """Tokens for the similarity of the residual streams (CKA, SVCCA), the first of the match
    tokens; 0: none.
    """


class Circuits(CircuitSearch):
    """How the models do some tasks: induction by path patching, with the roles of its parts and the
    Off-by-One test; and where there is any other task, the circuits that attribution finds of each.
    """

    tasks: tuple[str, ...] = Field(default=(INDUCTION,), min_length=1)
    """Of induction, natural_induction, ioi, greater_than and associative_recall, or .jsonl files of
    prompts.  With any but induction, each of them has a circuit by discovery, beside random ones
    and on the prompts of the others.
    """

    n_prompts: int = Field(default=256, ge=2)
    """Prompts of every experiment."""

    length: int = Field(default=64, ge=5)
    """Tokens of a prompt, of the tasks whose prompts may be of any length."""

    repeat: int = Field(default=1, ge=1)
    """How many tokens at the end repeat earlier ones: 1 as in the paper; small models need more."""

    discovery_prompts: int = Field(default=64, ge=2)
    """Prompts for the attribution of all edges, which takes gradients, and for the circuits that it
    finds: the first of them.
    """

    text: str = "zoo:demo"
    """Where natural_induction takes its prompts from, as `corpus.source`."""

    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of the tasks, for each that has one of that name: n_pairs of
    associative_recall, max_bigram of natural_induction, corruption.
    """

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, values: Any) -> Any:
        """Of recipes from when there was one: task = "induction"."""
        if isinstance(values, Mapping) and values.get("task") == INDUCTION:
            return {key: value for key, value in values.items() if key != "task"}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Circuits:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("name each task once")
        return self

    @property
    def traced(self) -> bool:
        """Whether induction is traced by path patching."""
        return INDUCTION in self.tasks

    @property
    def discovered(self) -> tuple[str, ...]:
        """The tasks whose circuits attribution finds."""
        return () if self.tasks == (INDUCTION,) else self.tasks


class Interpretation(Settings):
    """What features mean: examples and measures of all, left context, and causal checks of some."""

    top: int = Field(default=16, ge=1)
    """Most activating examples of each feature."""

    per_quantile: int = Field(default=4, ge=0)
    """Examples at each of the lower quantiles of its activation (75, 50 and 25 %)."""

    context_tokens: int = Field(default=400_000, ge=0)
    """Tokens that each model reads again with its left context cut, at most; 0: not measured."""

    causal_pairs: int = Field(default=100, ge=0)
    """Matched features of each direction that are ablated, steered and replaced by their partners,
    each with controls; 0: none.
    """

    listed: int = Field(default=50, ge=0)
    """Best shared and exclusive features of each direction; the latter are regressed on the whole
    other model.
    """

    transplant: bool = True
    """Residuals of one model mapped into the other's space and read by its dictionaries."""


class Machine(Settings):
    """Where models run, and from which seed."""

    seed: int = Field(default=0, ge=0)
    """Root of every random choice whose seed is not named elsewhere."""

    device: str = "cpu"
    """cpu, cuda, cuda:1 or mps."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which the models run."""


class RunSettings(Machine):
    """Where a study runs and from which seed (rotations, resampling, order of training tokens)."""

    shard_mib: int = Field(default=2048, ge=1)
    """MiB of residuals that one task holds; decides how many files features lie in, no number."""

    random_weights: bool = False
    """A rehearsal: the models' true sizes with random weights, and dictionaries made to fire as
    trained ones do.
    """


class Recipe(Settings):
    """A whole run.  `hash` changes with anything in it."""

    name: str
    """Of the run, and of its folder where none is given."""

    models: tuple[Model, ...] = Field(min_length=2)

    pairs: tuple[tuple[str, str], ...] | None = None
    """Which of the models are compared, by name, or by ref where only one has it; all with all by
    default, but revisions with models that have none.  Who names a model with revisions names all.
    """

    corpus: Corpus
    sae: Sae
    gates: Gates = Field(default_factory=Gates)
    controls: Controls = Field(default_factory=Controls)
    matching: Matching = Field(default_factory=Matching)
    interpretation: Interpretation | None = None
    circuits: Circuits | None = None
    grid: Grid | None = None
    run: RunSettings = Field(default_factory=RunSettings)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.grid is not None and any(model.saes is not None for model in self.models):
            raise ValueError("a grid trains the dictionaries of all models: give none saes")
        replaced = self.grid is not None and any(d.untrained for d in self.grid.dictionaries)
        if replaced and not any(model.untrained_sae for model in self.models):
            raise ValueError("untrained of a grid replaces untrained_sae, which no model has")
        trained = any(model.saes is None for model in self.models)
        for control in ("sae_seed", "stability"):
            if getattr(self.controls, control) and len(self.sae.seeds) < 2 and trained:
                raise ValueError(f"controls.{control} needs two seeds in sae.seeds")
        _ = self.chosen
        for name in ("neuron_tokens", "quality_tokens"):
            if (getattr(self.corpus, name) or 0) > self.corpus.match_tokens:
                raise ValueError(f"corpus.{name} are the first of the match tokens, not more")
        return self

    @property
    def named(self) -> tuple[Model, ...]:
        """The models that are compared, each with its name."""
        return tuple(named for model in self.models for named in model.named)

    @property
    def chosen(self) -> tuple[tuple[str, str], ...] | None:
        """Pairs by the names of the models; None for all with all.  ValueError for others."""
        if self.pairs is not None:
            named = [(_names_in(self.models, a), _names_in(self.models, b)) for a, b in self.pairs]
        elif any(model.revisions for model in self.models):
            every = itertools.combinations(self.models, 2)
            apart = [pair for pair in every if not all(model.revisions for model in pair)]
            named = [([m.name for m in a.named], [m.name for m in b.named]) for a, b in apart]
            if not named:
                raise ValueError("all models have revisions: say in pairs which are compared")
        else:
            return None
        chosen = tuple((str(a), str(b)) for one, two in named for a in one for b in two)
        for a, b in chosen:
            if a == b:
                raise ValueError(f"pairs names {a} twice, and no model is compared with itself")
        return chosen

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `values()`."""
        return recipe_hash(self.values())

    def with_run(self, seed: int | None = None, device: str | None = None) -> Recipe:
        """This recipe with the seed or device of the command line, where given."""
        given = {"seed": seed, "device": device}
        return self.changed(run={key: v for key, v in given.items() if v is not None})

    def rehearsal(self, tokens: int, blocks: int | None = None) -> Recipe:
        """This recipe at true size with random weights, and `tokens` tokens to match.

        blocks: of every model only the first ones, all with dictionaries; its width stays.

        Text and tokenizer are the zoo's, everything runs on the CPU unless a device is given later,
        and what is counted in tokens, prompts or steps shrinks: a rehearsal tries every stage and
        measures its time.  Dictionaries of random weights are trained, for those that models bring
        say nothing of them.
        """
        corpus = {
            "source": "zoo:demo",
            "context": min(self.corpus.context, 1024),
            "match_tokens": tokens,
            "train_tokens": 256,
            "neuron_tokens": max(1, tokens // 10),
            "quality_tokens": max(1024, tokens // 10),
        }
        seeds = self.sae.seeds
        if len(seeds) < 2 and any(model.saes is not None for model in self.models):
            seeds = (*seeds, max(seeds) + 1)
        changes: dict[str, Any] = {
            "name": f"{self.name}-rehearsal",
            "models": [model.values() | {"saes": None, "saes_seed": None} for model in self.models],
            "corpus": corpus,
            # An untrained feature fires half the time: steps are slow.
            "sae": {"epochs": 1, "batch": 128, "seeds": seeds},
            "matching": {"space_tokens": min(self.matching.space_tokens, 2048)},
            "run": {"random_weights": True, "device": "cpu"},
        }
        if self.interpretation is not None:
            changes["interpretation"] = {"context_tokens": tokens, "causal_pairs": 8, "listed": 8}
        if self.circuits is not None:
            changes["circuits"] = {"n_prompts": 8, "batch": 8, "discovery_prompts": 2}
        rehearsed = self.changed(**changes)
        return rehearsed if blocks is None else rehearsed._cut(blocks)

    def _cut(self, blocks: int) -> Recipe:
        """With so many blocks of each model, which keep their names."""
        models = [
            model.values() | _cut_refs(model, blocks) | {"layers": ALL} for model in self.named
        ]
        return self.changed(models=models, pairs=self.chosen)


def _cut_refs(model: Model, blocks: int) -> dict[str, str]:
    refs = {key: getattr(model, key) for key in ("ref", "untrained", "other_seed")}
    cut = {key: f"{ref}#blocks={blocks}" for key, ref in refs.items() if ref is not None}
    return cut | ({"untrained": f"{cut['ref']}:1"} if model.untrained == RANDOM else {})


def _names_in(models: tuple[Model, ...], word: str) -> list[str]:
    """The names of what has `word` for its name or, if nothing has, for its ref.

    A model, one revision of it, or all of them.  ValueError for none, and where several models are.
    """
    single = [[str(one.name)] for m in models if m.revisions for one in m.named if one.name == word]
    of_name = single + [[str(m.name) for m in own.named] for own in models if own.called == word]
    of_ref = [[str(m.name) for m in own.named] for own in models if own.ref == word]
    known = of_name or of_ref
    if not known:
        words = ", ".join(dict.fromkeys(text for m in models for text in (m.called, m.ref)))
        raise ValueError(f"pairs names {word}, which is none of models ({words})")
    if len(known) > 1:
        listed = ", ".join(itertools.chain.from_iterable(known))
        said = f"pairs names {word}, which is {len(known)} of models ({listed})"
        raise ValueError(f"{said}: name each by a `name` of its own")
    return known[0]


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
