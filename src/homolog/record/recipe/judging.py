"""[gates], [controls] and [matching]: what a match and a verdict hang on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from homolog.record.settings import Settings


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

    frozen_encoder: bool = False
    """The partner model read through random directions that fire as often as its features: the
    features of a dictionary whose encoder is frozen at random, whatever its decoder learns
    (arXiv 2602.14111).
    """

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

    least_documents: int = Field(default=3, ge=0)
    """Documents in which a homolog fires together with its partner, at least."""

    align: Literal["last", "max"] = "last"
    """Where two models have different tokenizers: what a feature's value is in a unit of text, at
    whose ends both have a token boundary: that at its last token, or the largest in it.
    """

    space_tokens: int = Field(default=65_536, ge=0)
    """Tokens for the similarity of the residual streams (CKA, SVCCA), the first of the match
    tokens; 0: none.
    """

    space_permutations: int = Field(default=199, ge=0)
    """Random orders of documents behind the null of that similarity; 0: none."""
