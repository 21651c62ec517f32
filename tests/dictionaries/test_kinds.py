"""Kinds of dictionaries: looked up by name, and a new one by registering it alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from pydantic import Field
from tests.dictionaries.helpers import D_SAE, small_source

import homolog
from homolog.dictionaries import (
    KINDS,
    Checkpoint,
    TrainingConfig,
    TrainingProgress,
    explained_variance,
    kind_of,
    load,
    parse_config,
    plant,
    register,
    save,
    train,
)
from homolog.dictionaries.kinds import (
    Kind,
    KindSettings,
    Start,
    Terms,
    gated,
    jumprelu,
    relu,
    topk,
)
from homolog.dictionaries.kinds.base import pre_activations
from homolog.dictionaries.sources import ResidualArrays
from homolog.errors import InputError


class Settings(KindSettings):
    """ReLU with a penalty on the square root of features."""

    kind: Literal["root"] = "root"
    root: float = Field(default=1.0, ge=0)


class Root(Kind):
    """The whole of a simple kind: where it begins, its features, and its loss."""

    Settings = Settings
    sparsity = "root"

    def start(self, settings: Settings) -> Start:
        return Start(norm=0.5)

    def penalty(self, settings: Settings) -> tuple[float, float]:
        return settings.root, 0.1

    def terms(
        self, settings: Settings, x, w: Mapping[str, torch.Tensor], dead: torch.Tensor | None = None
    ) -> Terms:
        f = pre_activations(x, w).relu()
        return Terms(f, ((f + 1e-3).sqrt() - 1e-3**0.5).sum(-1).mean())


@pytest.fixture
def root() -> Iterator[Kind]:
    yield register(Root())
    del KINDS["root"]


TRAINING = TrainingConfig(n_tokens=40_000, batch=256, scale_sample=2000, dead_after=3000)


@pytest.mark.usefixtures("root")
def test_a_kind_from_outside_is_trained_saved_loaded_and_matched(tmp_path: Path) -> None:
    truth = plant(8000, 32, 48, seed=7, mean_active=3.0, zipf=0.5)
    source = ResidualArrays(truth.x[None, :6000], seed=0)
    config = parse_config({"kind": "root", "d_sae": 96})
    training = TRAINING.model_copy(update={"n_tokens": 150_000})
    reports: list[TrainingProgress] = []
    trained = train(
        source, config, training, model="m", labels=("sae", "seed1"), progress=reports.append
    )
    held_out, features = truth.x[6000:], []
    for label, (sae,) in trained.items():
        save(sae, tmp_path / label)
        back = load(tmp_path / label)
        assert (back.kind, back.metadata["config"]["root"]) == ("root", 1.0)
        assert torch.equal(back.encode(held_out), sae.encode(held_out))
        features.append(back.encode_sparse(held_out))
    f = torch.from_numpy(features[0].toarray())
    score, l0 = explained_variance(held_out, back.reconstruct(held_out)), (f > 0).sum(1).float()
    assert score > 0.6 and float(l0.mean()) == pytest.approx(reports[-1].l0, rel=0.1)
    best = homolog.max_pearson(*features)
    often = (f > 0).sum(0).numpy() > 30
    assert float(best.a_to_b.r[often, 0].mean()) > 0.8  # two seeds find the same planted features
    cosine = (truth.directions @ trained["sae"][0].W_dec.T).max(dim=1).values
    assert float(cosine.mean()) > 0.9


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ["dictionary_learning", "llamascopium"])
def test_a_kind_from_outside_is_written_for_other_libraries(name: str, tmp_path: Path) -> None:
    (sae,) = train(
        small_source(1),
        parse_config({"kind": "root", "d_sae": D_SAE}),
        TRAINING.model_copy(update={"n_tokens": 2048}),
        model="m",
    )["sae"]
    save(sae, tmp_path, format=name)
    back, x = load(tmp_path), small_source(1).read(0, 50)[0]
    assert back.kind == "root"
    torch.testing.assert_close(back.encode(x), sae.encode(x))


@pytest.mark.usefixtures("root")
def test_a_kind_from_outside_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    config, file = parse_config({"kind": "root", "d_sae": D_SAE}), tmp_path / "checkpoint"

    def kill(progress: TrainingProgress) -> None:
        if progress.tokens_done > 20_000:
            raise KeyboardInterrupt

    whole = train(small_source(), config, TRAINING, model="m")["sae"]
    with pytest.raises(KeyboardInterrupt):
        train(
            small_source(),
            config,
            TRAINING,
            model="m",
            checkpoint=Checkpoint(file, 1),
            progress=kill,
        )
    resumed = train(small_source(), config, TRAINING, model="m", checkpoint=Checkpoint(file))["sae"]
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.W_dec, b.W_dec)


@pytest.mark.parametrize("kind", [relu, topk, jumprelu, gated], ids=lambda kind: kind.KIND.name)
def test_autograd_takes_the_steps_that_rules_take(
    kind: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = kind.Settings(d_sae=D_SAE)
    training = TRAINING.model_copy(update={"n_tokens": 10 * 256, "precision": "float32"})
    (by_rules,) = train(small_source(1), config, training, model="m")["sae"]
    monkeypatch.setattr(type(kind.KIND), "rules", None)
    (by_autograd,) = train(small_source(1), config, training, model="m")["sae"]
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        ours, theirs = getattr(by_rules, name), getattr(by_autograd, name)
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3, name


def test_names_of_kinds_and_settings_that_there_are_not_are_named() -> None:
    assert kind_of("relu") is relu.KIND and KINDS["topk"] is topk.KIND
    with pytest.raises(InputError, match=r"kind is 'rleu', .* one of relu, .* mean 'relu'\?"):
        kind_of("rleu")
    with pytest.raises(InputError, match="kind is None, but it must be one of"):
        parse_config({"d_sae": 8})
    with pytest.raises(InputError, match=r"l2 is 3, .* relu has no such setting.* mean 'l1'\?"):
        parse_config({"kind": "relu", "l2": 3})
    with pytest.raises(InputError, match="l1 is -1, but it breaks a rule"):
        parse_config({"kind": "relu", "l1": -1})


def test_two_kinds_of_one_name_are_refused() -> None:
    class Other(Root):
        Settings = relu.Settings

    assert register(relu.KIND) is relu.KIND
    with pytest.raises(InputError, match="kind is 'relu', but another kind has this name"):
        register(Other())


def test_settings_are_read_without_what_trains() -> None:
    code = (
        "import sys; import homolog.dictionaries.configs; "
        "print({'torch', 'numba'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
