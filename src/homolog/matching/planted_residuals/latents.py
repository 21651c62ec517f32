"""Residuals that are sums of known sparse latents, some of them shared between two models.

    x_M(t) = sum over l in M of z_l(t) u_M,l(t) d_M,l + noise_M e      e ~ N(0, 1), per dimension

d_M,l are unit vectors drawn uniformly for each model, so that nothing can be read from directions;
u is log-normal of log-sd `jitter` and mean 1, so that no two models hold the same value.  With more
latents than dimensions they lie in superposition [Elhage 2022, arXiv 2209.10652].

A unit is a latent alone, a family of a parent and its children, or a group.  Units fire in bursts
within documents d, as topics do, and a latent may fire where its unit does:

    unit(t)   ~ Bernoulli(min(p g_d, 0.5)),    g ~ Gamma(kappa) / kappa,    p falling as Zipf's law
    fires_l   = unit(t) b,   b ~ Bernoulli(c),    z_l = fires_l v,    v = 0.5 + Gamma(4) / 8, mean 1

with c = 1 for a latent alone and for a parent, so that its children (c = 0.3) fire only where it
does, and c = 0.5 in a group, whose members have r of about 0.5 with each other.

Tokens follow Zipf's law too; the most frequent have a latent each, v = 1, in every model.  They are
what a model holds before it learns anything: the model "untrained" has those, and else latents of
its own.  A latent is *shared* when A and B carry it and the untrained model does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int

from homolog.axes import Activations
from homolog.dictionaries.seeds import generator
from homolog.matching.planting import checked

CHILDREN, CHILD_GIVEN = 3, 0.3
MEMBERS, MEMBER_GIVEN = 4, 0.5
LARGEST_RATE = 0.5  # of a unit within one document
ZIPF_OFFSET = 8.0  # rank r has frequency 1 / (r + offset)
_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class PlantedModel:
    """A planted model: its name, its width, and the noise of its residuals per dimension."""

    name: str
    d_model: int
    noise: float


@dataclass(frozen=True)
class ResidualPlanting:
    """How latents are planted.  Raises InputError for a value outside its range."""

    shared: int = 96
    """Latents of both A and B."""
    private: int = 80
    """Latents of A alone, and as many of B alone."""
    tokens: int = 48
    """Latents of one token each, which all models have."""
    vocabulary: int = 256
    in_families: float = 0.3
    """Share of the latents that are a parent or one of its children."""
    in_groups: float = 0.3
    """Share of the latents that are of a correlated group."""
    mean_active: float = 6.0
    """Latents of A and of B that fire on a token, in the mean, beside the token's own."""
    jitter: float = 0.2
    """Log-sd of the factor by which a model's value of a latent differs from another's."""
    topic_shape: float = 1.0
    """kappa, small for bursty latents."""
    document_tokens: int = 256
    models: tuple[PlantedModel, PlantedModel, PlantedModel] = (
        PlantedModel("A", 96, 0.08),
        PlantedModel("B", 64, 0.1),
        PlantedModel("untrained", 80, 0.08),
    )
    """A and B, and what neither has learned anything of."""

    def __post_init__(self) -> None:
        least = 2 * (self.in_families + self.in_groups)
        checked("shared", self.shared, self.shared >= 0, "it is a number of latents")
        checked("private", self.private, self.private >= 1, "each model has one at least")
        checked(
            "tokens", self.tokens, 0 <= self.tokens <= self.vocabulary, "at most the vocabulary"
        )
        checked("in_families", self.in_families, 0 <= least <= 2, "with in_groups it is a share")
        checked("document_tokens", self.document_tokens, self.document_tokens >= 1, "at least one")


@dataclass(frozen=True, eq=False)
class PlantedText:
    """Tokens, and which latents fire on them, before any model's jitter.

    token, document: (tokens,) int32.  latents: CSR float32 (tokens, latents).  name: of the text.
    """

    name: str
    token: Int[np.ndarray, "token"]
    document: Int[np.ndarray, "token"]
    latents: Any


