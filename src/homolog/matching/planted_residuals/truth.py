"""Which latent a feature follows, and which part of a verdict's error is whose.

A feature follows the latent of its own model with which it is correlated best in size, if

    |r(feature, latent)| >= 0.7       over held-out tokens, with the latent's value in that model,

and else nothing.  It is *truly shared* when it follows a shared latent.  Of the latents of a model

    learnt      exactly one feature follows it            split       two or more do
    absorbed    none does, and the feature that is correlated with it best follows its parent, its
                child or another child of its parent      not learnt  all others

The error of a share, in steps, each a share of the things named:

    planted     shared, of the latents of A that fire on the text
    followed    truly shared, of the features that follow a latent
    true        truly shared, of the features alive (active on at least one token)
    findable    truly shared, and a feature of B follows the same latent, of the features alive
    closest     whose closest latent, followed or not, is shared, of the features alive
    called      with a homolog, of the features alive

    dictionary's part = true - planted,      matching's part = called - true

of which followed - planted is what the dictionaries learn of unequally, and true - followed what
features dilute that follow nothing.  Of the features called,

    right           truly shared, and the partner follows the same latent
    wrong_partner   truly shared, and the partner follows another latent or none
    false_private   follows a private or a token's latent; of these, "related" when the latent
                    closest to the partner fires in the same unit, a family or a group
    loose           follows nothing, and the latent closest to it is shared: a poor copy of it
    false_nothing   follows nothing, and the latent closest to it is not shared

are all of them; missed is the share of the findable features that are not called.  Leaks are the
best r of features that follow a private latent: of a latent alone, where nothing but superposition
and chance brings it about, "leak_r" is their median and "leak_high" the largest of 19 in 20; of a
latent in a family or group, whose relatives B may have, "related_r" and "related_high".

Source of the measure: latents found by the best correlation of a feature, as in [Bricken 2023,
transformer-circuits.pub]; absorption as in [Chanin 2024, arXiv 2409.14507].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

LEAST_R = 0.7


def correlations(x: Any, z: Any) -> Float[np.ndarray, "feature latent"]:
    """Pearson r of all columns of two CSR matrices, float64; NaN where a column is constant."""
    n = x.shape[0]
    x, z = x.astype(np.float64), z.astype(np.float64)
    mean_x, mean_z = x.sum(axis=0) / n, z.sum(axis=0) / n
    product = (x.T @ z).toarray() / n - np.outer(mean_x, mean_z)
    variances = [m.multiply(m).sum(axis=0) / n - mean**2 for m, mean in ((x, mean_x), (z, mean_z))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return product / np.sqrt(np.outer(*variances))


@dataclass(frozen=True, eq=False)
class Followed:
    """What the features of one dictionary follow.

    latent: int64 (features,), -1 for none.  best: the latent of the highest |r|, -1 where the
    feature is constant, and r: that |r|, NaN there.  status: of each latent, "" where it is not
    carried or silent.
    """

    latent: Int[np.ndarray, "feature"]
    best: Int[np.ndarray, "feature"]
    r: Float[np.ndarray, "feature"]
    status: np.ndarray

    @classmethod
    def of(cls, features: Any, carried: Any, family: np.ndarray) -> Followed:
        """features, carried: CSR, over the same tokens.  family: of each latent, -1 for none."""
        r = np.abs(correlations(features, carried))
        known = np.nan_to_num(r, nan=-1.0)
        best, highest = known.argmax(axis=1), known.max(axis=1)
        latent = np.where(highest >= LEAST_R, best, -1)
        followers = np.bincount(latent[latent >= 0], minlength=carried.shape[1])
        closest = latent[known.argmax(axis=0)]  # what the feature closest to each latent follows
        related = (family >= 0) & (closest >= 0) & (family[closest] == family)
        status = np.where(followers > 1, "split", np.where(followers == 1, "learnt", "not learnt"))
        status = np.where((followers == 0) & related, "absorbed", status)
        fires = np.bincount(carried.indices, minlength=carried.shape[1]) > 0
        undefined = highest < 0
        return cls(
            latent,
            np.where(undefined, -1, best),
            np.where(undefined, np.nan, highest),
            np.where(fires, status, ""),
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a pair, seen from its first side.

    own, other: what features follow.  shared, private: of each latent, whether both models carry
    it, or the own alone.  unit: of each latent, of a family or group, -1 for the others.
    """

    own: Followed
    other: Followed
    shared: Bool[np.ndarray, "latent"]
    private: Bool[np.ndarray, "latent"]
    unit: Int[np.ndarray, "latent"]


STATUSES = ("learnt", "split", "absorbed", "not learnt")


def account(
    rows: pl.DataFrame, truth: Truth, among: Bool[np.ndarray, "feature"] | None = None
) -> dict[str, float]:
    """Shares and errors, as the module's opening names them, of one direction.

    rows: one per feature of the own dictionary, in order, with n_active, best_feature, homolog, r.
    among: the features that count; all by default.
    NaN where there is nothing to take a share of.
    """
    alive = rows["n_active"].to_numpy() > 0
    if among is not None:
        alive &= among
    called = rows["homolog"].fill_null(False).to_numpy() & alive
    partner, own, other = rows["best_feature"].to_numpy(), truth.own, truth.other
    follows = (own.latent >= 0) & alive
    shared, private = (follows & kind[own.latent] for kind in (truth.shared, truth.private))
    findable = shared & np.isin(own.latent, other.latent)
    same = other.latent[partner] == own.latent
    unit, partner_unit = truth.unit[own.latent], truth.unit[other.best[partner]]
    related = (unit >= 0) & (unit == partner_unit)
    loose = ~follows & truth.shared[own.best]
    r, in_unit = rows["r"].to_numpy(), truth.unit[own.latent] >= 0
    shares = _of_latents(truth) | {
        "followed": _share(shared, follows & alive),
        "true": _share(shared, alive),
        "findable": _share(findable, alive),
        "closest": _share(truth.shared[own.best], alive),
        "called": _share(called, alive),
        "follow": _share(follows, alive),
        "right": _share(shared & same, called),
        "wrong_partner": _share(shared & ~same, called),
        "false_private": _share(follows & ~shared, called),
        "related": _share(follows & ~shared & related, called),
        "loose": _share(loose, called),
        "false_nothing": _share(~follows & ~loose, called),
        "missed": _share(~called, findable),
    }
    for name, of in (("leak", private & ~in_unit), ("related", private & in_unit)):
        shares |= {f"{name}_r": _quantile(r[of], 0.5), f"{name}_high": _quantile(r[of], 0.95)}
    return shares | {
        "dictionary_part": shares["true"] - shares["planted"],
        "matching_part": shares["called"] - shares["true"],
    }


def _of_latents(truth: Truth) -> dict[str, float]:
    """Shares of the latents that the own model carries and that fire."""
    status = truth.own.status
    there = status != ""
    shares = {f"latents_{s.replace(' ', '_')}": _share(status == s, there) for s in STATUSES}
    return shares | {"planted": _share(truth.shared, there)}


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float((part & whole).sum() / whole.sum()) if whole.any() else float("nan")


def _quantile(r: np.ndarray, level: float) -> float:
    return float(np.nanquantile(r, level)) if len(r) else float("nan")
