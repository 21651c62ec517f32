"""What features do, each and in another's place, and residuals in another model's dictionary."""

from __future__ import annotations

from homolog.record.table import Column, Type
from homolog.record.tables.describing import BOOL, F32, F64, I32, I64, TEXT, interval, maybe, table

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
    described |= {key: maybe(F64, means) for key, means in _SHARED.items()}
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
CAUSAL = table(
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
CAUSAL_AUC = table(
    "causal_auc",
    "ordered pair of models, effect and range of r",
    model=(TEXT, "whose features"),
    best_model=(TEXT, "matched where"),
    kind=(TEXT, "ablate or steer"),
    where=(TEXT, "here: on the token's own prediction; later: on those that follow"),
    **_RANGE,
    **interval("auc", "chance that a pair agrees more than a control, 0.5: as by chance"),
    **interval("mean", "mean agreement; intervals of this and the rest from partners resampled"),
    **interval("control_mean", "that of the controls"),
    **interval("difference", "mean difference of a pair and its controls"),
    **interval("standardised", "the same in standard deviations of an agreement"),
)
SUBSTITUTIONS = table(
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
LOSS_RECOVERED = table(
    "loss_recovered",
    "ordered pair of models and range of r",
    model=(TEXT, "whose features are replaced"),
    best_model=(TEXT, "by partners from where"),
    **_RANGE,
    cost=(F64, "loss that taking a feature out costs, mean of loss_zero - loss_clean"),
    **interval("recovered", "share of it that partners recover: a ratio of sums over pairs"),
    **interval("random", "the same of random features"),
    kl_cost=(F64, "KL divergence that taking a feature out makes, mean of kl_zero"),
    **interval("kl_recovered", "share of it that partners undo, likewise"),
    **interval("kl_random", "the same of random features"),
)
TRANSPLANT = table(
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
SHUFFLED, OWN = "shuffled", "own"
"""Sources of an alignment search that no comparison has: rows in random order; the model itself."""
ALIGNMENT_SEARCH = table(
    "alignment_search",
    "map between residual streams of two models and number of its directions",
    model=(TEXT, "whose stream is changed"),
    layer=(I32, "after which block"),
    best_model=(TEXT, "the other model"),
    source=(
        TEXT,
        "whose residuals stand in: main, the other model; model-seed, the model of another seed; "
        "random-model, the other untrained; shuffled, the other's in random order; own",
    ),
    source_model=(TEXT, "the model that these are read in"),
    source_layer=(I32, "after which block"),
    map=(TEXT, "procrustes: from scatter matrices alone, or trained"),
    k=(I32, "directions of the map that are used, the first ones"),
    n_train=(I64, "tokens that it was fitted on"),
    n_test=(I64, "tokens whose predictions are compared"),
    **interval("kept", "of what these directions carry, what the source supplies, by KL"),
    carried=(F64, "of the whole stream's part in the predictions, that of these directions, by KL"),
    **interval("alone", "of the whole stream's part, what the source's directions supply alone"),
    loss_kept=(F64, "kept by what the loss grows by; NaN where it does not"),
    loss_alone=(F64, "alone likewise"),
    loss_own=(F64, "loss of the model as it is, in nats"),
    kl_swapped=(F64, "KL divergence with these directions from the source, in nats"),
    kl_ablated=(F64, "with these directions at their mean"),
    kl_alone=(F64, "with these directions from the source, all else at its mean"),
    kl_whole=(F64, "with the whole stream at its mean"),
)
