"""The study of controls on a small case: near zero without training, then in the expected order."""

from __future__ import annotations

import pytest

import homolog
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress

TRAINED, UNTRAINED = "zoo:transformer-s0", "zoo:transformer-random"
OTHERS = ("#rotated", "#noise=0.8")


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Of each model that `TRAINED` is compared with, the shares of both directions."""
    others = {ref: TRAINED + ref for ref in OTHERS}
    others |= {"s1": "zoo:transformer-s1", "untrained": UNTRAINED}
    twin = {"untrained": "zoo:transformer-s0#untrained=1"}
    recipe = load_recipe("controls").changed(
        models=[{"ref": ref, "layers": [1, 3]} | twin for ref in (TRAINED, *others.values())],
        pairs=[[TRAINED, ref] for ref in others.values()],
        corpus={"train_tokens": 32_768, "match_tokens": 16_384, "quality_tokens": 1_024},
        sae={"d_sae": 128, "epochs": 3, "seeds": [0]},
        controls={"sae_seed": False},
        gates={"explained_variance": -9.0, "loss_recovered": -9.0},
        matching={"resamples": 5},
    )
    out = tmp_path_factory.mktemp("runs") / "controls"
    run_study(recipe, out, SilentProgress())
    shared = homolog.Study.load(out).shared
    assert shared["given"].all(), shared["reason"]
    name = {model.ref: model.name for model in models_of(recipe).all}
    return {
        what: tuple(
            shared.filter(model=model, best_model=best)["share"].item()
            for model, best in ((name[TRAINED], name[ref]), (name[ref], name[TRAINED]))
        )
        for what, ref in others.items()
    }


@pytest.mark.slow
def test_nothing_is_shared_with_an_untrained_model(shares: dict[str, tuple[float, float]]) -> None:
    assert max(shares["untrained"]) <= 0.01


@pytest.mark.slow
def test_less_is_shared_the_less_there_is_to_share(shares: dict[str, tuple[float, float]]) -> None:
    """The same function, another seed of its training, and noise on its weights."""
    for way in (0, 1):
        same, seed, noise = (shares[what][way] for what in ("#rotated", "s1", "#noise=0.8"))
        assert same > 0.5 and same - 0.1 > max(seed, noise)
        assert min(seed, noise) > shares["untrained"][way] + 0.05
