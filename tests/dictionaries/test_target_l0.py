"""An L0 that was asked for: held by every kind, the same after a stop, refused beside a weight."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tests.dictionaries.helpers import D_SAE, small_source

from homolog.dictionaries import (
    Checkpoint,
    KindSettings,
    ResidualArrays,
    TrainingConfig,
    TrainingProgress,
    load,
    parse_config,
    plant,
    save,
    train,
)
from homolog.dictionaries.kinds import KINDS
from homolog.dictionaries.training import trainer
from homolog.dictionaries.training.target import TargetL0
from homolog.errors import InputError
from homolog.record.recipe import Dictionaries

WEIGHTED = ("relu", "gated", "jumprelu")
TRAINING = TrainingConfig(n_tokens=40_000, batch=256, scale_sample=2000)


def asked(kind: str, target: float, d_sae: int = D_SAE) -> KindSettings:
    return parse_config({"kind": kind, "d_sae": d_sae, "target_l0": target})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [3, 9])
def test_every_seed_of_every_layer_has_the_l0_that_was_asked_for(kind: str, target: int) -> None:
    """Layers of 3 and of 6 features a token, which one weight would tell apart."""
    truths = [plant(20_000, 32, 48, seed=i, mean_active=n, zipf=0.5) for i, n in ((7, 3), (8, 6))]
    source = ResidualArrays([truth.x[:16_000] for truth in truths], seed=0)
    training = TrainingConfig(n_tokens=160_000 if kind in WEIGHTED else 100_000, batch=256)
    made = train(source, asked(kind, target, 96), training, model="m", labels=("sae", "seed1"))
    weights = []
    for saes in made.values():
        for sae, truth in zip(saes, truths, strict=True):
            f = sae.encode(truth.x[16_000:])
            assert float((f > 0).sum(1).float().mean()) == pytest.approx(target, rel=0.2)
            weights.append(sae.metadata["config"][KINDS[kind].sparsity])
    if kind in WEIGHTED:
        assert len(set(weights)) == 4 and all(weight > 0 for weight in weights)
    else:
        assert weights == [target] * 4


@pytest.mark.parametrize("device", ["cpu", "twin"])
@pytest.mark.parametrize("kind", WEIGHTED)
def test_a_killed_run_finds_the_same_weight_and_bytes(
    kind: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "twin":
        monkeypatch.setattr(trainer, "_is_cpu", lambda device: False)
    config, file = asked(kind, 5), tmp_path / "checkpoint.safetensors"

    def kill(progress: TrainingProgress) -> None:
        if progress.tokens_done > 20_000:
            raise KeyboardInterrupt

    whole = train(small_source(), config, TRAINING, model="m")["sae"]
    with pytest.raises(KeyboardInterrupt):
        checkpoint = Checkpoint(file, 1)
        train(small_source(), config, TRAINING, model="m", checkpoint=checkpoint, progress=kill)
    resumed = train(small_source(), config, TRAINING, model="m", checkpoint=Checkpoint(file))["sae"]
    for a, b in zip(whole, resumed, strict=True):
        assert a.metadata["config"] == b.metadata["config"]
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            assert getattr(a, name).numpy().tobytes() == getattr(b, name).numpy().tobytes()


def test_cpu_and_device_find_the_same_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    training = TRAINING.model_copy(update={"precision": "float32"})
    weights = []
    for on_cpu in (True, False):
        monkeypatch.setattr(trainer, "_is_cpu", lambda device, on_cpu=on_cpu: on_cpu)
        (sae,) = train(small_source(1), asked("relu", 5), training, model="m")["sae"]
        weights.append(sae.metadata["config"]["l1"])
    assert weights[0] == pytest.approx(weights[1], rel=0.05) and weights[0] != 4.0


def test_the_weight_moves_by_the_error_along_the_course_and_then_stands() -> None:
    training = TrainingConfig(n_tokens=100_000, batch=100, warmup=0.0, decay=0.0)  # 1,000 steps
    held = TargetL0(16, 4.0, 0.0, training)
    assert held.weight == pytest.approx(4.0)  # what the default gives, about
    held.follow(0, 500.0)
    assert held.weight == pytest.approx(4.0)  # first features are found
    held.follow(350, 17.0)
    held.follow(350, 16 * 5**0.5)
    assert held.weight == pytest.approx(4.0)  # half of the way to 0.7: from 1 to sqrt(5) times it
    held.follow(350, 16 * 5**0.5 * math.exp(0.5))
    held.follow(350, 16 * math.exp(-0.5))
    assert held.weight == pytest.approx(4.0)  # up, and down by as much
    held.follow(800, 16 * math.exp(0.5))
    assert held.weight == pytest.approx(4 * math.exp(0.5 * 30 / 1000))
    held.follow(800, 1e6)
    assert held.weight == pytest.approx(4 * math.exp(1.5 * 30 / 1000))  # a wild step counts as 1
    held.follow(900, 1e6)
    assert held.weight == pytest.approx(4 * math.exp(1.5 * 30 / 1000))  # the last tenth
    warming = TargetL0(16, 4.0, 0.5, training)
    warming.follow(499, 1e6)
    assert warming.weight == pytest.approx(4.0)
    assert TargetL0(32, 4.0, 0.0, training).weight == pytest.approx(4 * 0.5**0.7)
    assert TargetL0(1, 4.0, 0.0, training).weight == pytest.approx(4 * 1.6)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_without_a_target_the_weight_is_constant_and_no_file_speaks_of_one(kind: str) -> None:
    config = parse_config({"kind": kind, "d_sae": D_SAE})
    assert "target_l0" not in config.model_dump()
    (sae,) = train(small_source(1), config, TRAINING, model="m")["sae"]
    assert sae.metadata["config"] == config.model_dump()
    found = asked(kind, 5).model_dump()
    assert found["target_l0"] == 5 and KINDS[kind].sparsity not in found


def test_the_file_says_what_was_asked_for_and_found(tmp_path: Path) -> None:
    (sae,) = train(small_source(1), asked("relu", 5), TRAINING, model="m")["sae"]
    save(sae, tmp_path)
    config = load(tmp_path).metadata["config"]
    assert config["target_l0"] == 5 and config["l1"] == sae.metadata["config"]["l1"]
    assert np.isfinite(config["l1"]) and config["l1"] != 4.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "relu", "l1": 4.0, "target_l0": 5}, "finds l1, which is given as well"),
        ({"kind": "gated", "l1": 4.0, "target_l0": 5}, "finds l1, which is given as well"),
        ({"kind": "jumprelu", "l0": 1.0, "target_l0": 5}, "finds l0, which is given as well"),
        ({"kind": "topk", "k": 5, "target_l0": 5}, "it is k, which is given as well"),
        ({"kind": "batchtopk", "k": 5, "target_l0": 5}, "it is k, which is given as well"),
        ({"kind": "topk", "target_l0": 5.5}, "the kind topk keeps a whole number"),
        ({"kind": "relu", "target_l0": 800}, "there are 768 features"),
        ({"kind": "topk", "target_l0": 800}, "there are 768 features"),
        ({"kind": "relu", "target_l0": 5, "l1_warmup": 0.6}, "after l1_warmup, at most half"),
        ({"kind": "relu", "target_l0": 0}, "it breaks a rule"),
    ],
)
def test_what_cannot_be_held_or_is_said_twice_is_refused(values: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(values)


def test_the_sparsity_of_one_model_takes_the_place_of_the_common_one() -> None:
    common = Dictionaries.parse({"kind": "relu", "l1": 4.0, "lr": 1e-3, "d_sae": 96})
    own = common.with_own({"target_l0": 8})
    assert own.of_kind == {"kind": "relu", "target_l0": 8} and own.lr == 1e-3
    assert own.with_own({"l1": 2.0}).of_kind == {"kind": "relu", "l1": 2.0}
    assert own.with_own({"lr": 1.0}).of_kind == own.of_kind
    assert own.with_own({}) is own
