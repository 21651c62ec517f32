"""Training of a crosscoder: ours against the trainer of dictionary_learning.

    python benchmarks/crosscoder.py                      # two models of width 384, 8,192 latents
    python benchmarks/crosscoder.py --d-model 768 --latents 24576 --k 50 --batch 4096

The release of dictionary_learning on PyPI (0.1.0) has no crosscoder; its BatchTopKTrainer on the
joined stream takes the steps that its branch's BatchTopKCrossCoder takes with code normalisation
"SAE": the same loss, activation and auxiliary loss.  Both sides read the same residuals of two
planted models in the same order, and take the same number of steps of Adam at the same step size on
the same threads; theirs are given joined and scaled, ours from the raw residuals, with the
estimate of the scales.  Theirs is float32, ours as it comes.  Explained variance is that of the
joined stream on held-out rows, k latents a row.  Ratios are of time and of seconds of the
processor, in which other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measuring import busy, machine, timed, worked

from homolog.dictionaries import (
    Crosscoder,
    CrosscoderSettings,
    Place,
    TrainingConfig,
    explained_variance,
    train_crosscoder,
)
from homolog.dictionaries.joint import JointResiduals
from homolog.dictionaries.kinds.base import keep_largest
from homolog.matching.planted_residuals import PlantedModel, ResidualPlanting, World

HELD_OUT = 4096
Streams = dict[str, torch.Tensor]


class Measured(NamedTuple):
    """seconds, and those of the processor; explained variance."""

    seconds: float
    processor: float
    explained: float


def measured(train: Callable[[], Any], explained: Callable[[Any], float]) -> Measured:
    """Of a training, and of what it gives."""
    processor, (seconds, trained) = worked(lambda: timed(train))
    return Measured(seconds, processor, explained(trained))


def residuals(n_rows: int, d_model: int) -> tuple[Streams, Streams]:
    """Of two models that share half of what they hold: to train on, and held out."""
    models = tuple(PlantedModel(name, d_model, 0.05) for name in ("A", "B", "untrained"))
    planting = ResidualPlanting(2 * d_model, 2 * d_model, mean_active=16.0, models=models)  # pyright: ignore[reportArgumentType]
    world = World(planting)
    text = world.text("bench", -(-(n_rows + HELD_OUT) // planting.document_tokens))
    whole = {model.name: world.residuals(model, text) for model in models[:2]}
    train = {name: x[:n_rows].contiguous() for name, x in whole.items()}
    return train, {name: x[n_rows : n_rows + HELD_OUT] for name, x in whole.items()}


def ours(
    train: Streams, held_out: Streams, config: CrosscoderSettings, training: TrainingConfig
) -> Measured:
    """With the estimate of scales, and gathering of the rows."""
    on = Place(workers=torch.get_num_threads())

    def explained(crosscoder: Crosscoder) -> float:
        x, sae = crosscoder.joined(list(held_out.values())), crosscoder.sae
        p = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
        return explained_variance(x, sae.decode(keep_largest(p, config.k)))

    return measured(lambda: train_crosscoder(train, config, training, on=on), explained)


def theirs(
    train: Streams, held_out: Streams, config: CrosscoderSettings, training: TrainingConfig
) -> Measured:
    """The same of dictionary_learning."""
    source = JointResiduals(train, training)
    joined = source.streams.joined(list(train.values()))
    rows = [source.read(i * training.batch, training.batch).rows for i in range(training.n_steps)]  # pyright: ignore[reportAttributeAccessIssue]
    trainer = _trainer_class()(
        steps=training.n_steps,
        activation_dim=joined.shape[1],
        dict_size=config.d_sae,
        k=config.k,
        layer=0,
        lm_name="planted",
        lr=training.lr,
        warmup_steps=0,
        device="cpu",
        seed=0,
    )

    def run() -> None:
        for step, batch in enumerate(rows):
            trainer.update(step, joined[batch])

    @torch.no_grad()
    def explained(_: None) -> float:
        x = source.streams.joined(list(held_out.values()))
        p = torch.relu(trainer.ae.encoder(x - trainer.ae.b_dec))
        return explained_variance(x, trainer.ae.decode(keep_largest(p, config.k)))

    return measured(run, explained)


def _trainer_class() -> Any:
    """Without the package's own imports, which are for buffers that are not needed here."""
    spec = importlib.util.find_spec("dictionary_learning")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install dictionary-learning, to compare with it")
    if "dictionary_learning" not in sys.modules:
        package = types.ModuleType("dictionary_learning")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["dictionary_learning"] = package
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    return BatchTopKTrainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    print(f"{machine()}, {options.threads} threads. {busy()}")
    config = CrosscoderSettings(d_sae=options.latents, k=options.k, dedicated=0.0)
    settings = {"batch": options.batch, "lr": options.lr, "warmup": 0, "decay": 0}
    training = TrainingConfig(n_tokens=options.steps * options.batch, dead_after=10**12, **settings)
    given = *residuals(training.n_tokens, options.d_model), config
    ours(*given, training.model_copy(update={"n_tokens": 2 * options.batch}))  # compiles
    pairs = [(ours(*given, training), theirs(*given, training)) for _ in range(options.rounds)]
    print(
        f"{options.latents} latents of two models of width {options.d_model}, k = {options.k}, "
        f"{options.steps} steps of {options.batch}"
    )
    for name, runs in zip(("ours", "dictionary_learning"), zip(*pairs, strict=True), strict=True):
        rate = training.n_tokens / statistics.median(run.seconds for run in runs)
        print(f"  {name:20} {rate:7.0f} rows/s  explained variance {runs[-1].explained:.4f}")
    for what, place in (("time", 0), ("seconds of the processor", 1)):
        ratios = [other[place] / own[place] for own, other in pairs]
        print(
            f"ours is {statistics.median(ratios):.1f} times as fast by {what} "
            f"({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
