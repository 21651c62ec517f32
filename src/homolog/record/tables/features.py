"""Dictionaries, their features, and what these mean."""

from __future__ import annotations

from homolog.record.table import Type
from homolog.record.tables.describing import (
    BOOL,
    F32,
    F64,
    FEATURE,
    I8,
    I16,
    I32,
    I64,
    NUMBERS,
    TEXT,
    TEXTS,
    WHOLES,
    interval,
    maybe,
    table,
    table_per_layer,
)

SAES = table(
    "saes",
    "dictionary",
    model=(TEXT, "name of the model"),
    label=(TEXT, "sae for the main one, seed1 for that of the second seed, and so on"),
    layer=(I64, "block, from 0"),
    site=maybe(TEXT, "kind of site that it is of; null: the residual stream after the block"),
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
    origin=maybe(TEXT, "where a recipe brought it from; null where it was trained"),
    seed_agreement=maybe(F64, "mean best r with the first seed's (`homolog sae train` alone)"),
)
FEATURES = table(
    "features",
    "feature of a compared model's main dictionaries",
    **FEATURE,
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
    context_tokens=maybe(F32, "left context it needs, in tokens"),
)
LEFT_CONTEXT = table(
    "left_context",
    "feature of a compared model's main dictionaries",
    **FEATURE,
    n_positions=(I32, "places where it was measured"),
    context_tokens=(F32, "left context it needs, in tokens; NaN without such places"),
    kept=(NUMBERS, "share of its activation that the last 1, 2, 4, ... tokens keep"),
)
CONTEXTS = table_per_layer(
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
SCATTER = table_per_layer(
    "scatter",
    "feature and its best partner in a model",
    feature=(I32, "the feature"),
    best_model=(TEXT, "the partner's model"),
    scatter_x=(NUMBERS, "the feature's activations on up to 60 tokens"),
    scatter_y=(NUMBERS, "the partner's on the same"),
)
OVERLAY = table_per_layer(
    "overlay",
    "feature, best partner in a model, and example of either",
    feature=(I32, "the feature"),
    best_model=(TEXT, "the partner's model"),
    of_partner=(BOOL, "whether it is an example of the partner, else of the feature"),
    rank=(I16, "of the example, in `contexts`, among the top of whose it is"),
    values=(NUMBERS, "activations of the other of the two on the tokens that it shows"),
)
MAP = table(
    "map",
    "feature of a compared model's main dictionaries that has a place",
    **FEATURE,
    x=(F32, "its place in the plane of all features: those that fire together stand together"),
    y=(F32, "the same, upwards; without a unit"),
)


def _beside(which: str, where: str) -> dict[str, tuple[Type, str]]:
    """Of the best partner in a neighbouring layer of the same model."""
    return {
        f"{which}_layer": (I32, f"the kept block {where} it; -1 for none"),
        f"{which}_feature": (I32, "the feature there with the highest r; -1 for none"),
        f"{which}_r": (F32, "its Pearson correlation with that on text; NaN where undefined"),
        f"{which}_needs": (F32, f"least r of an {which}: flow_r, or more where chance reaches it"),
        f"{which}_cosine": (F32, "cosine of the decoder directions of the two"),
        f"{which}_by_weights": (I32, "the nearest feature there by weights alone; -1 for none"),
    }


FLOW = table(
    "flow",
    "feature of a compared model's main dictionaries",
    **FEATURE,
    **_beside("ancestor", "before"),
    **_beside("descendant", "after"),
    comes=(TEXT, "first (block), born, changed or kept (`flow_kept_r`); null without an r"),
    goes=(TEXT, "last (block), dies, changes or kept; null likewise"),
    born_layer=(I32, "block where the line of its ancestors begins: its own where it is born"),
    born_feature=(I32, "the feature there"),
    last_layer=(I32, "block where the line of its descendants ends"),
    last_feature=(I32, "the feature there"),
)
_RELATED = {
    "comparison": (TEXT, "which comparison"),
    "model": (TEXT, "whose features"),
    "best_model": (TEXT, "looked for where"),
    "best_label": (TEXT, "in which of its dictionaries"),
    "of": (TEXT, "height: r or excess"),
    "measure": (TEXT, "measure of a feature, a column of features or ratings"),
}
RELATION = table(
    "relation",
    "comparison, direction, height and measure",
    **_RELATED,
    n=(I64, "features"),
    rho=(F64, "rank correlation of the height with the measure"),
    lo=(F64, "lower end of its interval"),
    hi=(F64, "upper end of its interval"),
    **interval("partial", "the same with frequency and layer held fixed"),
)
CURVES = table(
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
LISTS = table(
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
RATINGS = table(
    "ratings",
    "feature that a language model explained and rated",
    **FEATURE,
    explanation=(TEXT, "in words; null, as the rest, where an answer was malformed or not given"),
    complexity=(I8, "1 to 5"),
    consistency_rated=(I8, "1 to 5"),
    detection=(F32, "balanced accuracy at telling active from silent texts; 0.5 is chance"),
    n_tested=(I16, "texts of that test"),
    best_model=maybe(TEXT, "model of its best partner"),
    best_layer=maybe(I32, "block of the partner"),
    best_feature=maybe(I32, "the partner"),
    partner_detection=maybe(F32, "the same words at telling the partner's texts; 0.5 is chance"),
    partner_n_tested=maybe(I16, "texts of that test"),
    other_detection=maybe(F32, "the same at telling those of another feature beside the partner"),
    other_n_tested=maybe(I16, "texts of that test"),
    rater=(TEXT, "the language model"),
    prompts=(TEXT, "hash of the questions"),
)
