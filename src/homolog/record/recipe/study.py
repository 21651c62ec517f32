"""A whole study: all tables, and what must hold between them."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import Field, model_serializer, model_validator

from homolog.record.layers import ALL
from homolog.record.recipe.dictionaries import Grid, Sae
from homolog.record.recipe.judging import Controls, Gates, Matching
from homolog.record.recipe.machine import RunSettings
from homolog.record.recipe.meaning import AlignmentSearch, Circuits, Crosscoders, Interpretation
from homolog.record.recipe.models import RANDOM, Model
from homolog.record.recipe.text import Corpus
from homolog.record.run_record import recipe_hash
from homolog.record.settings import Settings


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
    crosscoder: Crosscoders | None = None
    alignment_search: AlignmentSearch | None = None
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

    @model_serializer(mode="wrap")
    def _as_given(self, handler: Any) -> dict[str, Any]:
        """Without tables that are not there: runs from before recipes had them go on."""
        idle = [name for name in ("crosscoder", "alignment_search") if getattr(self, name) is None]
        return {name: value for name, value in handler(self).items() if name not in idle}

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
        if self.crosscoder is not None:
            changes["crosscoder"] = {"tokens": 256, "epochs": 1, "batch": 128}
        if self.alignment_search is not None:
            changes["alignment_search"] = {"tokens": 256, "test_tokens": 256, "steps": 1}
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
