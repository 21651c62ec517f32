"""Every table of a run once: columns, types, units, meaning.

Undefined correlations are NaN, their partners -1, and counted.  What was not measured is null, or
NaN where a column cannot be null.  `lo` and `hi` bound 95 % intervals, from documents resampled
where nothing else is said.  docs/tables.md is made of this module.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from homolog.record.circuits import (
    ALWAYS_MEASURED,
    CARRIER,
    COPIER,
    DISCOVERED,
    FAITHFUL,
    MATCHER,
    READ_POSITIONS,
    correlation_column,
)
from homolog.record.table import Column, Table, Type

TEXT, BOOL, I8, I16, I32, I64 = pl.String, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64
F32, F64 = pl.Float32, pl.Float64
TEXTS, WHOLES, NUMBERS = pl.List(pl.String), pl.List(pl.Int32), pl.List(pl.Float32)

SPACES = ("cka", "svcca", "decoder_rsa", "decoder_svcca", "n_pairs")
"""Columns of layers that are measured apart: similarity of two spaces."""


def _table(name: str, row: str, /, **columns: tuple[Type, str] | Column) -> Table:
    described = {n: c if isinstance(c, Column) else Column(*c) for n, c in columns.items()}
    return Table(name, row, described)


def _table_per_layer(name: str, row: str, /, **columns: tuple[Type, str] | Column) -> Table:
    return dataclasses.replace(_table(name, row, **columns), per_layer=True)


def _maybe(kind: Type, means: str) -> Column:
    return Column(kind, means, optional=True)


def _interval(name: str, means: str, kind: Type = F64) -> dict[str, tuple[Type, str]]:
    return {
        name: (kind, means),
        f"{name}_lo": (kind, "lower end of its interval"),
        f"{name}_hi": (kind, "upper end of its interval"),
    }


def _range(name: str, means: str) -> dict[str, tuple[Type, str]]:
    """Of what was drawn at random."""
    return {
        f"{name}_mean": (F64, f"{means}, mean of the draws"),
        f"{name}_least": (F64, "the lowest of them"),
        f"{name}_most": (F64, "the highest of them"),
    }


_MODEL = {"model": (TEXT, "name of the model"), "architecture": (TEXT, "its architecture")}
_FEATURE = {
    "model": (TEXT, "name of the model"),
    "layer": (I32, "block, from 0"),
    "feature": (I32, "feature of the dictionary after that block"),
}

MATCHES = _table(
    "matches",
    "feature and direction of a comparison",
    comparison=(TEXT, "which comparison (`record/comparisons.py`)"),
    kind=(TEXT, "sae or neuron"),
    model=(TEXT, "name of the model whose feature is looked for"),
    label=(TEXT, "which of its dictionaries: sae for the main ones"),
    layer=(I32, "block, from 0"),
    feature=(I32, "feature of the dictionary after that block"),
    n_active=(I64, "tokens on which it fires"),
    freq=(F64, "their share"),
    r=(F32, "highest Pearson correlation with any feature of any layer of the other model"),
    best_model=(TEXT, "model where that is"),
    best_label=(TEXT, "its dictionaries"),
    best_layer=(I32, "its block"),
    best_feature=(I32, "its feature"),
    runner_up_r=(F32, "second highest"),
    runner_up_layer=(I32, "its block"),
    runner_up_feature=(I32, "its feature"),
    null_r=(F32, "95 % quantile of the null of the maximum at its firing frequency; NaN without"),
    threshold=(F32, "least r that is significant at its firing frequency; infinite where none is"),
    p=(F64, "chance of so high an r under the null"),
    q=(F64, "Benjamini-Hochberg within comparison and direction"),
    excess=(F32, "r - null_r"),
    mutual=(BOOL, "its best partner's best partner is the feature itself"),
    partner_r=(F32, "r of its one-to-one partner; NaN for none"),
    partner_layer=(I32, "that partner's block; -1 for none"),
    partner_feature=(I32, "that partner's feature; -1 for none"),
    other_seed_r=(F32, "highest r in the other model's dictionaries of the second seed"),
    back_in=_maybe(I8, "further SAE seeds of the other model in which its partner comes back"),
    stable=(BOOL, "that is so in all of them; null where not measured"),
    documents=_maybe(I32, "documents in which both fire; main and sae-seed alone"),
    rival_r=(F32, "highest r of its best partner with any feature of the own model; null if r is"),
    token_r2=(F32, "share of its variance that the current token explains; main alone, as below"),
    control_r=(F32, "its multiple correlation with all controls that were used together"),
    beyond=(F32, "r^2 - control_r^2: what its partner explains beyond the controls"),
    beyond_se=(F32, "standard error of that, from documents"),
    beyond_q=(F64, "Benjamini-Hochberg of its being at most 0, within the direction"),
    bar=(F32, "least r of a homolog"),
    homolog=(BOOL, "r reaches the bar, and that stands over documents"),
    fails=(TEXT, "tests it fails: chance, controls, documents, rare, rival; empty for a homolog"),
)
LAYERS = _table(
    "layers",
    "ordered pair of layers of a comparison",
    comparison=(TEXT, "which comparison"),
    kind=(TEXT, "sae or neuron"),
    model=(TEXT, "name of the model whose features are looked for"),
    label=(TEXT, "its dictionaries"),
    layer=(I32, "its block"),
    best_model=(TEXT, "where they are looked for"),
    best_label=(TEXT, "its dictionaries"),
    best_layer=(I32, "its block"),
    n_features=(I64, "features of the first"),
    n_defined=(I64, "of them with a defined correlation"),
    mean=(F64, "mean of each feature's highest r within best_layer"),
    q10=(F64, "10 % quantile of those"),
    q25=(F64, "25 % quantile"),
    median=(F64, "median"),
    q75=(F64, "75 % quantile"),
    q90=(F64, "90 % quantile"),
    cka=(F64, "similarity of the two residual streams; null where not measured"),
    svcca=(F64, "the same by SVCCA"),
    decoder_rsa=(F64, "similarity of decoder directions over the matched pairs of the two layers"),
    decoder_svcca=(F64, "the same by SVCCA"),
    n_pairs=(I64, "those pairs"),
)
SUMMARY = _table(
    "summary",
    "comparison, direction and stratum",
    comparison=(TEXT, "which comparison"),
    kind=(TEXT, "sae or neuron"),
    model=(TEXT, "name of the model whose features are looked for"),
    label=(TEXT, "its dictionaries"),
    best_model=(TEXT, "where they are looked for"),
    best_label=(TEXT, "its dictionaries"),
    stratum=(TEXT, "all, alive (active on a token) or frequent (`matching.frequency_floor`)"),
    n_features=(I64, "features"),
    n_undefined=(I64, "of them without a correlation"),
    **_interval("mean", "mean of r"),
    **_interval("median", "median of r"),
    share_above_07=(F64, "share with r above 0.7"),
)
SAES = _table(
    "saes",
    "dictionary",
    model=(TEXT, "name of the model"),
    label=(TEXT, "sae for the main one, seed1 for that of the second seed, and so on"),
    layer=(I64, "block, from 0"),
    site=_maybe(TEXT, "kind of site that it is of; null: the residual stream after the block"),
    kind=(TEXT, "kind of dictionary"),
    d_sae=(I64, "features"),
    sparsity=(F64, "L1 weight, L0 weight or k; null where a brought dictionary does not say"),
    tokens_trained=(I64, "tokens it has seen in training; null likewise"),
    n_tokens=(I64, "tokens on which the rest was measured"),
    explained_variance=(F64, "1 - squared error / variance"),
    l0=(F64, "features active on a token, mean"),
    dead_share=(F64, "share of features that never fire"),
    dense_share=(F64, "share of features that fire on over a tenth of the tokens"),
    sink_share=(F64, "share of the variance on tokens of norms over 10 times the median"),
    bos_share=(F64, "share of the variance on masked tokens; null where nothing was masked"),
    loss_clean=(F64, "next-token loss in nats"),
    loss_spliced=(F64, "the same with the reconstruction in the residual's place"),
    loss_ablated=(F64, "the same with the mean in its place"),
    loss_recovered=(F64, "(ablated - spliced) / (ablated - clean)"),
    passed=(BOOL, "whether it passes its gates"),
    reason=(TEXT, "why not"),
    origin=_maybe(TEXT, "where a recipe brought it from; null where it was trained"),
    seed_agreement=_maybe(F64, "mean best r with the first seed's (`homolog sae train` alone)"),
)
SHARED = _table(
    "shared",
    "ordered pair of the compared models, which is its verdict",
    model=(TEXT, "whose features"),
    best_model=(TEXT, "looked for where"),
    n_features=(I64, "features"),
    n_alive=(I64, "of them active on a token"),
    share=(F64, "share of alive features with a homolog; shares are null where withheld"),
    lo=(F64, "lower end of its interval"),
    hi=(F64, "upper end of its interval"),
    ceiling=(F64, "the same share with the model's own second dictionaries as the partner"),
    mean_r=(F64, "mean r over the defined features"),
    mean_excess=(F64, "mean excess over the defined features"),
    share_significant=(F64, "share of alive features whose r reaches the threshold"),
    share_mutual=(F64, "share with a homolog that is mutual"),
    share_one_to_one=(F64, "share whose one-to-one partner reaches the bar"),
    share_stable=(F64, "share with a homolog that is stable"),
    given=(BOOL, "whether the verdict is given"),
    reason=(TEXT, "why not"),
    words=(TEXT, "the verdict in words"),
)
RESAMPLED = _table(
    "resampled",
    "verdict that is given and resample of documents",
    model=(TEXT, "whose features"),
    best_model=(TEXT, "looked for where"),
    resample=(I32, "its number, from 0: the same documents in all pairs"),
    share=(F64, "share of features with a homolog on them, partners fixed, as its interval has it"),
)
TREE = _table(
    "tree",
    "model, and node that joins two nodes of the tree of more than two models",
    node=(I32, "its number, from 0: the models in their order, then nodes from the nearest pair"),
    left=(I32, "the first of the two; -1 of a model"),
    right=(I32, "the second; -1 of a model"),
    distance=(F64, "between the two, mean over their models; 0 of a model"),
    support=(F64, "share of the resamples in whose tree these models are a node; null of a model"),
    models=(TEXTS, "models below it"),
)
GRID = _table(
    "grid",
    "cell of a grid and ordered pair of its models",
    cell=(TEXT, "folder of the cell, below cells/"),
    kind=(TEXT, "kind of its dictionaries"),
    d_sae=(I64, "features of one"),
    sparsity=(F64, "L1 weight, L0 weight or k"),
    model=(TEXT, "whose features"),
    best_model=(TEXT, "looked for where"),
    l0=(F64, "features active on a token, mean over the layers of the model"),
    explained_variance=(F64, "1 - squared error / variance, mean likewise"),
    share=(F64, "share of alive features with a homolog; shares are null where withheld"),
    lo=(F64, "lower end of its interval"),
    hi=(F64, "upper end of its interval"),
    ceiling=(F64, "the same share with the model's own second dictionaries as the partner"),
    n_seeds=(I64, "dictionaries of each layer of the other model, trained from as many seeds"),
    share_back=(F64, "share of alive features whose partner comes back in all further seeds"),
    share_stable=(F64, "share with a homolog that comes back in all further seeds"),
    given=(BOOL, "whether the verdict is given"),
    reason=(TEXT, "why not"),
)
VARIANCE = _table(
    "variance",
    "compared model and factor that the run can tell apart",
    model=(TEXT, "name of the model"),
    factor=(TEXT, "architecture, model seed, SAE seed, depth, feature, residual"),
    share=(F64, "its share of the variance of r"),
    n=(I64, "features"),
)
FEATURES = _table(
    "features",
    "feature of a compared model's main dictionaries",
    **_FEATURE,
    n_active=(I64, "tokens on which it fires"),
    freq=(F64, "their share"),
    mean_active=(F32, "mean activation over those"),
    max=(F32, "largest activation"),
    token_entropy=(F32, "entropy of the tokens it fires on, in bits"),
    token_r2=(F32, "share of variance that the current token predicts out of sample"),
    consistency=(F32, "of its contexts with the current token; 0 as random ones"),
    context_consistency=(F32, "the same without the current token"),
    promoted=(TEXTS, "tokens it promotes through the unembedding"),
    suppressed=(TEXTS, "tokens it suppresses"),
    near_feature=(WHOLES, "nearest features of its own dictionary"),
    near_cosine=(NUMBERS, "cosines with them"),
    top_tokens=(TEXTS, "tokens with the most summed activation"),
    context_tokens=_maybe(F32, "left context it needs, in tokens"),
)
LEFT_CONTEXT = _table(
    "left_context",
    "feature of a compared model's main dictionaries",
    **_FEATURE,
    n_positions=(I32, "places where it was measured"),
    context_tokens=(F32, "left context it needs, in tokens; NaN without such places"),
    kept=(NUMBERS, "share of its activation that the last 1, 2, 4, ... tokens keep"),
)
CONTEXTS = _table_per_layer(
    "contexts",
    "example of a feature",
    feature=(I32, "the feature"),
    quantile=(F32, "1: the top; 0.75, 0.5, 0.25 of its own active values"),
    rank=(I16, "from the highest"),
    row=(I64, "row of the features"),
    document=(I32, "document of the text"),
    window=(I32, "window of tokens"),
    position=(I16, "place of the token in it"),
    value=(F32, "activation there"),
    start=(I16, "place of the first token that is shown"),
    tokens=(WHOLES, "ids of the tokens that are shown"),
    values=(NUMBERS, "activations on them"),
)
SCATTER = _table_per_layer(
    "scatter",
    "feature and its best partner in a model",
    feature=(I32, "the feature"),
    best_model=(TEXT, "the partner's model"),
    scatter_x=(NUMBERS, "the feature's activations on up to 60 tokens"),
    scatter_y=(NUMBERS, "the partner's on the same"),
)
OVERLAY = _table_per_layer(
    "overlay",
    "feature, best partner in a model, and example of either",
    feature=(I32, "the feature"),
    best_model=(TEXT, "the partner's model"),
    of_partner=(BOOL, "whether it is an example of the partner, else of the feature"),
    rank=(I16, "of the example, in `contexts`, among the top of whose it is"),
    values=(NUMBERS, "activations of the other of the two on the tokens that it shows"),
)
MAP = _table(
    "map",
    "feature of a compared model's main dictionaries that has a place",
    **_FEATURE,
    x=(F32, "its place in the plane of all features: those that fire together stand together"),
    y=(F32, "the same, upwards; without a unit"),
)
_RELATED = {
    "comparison": (TEXT, "which comparison"),
    "model": (TEXT, "whose features"),
    "best_model": (TEXT, "looked for where"),
    "best_label": (TEXT, "in which of its dictionaries"),
    "of": (TEXT, "height: r or excess"),
    "measure": (TEXT, "measure of a feature, a column of features or ratings"),
}
RELATION = _table(
    "relation",
    "comparison, direction, height and measure",
    **_RELATED,
    n=(I64, "features"),
    rho=(F64, "rank correlation of the height with the measure"),
    lo=(F64, "lower end of its interval"),
    hi=(F64, "upper end of its interval"),
    **_interval("partial", "the same with frequency and layer held fixed"),
)
CURVES = _table(
    "curves",
    "comparison, direction, height, measure and bin of the height",
    **_RELATED,
    bin=(I32, "number of the bin, from 0"),
    start=(F64, "lowest height in it"),
    end=(F64, "highest height in it"),
    n=(I64, "features"),
    median=(F64, "median of the measure"),
    lo=(F64, "lower end of its interval"),
    hi=(F64, "upper end of its interval"),
)
_EFFECT = {
    "{0}_r": (F64, "correlation of both models' changes of {1}"),
    "{0}_lo": (F64, "lower end of its interval, from the interventions resampled"),
    "{0}_hi": (F64, "upper end of its interval"),
    "{0}_n": (I64, "tokens where that was done"),
    "{0}_kl": (F64, "KL divergence it makes in the own model, mean{2}"),
    "{0}_best_kl": (F64, "the same in the partner's model"),
}
_SHARED = {
    "{0}_shared": "where tokenizers differ: share of the predictions of tokens that both have",
    "{0}_best_shared": "the same of the partner's model; below a half, the correlation is NaN",
}


def _effect(name: str, of: str, summed: str = "") -> dict[str, tuple[Type, str] | Column]:
    described = {key: (kind, means.format(0, of, summed)) for key, (kind, means) in _EFFECT.items()}
    described |= {key: _maybe(F64, means) for key, means in _SHARED.items()}
    return {key.format(name): column for key, column in described.items()}


_NEXT = "the next-token distribution"
_SUMMED = " of the sum over those positions"
_PAIR = {
    "model": (TEXT, "the feature's model"),
    "layer": (I32, "its block"),
    "feature": (I32, "the feature"),
    "best_model": (TEXT, "the partner's model"),
    "best_layer": (I32, "its block"),
    "best_feature": (I32, "the partner"),
    "r": (F32, "their correlation"),
}
_RANGE = {
    "above_r": (F64, "pairs with an r above this"),
    "to_r": (F64, "and up to this"),
    "n": (I64, "pairs"),
}
LATER = 8
"""Positions after an ablated one whose predictions are read too, as far as the window has them."""
CAUSAL = _table(
    "causal",
    "pair of features that were ablated and steered in their models",
    pair=(I32, "number of the matched pair; its controls have the same"),
    control=(I32, "which control of that pair, from 1; 0: the match itself"),
    matched=(BOOL, "whether it is a match or a control"),
    **_PAIR,
    n_active=(I64, "tokens on which the feature fires"),
    best_n_active=(I64, "on which the partner fires"),
    n_both=(I64, "on which both fire"),
    **_effect("ablate", _NEXT),
    **_effect("ablate_later", f"{_NEXT}s at the {LATER} positions after", _SUMMED),
    **_effect("steer", _NEXT),
)
CAUSAL_AUC = _table(
    "causal_auc",
    "ordered pair of models, effect and range of r",
    model=(TEXT, "whose features"),
    best_model=(TEXT, "matched where"),
    kind=(TEXT, "ablate or steer"),
    where=(TEXT, "here: on the token's own prediction; later: on those that follow"),
    **_RANGE,
    **_interval("auc", "chance that a pair agrees more than a control, 0.5: as by chance"),
    **_interval("mean", "mean agreement; intervals of this and the rest from partners resampled"),
    **_interval("control_mean", "that of the controls"),
    **_interval("difference", "mean difference of a pair and its controls"),
    **_interval("standardised", "the same in standard deviations of an agreement"),
)
SUBSTITUTIONS = _table(
    "substitutions",
    "matched pair whose partner was put in the feature's place",
    pair=(I32, "number of the pair, as in causal"),
    **_PAIR,
    scale=(F64, "factor of the partner's activation, fitted on other documents"),
    random_feature=(I32, "one of the partner's block that fires as often, at random; -1: none"),
    random_scale=(F64, "factor of its activation; NaN without"),
    n_windows=(I64, "windows that were run"),
    n_tokens=(I64, "tokens in them whose loss counts: from the first at which one of both fires"),
    loss_clean=(F64, "mean loss there in nats, nothing replaced"),
    loss_zero=(F64, "with the feature taken out"),
    loss_partner=(F64, "with the partner in its place"),
    loss_random=(F64, "with the random feature in its place; NaN without"),
    kl_zero=(F64, "mean KL divergence from the clean predictions there in nats, taken out"),
    kl_partner=(F64, "with the partner in its place"),
    kl_random=(F64, "with the random feature in its place; NaN without"),
)
LOSS_RECOVERED = _table(
    "loss_recovered",
    "ordered pair of models and range of r",
    model=(TEXT, "whose features are replaced"),
    best_model=(TEXT, "by partners from where"),
    **_RANGE,
    cost=(F64, "loss that taking a feature out costs, mean of loss_zero - loss_clean"),
    **_interval("recovered", "share of it that partners recover: a ratio of sums over pairs"),
    **_interval("random", "the same of random features"),
    kl_cost=(F64, "KL divergence that taking a feature out makes, mean of kl_zero"),
    **_interval("kl_recovered", "share of it that partners undo, likewise"),
    **_interval("kl_random", "the same of random features"),
)
LISTS = _table(
    "lists",
    "best shared or exclusive feature of an ordered pair of models",
    list=(TEXT, "shared or exclusive"),
    rank=(I32, "from 1"),
    model=(TEXT, "the feature's model"),
    layer=(I32, "its block"),
    feature=(I32, "the feature"),
    freq=(F64, "share of tokens on which it fires"),
    r=(F32, "its best correlation in the other model"),
    best_model=(TEXT, "that model"),
    best_layer=(I32, "the partner's block"),
    best_feature=(I32, "the partner"),
    own_seed_r=(F32, "its best correlation in its own model's second dictionaries"),
    exclusive_r2=(F32, "what all features of the other model predict of it, out of sample"),
    steps=(I32, "of the regression"),
)
TRANSPLANT = _table(
    "transplant",
    "layer and map of residuals of another model into its space",
    model=(TEXT, "whose dictionary reads"),
    layer=(I32, "its block"),
    source_model=(TEXT, "whose residuals are mapped"),
    source_layer=(I32, "after which block"),
    map=(TEXT, "orthogonal or affine"),
    n_train=(I64, "tokens the map was fitted on"),
    n_test=(I64, "tokens it was tested on"),
    r2=(F64, "how well the residual itself is predicted"),
    ev_own=(F64, "explained variance of the dictionary on its own residuals"),
    ev_transplant=(F64, "how much of the own residuals it explains from mapped ones"),
    ev_mapped=(F64, "how much of the mapped residuals it explains"),
    n_features=(I64, "features with a defined correlation"),
    feature_r_q25=(F64, "25 % quantile of the features' correlations, mapped with own"),
    feature_r_median=(F64, "their median"),
    feature_r_q75=(F64, "their 75 % quantile"),
)
RATINGS = _table(
    "ratings",
    "feature that a language model explained and rated",
    **_FEATURE,
    explanation=(TEXT, "in words; null, as the rest, where an answer was malformed or not given"),
    complexity=(I8, "1 to 5"),
    consistency_rated=(I8, "1 to 5"),
    detection=(F32, "balanced accuracy at telling active from silent texts; 0.5 is chance"),
    n_tested=(I16, "texts of that test"),
    rater=(TEXT, "the language model"),
    prompts=(TEXT, "hash of the questions"),
)
_NULL = _range("null", "faithfulness of random circuits with as many nodes of each kind")
_FAITHFUL = (
    BOOL,
    f"faithfulness within {1 - FAITHFUL:.2g} of 1, its interval above all random circuits",
)
CIRCUITS = _table(
    "circuits",
    "model whose circuit was asked for",
    **_MODEL,
    n_layers=(I64, "its blocks"),
    task=(TEXT, "the task"),
    n_prompts=(I64, "prompts"),
    length=(I64, "tokens of a prompt"),
    repeat=(I64, "tokens at its end that repeat earlier ones"),
    preferred=(F64, "share of prompts with the answer above the distractor"),
    accuracy=(F64, "share of prompts with the answer first"),
    probability=(F64, "of the answer, mean"),
    logit_difference=(F64, "answer minus distractor, mean"),
    able=(BOOL, "whether it does the task"),
    reason=(TEXT, "why not; what follows is null then"),
    key=(TEXT, "the component that matters most"),
    faithfulness=(F64, "of the circuit of the named parts"),
    faithfulness_lo=(F64, "lower end of its interval"),
    faithfulness_hi=(F64, "upper end of its interval"),
    verdict=(TEXT, "of the Off-by-One test"),
    offset=(I64, "place, from the token, with the largest effect"),
    certainty=(F64, "share of resamples with that place"),
    centre=(F64, "mean place, weighted by effect"),
    centre_lo=(F64, "lower end of its interval"),
    centre_hi=(F64, "upper end of its interval"),
    **{name: Column(*column, optional=True) for name, column in _NULL.items()},
    faithful=Column(*_FAITHFUL, optional=True),
    predicted_offset=(I64, "the place that the convolution alone predicts"),
    discovery_recall=(F64, "share of the named parts that discovery ranks first"),
    **{
        correlation_column(corruption, kind, edges): (
            F64,
            f"{kind} correlation of score and real effect, {edges} edges",
        )
        for corruption in DISCOVERED
        for edges in ("top", "random", "all")
        for kind in ("pearson", "spearman")
    },
)
EFFECTS = _table(
    "effects",
    "patched path and metric",
    **_MODEL,
    task=(TEXT, "the task"),
    experiment=(TEXT, "what was patched to find what"),
    corruption=(TEXT, "what the corrupt prompt changes"),
    sender=(TEXT, "component that is patched"),
    receiver=(TEXT, "component that reads it"),
    metric=(TEXT, f"{', '.join(ALWAYS_MEASURED[:-1])} or {ALWAYS_MEASURED[-1]}"),
    clean=(F64, "mean without the patch"),
    patched=(F64, "mean with it"),
    **_interval("change", "mean change, interval over prompts"),
    n_prompts=(I64, "prompts"),
    position=(TEXT, "place of the patch"),
    offset=(I64, "place from the token"),
)
ROLES = _table(
    "roles",
    "component of a circuit",
    **_MODEL,
    role=(TEXT, f"{CARRIER}, {MATCHER} or {COPIER}"),
    component=(TEXT, "the site"),
    evidence=(TEXT, "the experiment that shows it"),
    **_interval("change", "of the logit difference when it is patched"),
    share=(F64, "of what the whole corruption costs"),
)
OFFSETS = _table(
    "offsets",
    "place and offset of the Off-by-One test",
    **_MODEL,
    place=(TEXT, "the site"),
    offset=(I64, "place from the token"),
    **_interval("effect", "drop of the logit difference"),
    share=(F64, "of all drops"),
    predicted_share=(F64, "as the convolution alone predicts"),
    **_interval("null", "the same around a token that nothing depends on"),
)
HIDDEN_ATTENTION = _table(
    "hidden_attention",
    "labelled position of induction prompts, as the key part of a model reads it from the end",
    **_MODEL,
    part=(TEXT, "the key head, or what the key state's mixer reads out"),
    position=(TEXT, f"{', '.join(READ_POSITIONS)}: the first is what windows begin with"),
    **_interval("share", "of the weights of all positions; the mean one of several positions"),
    **_interval("weight", "mean over channels of the size of the weight; a head's attention"),
    n_prompts=(I64, "prompts that have the position"),
)
_EDGE: dict[str, tuple[Type, str]] = {
    "sender": (TEXT, "component that writes"),
    "receiver": (TEXT, "component that reads"),
    "sender_layer": (I64, "its block; null for the embedding"),
    "receiver_layer": (I64, "its block; null for the logits"),
    "tap": (I64, "tap of the convolution; null elsewhere"),
    "position": (TEXT, "place"),
    "score": (F64, "attribution"),
    "effect": (F64, "real effect, where it was patched"),
    "effect_low": (F64, "lower end of its interval"),
    "effect_high": (F64, "upper end of its interval"),
    "chosen_as": (TEXT, "why it was patched: top or random"),
}
EDGES = _table(
    "edges",
    "edge of discovery",
    **_MODEL,
    corruption=(TEXT, "what the corrupt prompt changes"),
    **_EDGE,
)

_TASK = {**_MODEL, "task": (TEXT, "name of the task, or of the file of prompts")}
TASK_CIRCUITS = _table(
    "task_circuits",
    "model and task whose circuit was looked for (`homolog circuits`)",
    **_TASK,
    n_prompts=(I64, "prompts; null where the tokenizer makes none"),
    length=(I64, "tokens of a prompt"),
    dropped=(TEXT, "words of the task that its tokenizer splits, which are left out, by kind"),
    solved=(F64, "share of prompts that the model solves (`circuits/ability.py`)"),
    chance=(F64, "the same of a model that does not know what was asked"),
    needed=(F64, "least share for a circuit, halfway from chance to all"),
    accuracy=(F64, "share of prompts with the answer on top of all tokens"),
    able=(BOOL, "whether it solves as many as are needed"),
    reason=(TEXT, "why not, or why there are no prompts; what follows is null without a circuit"),
    metric=(TEXT, "what an edge or a node changes"),
    ablation=(TEXT, "what stands for the nodes outside"),
    n_edges=(I64, "strongest edges, whose ends are the circuit"),
    n_nodes=(I64, "nodes of the circuit"),
    n_nodes_of_model=(I64, "nodes of the model"),
    **_interval("faithfulness", "of the circuit, 1: as the whole model"),
    n_random=(I64, "random circuits, and random orders of all nodes, that were drawn"),
    **_NULL,
    faithful=_FAITHFUL,
    cpr=(F64, "area under faithfulness by the share of nodes, the strongest first; 1 is best"),
    **_range("random_cpr", "the same of random orders of the nodes"),
    cmd=(F64, "area between that faithfulness and 1; 0 is best"),
    **_range("random_cmd", "the same of random orders of the nodes"),
    **_interval("circuit", "metric of the circuit alone"),
    **_interval("whole_model", "metric of the whole model"),
    **_interval("nothing", "metric with all nodes ablated"),
    **_interval("largest_gap", "largest difference when the same nodes are removed from both"),
    n_needed=(I64, "nodes whose removal changes the metric"),
    pearson=(F64, "correlation of the edges' scores with their real effects"),
    spearman=(F64, "the same of ranks"),
)
TASK_NODES = _table(
    "task_nodes",
    "node of a model on a task",
    **_TASK,
    node=(TEXT, "the site"),
    layer=(I64, "its block"),
    in_circuit=(BOOL, "whether it is of the circuit"),
    score=(F64, "attribution of its edges among the strongest, summed; null outside the circuit"),
    n_edges=(I64, "those edges; null outside"),
    **_interval("alone", "change of the metric when it alone is ablated in the whole model"),
    **_interval("effect", "largest change when it is removed from the circuit; null outside"),
    removed=(TEXT, "with which other nodes of the circuit"),
)
TASK_GAPS = _table(
    "task_gaps",
    "set of nodes that was removed to see whether a discovered circuit is complete",
    **_TASK,
    removed=(TEXT, "those nodes"),
    **_interval("circuit", "metric of the circuit without them"),
    **_interval("whole_model", "metric of the model without them"),
    **_interval("difference", "their difference"),
)
TASK_CURVES = _table(
    "task_curves",
    "order of a model's nodes and number of them that is kept",
    **_TASK,
    order=(TEXT, "score: the strongest first, as discovered; random: drawn"),
    draw=(I64, "which of the random orders, from 0"),
    n_nodes=(I64, "nodes that are kept, the first of that order"),
    share=(F64, "their share of all nodes"),
    faithfulness=(F64, "of a circuit of these nodes, 1: as the whole model"),
)
TASK_TRANSFERS = _table(
    "task_transfers",
    "circuit of a task and task on whose prompts it is kept alone",
    **_TASK,
    on=(TEXT, "the task whose prompts these are"),
    **_interval("faithfulness", "of the circuit on those prompts, 1: as the whole model"),
    **_NULL,
    faithful=_FAITHFUL,
)
TASK_EDGES = _table(
    "task_edges",
    "edge of a model on a task",
    **_TASK,
    **_EDGE,
    in_circuit=(BOOL, "whether it is among the strongest"),
)
TASK_TABLES = (
    TASK_CIRCUITS,
    TASK_NODES,
    TASK_GAPS,
    TASK_CURVES,
    TASK_TRANSFERS,
    TASK_EDGES,
)
"""Of the circuits of tasks."""

TABLES = (
    MATCHES,
    LAYERS,
    SUMMARY,
    SAES,
    SHARED,
    RESAMPLED,
    TREE,
    GRID,
    VARIANCE,
    FEATURES,
    LEFT_CONTEXT,
    CONTEXTS,
    SCATTER,
    OVERLAY,
    MAP,
    RELATION,
    CURVES,
    CAUSAL,
    CAUSAL_AUC,
    SUBSTITUTIONS,
    LOSS_RECOVERED,
    LISTS,
    TRANSPLANT,
    RATINGS,
    CIRCUITS,
    EFFECTS,
    ROLES,
    OFFSETS,
    EDGES,
    HIDDEN_ATTENTION,
    *TASK_TABLES,
)
"""All that ship; an analysis from elsewhere brings its own."""


def page(tables: tuple[Table, ...] = TABLES) -> str:
    """The tables in Markdown: docs/tables.md."""
    about = (__doc__ or "").split("\n\n", 1)[1].strip().rsplit("  docs/", 1)[0]
    parts = [f"# Tables\n\n{about}\n"]
    for table in tables:
        lines = ["| column | type | meaning |", "|---|---|---|"]
        for name, column in table.columns.items():
            kind = f"{column.type_name}, not in every run" if column.optional else column.type_name
            lines.append(f"| {name} | {kind} | {column.means} |")
        head = f"## {table.name}\n\n`{table.file}`, {table.rows}.\n"
        parts += [head, "\n".join(lines) + "\n"]
    return "\n".join(parts)