@dataclass(frozen=True)
class World:
    """The latents and the models that carry them; all follows from planting and seed."""

    planting: ResidualPlanting = ResidualPlanting()
    seed: int = 0

    @cached_property
    def latents(self) -> pl.DataFrame:
        """One row per latent: owner, kind, unit, given, frequency.

        owner: "shared", "token" or the model that has it alone.  kind: "alone", "parent", "child",
        "group" or "token".  unit: number of the unit, of a token its id.  given: c.
        """
        plan, rng = self.planting, generator(self.seed, "planted latents")
        a, b, untrained = (model.name for model in plan.models)
        numbers = {"shared": plan.shared, a: plan.private, b: plan.private}
        numbers |= {untrained: plan.shared + plan.private}
        owner = rng.permutation(np.repeat(list(numbers), list(numbers.values())))
        kind, unit, given = _structure(len(owner), plan)
        zipf = 1 / (rng.permutation(unit[-1] + 1) + ZIPF_OFFSET)
        frequency = zipf[unit] * given
        of_a_or_b = frequency[owner == "shared"].sum()
        of_a_or_b += frequency[(owner == a) | (owner == b)].sum() / 2
        frequency *= plan.mean_active / of_a_or_b
        ids = np.arange(plan.tokens)
        columns = {
            "owner": [*owner.tolist(), *["token"] * plan.tokens],
            "kind": [*kind, *["token"] * plan.tokens],
            "unit": np.concatenate([unit, ids]),
            "given": np.concatenate([given, np.ones(plan.tokens)]),
            "frequency": np.concatenate([frequency, self.token_frequency[: plan.tokens]]),
        }
        return pl.DataFrame(columns)

    @property
    def token_frequency(self) -> Float[np.ndarray, "vocabulary"]:
        """Share of the text of each token, the most frequent first."""
        weight = 1 / (np.arange(self.planting.vocabulary) + ZIPF_OFFSET)
        return weight / weight.sum()

    def carries(self, model: PlantedModel) -> Bool[np.ndarray, "latent"]:
        """Which latents a model has."""
        a, b, _ = self.planting.models
        owners = [model.name, "token"] + (["shared"] if model in (a, b) else [])
        return self.latents["owner"].is_in(owners).to_numpy()

    @property
    def shared(self) -> Bool[np.ndarray, "latent"]:
        """Which latents A and B have and the untrained model has not."""
        return (self.latents["owner"] == "shared").to_numpy()

    @property
    def families(self) -> Int[np.ndarray, "latent"]:
        """Number of the family of parents and children; -1 for the others."""
        related = self.latents["kind"].is_in(["parent", "child"]).to_numpy()
        return np.where(related, self.latents["unit"].to_numpy(), -1)

    @property
    def units(self) -> Int[np.ndarray, "latent"]:
        """Number of the family or group; -1 for latents alone and of tokens."""
        alone = self.latents["kind"].is_in(["alone", "token"]).to_numpy()
        return np.where(alone, -1, self.latents["unit"].to_numpy())

    def text(self, name: str, n_documents: int) -> PlantedText:
        """Draw the text of that name."""
        plan, rng = self.planting, generator(self.seed, "planted text", name)
        document = np.repeat(np.arange(n_documents, dtype=np.int32), plan.document_tokens)
        token = rng.choice(plan.vocabulary, len(document), p=self.token_frequency).astype(np.int32)
        blocks = []
        for first in range(0, n_documents, _DOCUMENTS_AT_ONCE):
            n = min(_DOCUMENTS_AT_ONCE, n_documents - first)
            blocks.append(self._firings(n, rng))
        own = np.flatnonzero(token < plan.tokens)
        ones = np.ones(len(own), np.float32)
        by_token = scipy.sparse.csr_array(
            (ones, (own, token[own])), shape=(len(token), plan.tokens)
        )
        latents = scipy.sparse.hstack([scipy.sparse.vstack(blocks), by_token], format="csr")
        return PlantedText(name, token, document, latents)

    def _firings(self, n_documents: int, rng: np.random.Generator) -> Any:
        """z of all latents but those of tokens, in some documents, CSR."""
        plan = self.planting
        rows = self.latents.filter(pl.col("kind") != "token")
        unit, given = rows["unit"].to_numpy(), rows["given"].to_numpy()
        p = np.zeros(unit[-1] + 1)
        p[unit] = rows["frequency"].to_numpy() / given
        burst = rng.standard_gamma(plan.topic_shape, (n_documents, len(p))) / plan.topic_shape
        rate = np.minimum(p * burst, LARGEST_RATE).astype(np.float32)
        rate = np.repeat(rate, plan.document_tokens, axis=0)
        units = rng.random(rate.shape, dtype=np.float32) < rate
        fires = units[:, unit]
        some = np.flatnonzero(given < 1)
        fires[:, some] &= rng.random((len(fires), len(some)), dtype=np.float32) < given[some]
        latents = scipy.sparse.csr_array(fires.astype(np.float32))
        latents.data = 0.5 + rng.standard_gamma(4.0, latents.nnz, dtype=np.float32) / 8
        return latents

    def carried(self, model: PlantedModel, text: PlantedText) -> Any:
        """z u: each latent's activation in a model, CSR (tokens, latents), 0 for what it lacks."""
        rng = generator(self.seed, "planted jitter", model.name, text.name)
        own, sd = text.latents.copy(), np.float32(self.planting.jitter)
        normal = rng.standard_normal(own.nnz, dtype=np.float32)
        own.data *= np.exp(sd * normal - sd * sd / 2) * self.carries(model)[own.indices]
        own.eliminate_zeros()
        return own

    def directions(self, model: PlantedModel) -> Float[np.ndarray, "latent d_model"]:
        """Unit rows d of a model, float32; those of latents that it lacks are never used."""
        rng = generator(self.seed, "planted directions", model.name)
        rows = rng.standard_normal((len(self.latents), model.d_model)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def residuals(self, model: PlantedModel, text: PlantedText) -> Activations:
        """x of a model, float32 (tokens, d_model)."""
        rng = generator(self.seed, "planted noise", model.name, text.name)
        x = rng.standard_normal((len(text.token), model.d_model), dtype=np.float32)
        x *= np.float32(model.noise)
        x += self.carried(model, text) @ self.directions(model)
        return torch.from_numpy(x)


def _structure(n: int, plan: ResidualPlanting) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Kind, unit and c of n latents: families first, then groups, then latents alone."""
    n_families = int(plan.in_families * n) // (1 + CHILDREN)
    n_groups = int(plan.in_groups * n) // MEMBERS
    family = ["parent"] + ["child"] * CHILDREN
    kinds = family * n_families + ["group"] * (MEMBERS * n_groups)
    sizes = [len(family)] * n_families + [MEMBERS] * n_groups
    alone = n - len(kinds)
    unit = np.repeat(np.arange(len(sizes) + alone), sizes + [1] * alone)
    kinds += ["alone"] * alone
    c = {"parent": 1.0, "child": CHILD_GIVEN, "group": MEMBER_GIVEN, "alone": 1.0}
    return kinds, unit, np.array([c[kind] for kind in kinds])
