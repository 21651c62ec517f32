"""`target_l0`: the L0 that was asked for, by a weight that is found for each dictionary."""

from __future__ import annotations

import pytest
from tests.dictionaries.helpers import D_SAE, small_source

from homolog.dictionaries import (
    ResidualArrays,
    SparseAutoencoder,
    TrainingConfig,
    parse_config,
    plant,
    train,
)
from homolog.dictionaries.kinds import KINDS
from homolog.dictionaries.training.target import TargetL0
from homolog.errors import InputError

TRAINING = TrainingConfig(n_tokens=400_000, batch=256, lr=3e-3, scale_sample=2000)
PLANTED = plant(n_features=64, d_model=32, n_tokens=24_000, seed=0)


def l0_of(sae: SparseAutoencoder) -> float:
    """On tokens that the dictionary was not trained on."""
    return float((sae.encode(PLANTED.x[20_000:]) > 0).sum(1).float().mean())


@pytest.mark.parametrize("target", [3.0, 10.0])
@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu"])
def test_every_dictionary_holds_the_target_by_a_weight_of_its_own(kind: str, target: float) -> None:
    config = parse_config({"kind": kind, "d_sae": 96, "target_l0": target})
    x = PLANTED.x[:20_000]
    layers = [x, 3 * x + x.roll(1, dims=1)]  # the second is denser at one weight
    source = ResidualArrays(layers, seed=0, name="planted")
    saes = train(source, config, TRAINING, model="m", labels=("sae", "seed1"))
    weights = [
        sae.metadata["config"][KINDS[kind].sparsity]
        for of_label in saes.values()
        for sae in of_label
    ]
    assert l0_of(saes["sae"][0]) == pytest.approx(target, rel=0.2)
    assert l0_of(saes["seed1"][0]) == pytest.approx(target, rel=0.2)
    assert len(set(weights)) == 4
    assert saes["sae"][0].metadata["config"]["target_l0"] == target


def test_a_target_of_topk_is_its_k() -> None:
    for kind in ("topk", "batchtopk"):
        config = parse_config({"kind": kind, "d_sae": 96, "target_l0": 5})
        assert config == parse_config({"kind": kind, "d_sae": 96, "k": 5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "relu", "l1": 4.0, "target_l0": 8}, "it finds l1, which is given as well"),
        ({"kind": "jumprelu", "l0": 1.0, "target_l0": 8}, "it finds l0, which is given as well"),
        ({"kind": "topk", "k": 8, "target_l0": 8}, "it is k, which is given as well"),
        ({"kind": "batchtopk", "target_l0": 8.5}, "a whole number"),
        ({"kind": "gated", "target_l0": 0}, "target_l0 is 0"),
        ({"kind": "relu", "target_l0": 97}, "there are 96 features"),
    ],
)
def test_what_cannot_be_a_target_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config(settings | {"d_sae": 96})


def test_the_weight_moves_by_what_is_written() -> None:
    training = TrainingConfig(n_tokens=100 * 256, batch=256, warmup=0.0, decay=0.0)
    follower = TargetL0(10.0, 4.0, 0.1, training)
    follower.follow(5, 80.0)  # the weight still rises to its start
    assert follower.weight == pytest.approx(4.0)
    follower.follow(20, 20.0)  # 30 / 100 steps, twice the target
    assert follower.weight == pytest.approx(4.0 * 2**0.3)
    follower.follow(21, 10_000.0)  # an error counts as one of e times at most
    assert follower.weight == pytest.approx(4.0 * 2**0.3 * 2.718281828**0.3)
    held = follower.weight
    follower.follow(95, 20.0)
    assert follower.weight == held


def test_without_a_target_the_weight_is_constant() -> None:
    short = TRAINING.model_copy(update={"n_tokens": 20_000})
    (sae, _) = train(
        small_source(), parse_config({"kind": "relu", "d_sae": D_SAE, "l1": 3.0}), short, model="m"
    )["sae"]
    assert sae.metadata["config"]["l1"] == 3.0 and "target_l0" not in sae.metadata["config"]
