"""Training of sparse autoencoders at the paper's size: ours against SAELens' own trainer.

    python benchmarks/sae_training.py                     # TopK and ReLU + L1, three paired rounds
    python benchmarks/sae_training.py --kinds topk --rounds 1 --steps 10

d_model 768, 24,576 features, k = 50, batch 4,096, on all cores.  Both sides read the same
activations (planted features in superposition) in the same order, start from decoders and encoders
of norm 1 (TopK) or 0.1 (ReLU), and take the same number of steps of Adam at the same step size.
SAELens runs in float32 and under bfloat16 autocast, its `SAETrainer.fit` is timed as it is; ours is
`dictionaries.train`, gathering and scaling of the activations included. Explained variance is that
of held-out tokens after training.  The bound is the encoder's product alone, in the precision that
ours uses.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings

import torch
from measuring import busy, machine, peak_beyond, timed

from homolog.dictionaries import (
    KindSettings,
    Place,
    ResidualArrays,
    TrainingConfig,
    explained_variance,
    plant,
    train,
)
from homolog.dictionaries.hardware import product_precision
from homolog.dictionaries.kinds import relu, topk
from homolog.dictionaries.training.fold import estimate_normalisation

HELD_OUT = 4096
L1 = 5.0


def activations(n_tokens: int, d_model: int) -> torch.Tensor:
    """Planted features: (token, d_model), centred and of mean norm sqrt(d_model).

    So neither side has to scale.
    """
    x = plant(n_tokens + HELD_OUT, d_model, 4 * d_model, seed=0, mean_active=24.0).x
    normal = estimate_normalisation(x)
    return normal.apply(x)


def ours(x: torch.Tensor, config: KindSettings, training: TrainingConfig, threads: int):
    """(seconds, peak bytes beyond the activations, explained variance)."""
    source = ResidualArrays(x[None, :-HELD_OUT], seed=0)

    def run():
        return timed(
            lambda: train(source, config, training, model="bench", on=Place(workers=threads))[
                "sae"
            ][0]
        )

    peak, (seconds, sae) = peak_beyond(run)
    return seconds, peak, explained_variance(x[-HELD_OUT:], sae.decode(sae.encode(x[-HELD_OUT:])))


def sae_lens(x: torch.Tensor, config: KindSettings, training: TrainingConfig, autocast: bool):
    """The same of SAELens' trainer."""
    import sae_lens as sl
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    widths = {"d_in": x.shape[1], "d_sae": config.d_sae, "apply_b_dec_to_input": False}
    if isinstance(config, topk.Settings):
        sae = sl.TopKTrainingSAE(
            sl.TopKTrainingSAEConfig(**widths, k=config.k, decoder_init_norm=1.0)
        )
    else:
        sae = sl.StandardTrainingSAE(
            sl.StandardTrainingSAEConfig(**widths, l1_coefficient=L1, decoder_init_norm=0.1)
        )
    source = ResidualArrays(x[None, :-HELD_OUT], seed=0)
    size = training.batch

    def batches():
        for step in range(training.n_steps):
            yield source.read(step * size, size)[0]

    settings = SAETrainerConfig(
        total_training_samples=training.n_steps * size,
        train_batch_size_samples=size,
        device="cpu",
        autocast=autocast,
        lr=training.lr,
        lr_end=training.lr,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        n_restart_cycles=1,
        adam_beta1=training.beta1,
        adam_beta2=training.beta2,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        dead_feature_window=10**6,
        feature_sampling_window=10**6,
        logger=LoggingConfig(log_to_wandb=False),
    )
    peak, (seconds, _) = peak_beyond(
        lambda: timed(lambda: SAETrainer(settings, sae, batches()).fit())
    )
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(x[-HELD_OUT:]))
    return seconds, peak, explained_variance(x[-HELD_OUT:], x_hat)


def bound(config: KindSettings, d_model: int, n_tokens: int) -> float:
    """Tokens/s of the encoder's product alone."""
    dtype = torch.bfloat16 if product_precision("auto") == "bfloat16" else torch.float32
    x, W = (
        torch.randn(n_tokens, d_model, dtype=dtype),
        torch.randn(config.d_sae, d_model, dtype=dtype),
    )
    out = torch.empty(n_tokens, config.d_sae, dtype=dtype)
    return n_tokens / min(timed(lambda: torch.mm(x, W.T, out=out))[0] for _ in range(5))


def compare(name: str, config: KindSettings, options: argparse.Namespace) -> None:
    training = TrainingConfig(
        n_tokens=options.steps * options.batch,
        batch=options.batch,
        lr=options.lr,
        warmup=0,
        decay=0,
        dead_after=10**12,
    )
    x = activations(training.n_tokens, options.d_model)
    sides = {"sae-lens float32": False, "sae-lens bfloat16 autocast": True}
    warm = training.model_copy(update={"n_tokens": 2 * options.batch})
    ours(x, config, warm, options.threads)  # compiles
    speeds: dict[str, list[tuple[float, float, float]]] = {side: [] for side in ("ours", *sides)}
    for _ in range(options.rounds):
        speeds["ours"].append(ours(x, config, training, options.threads))
        for side, autocast in sides.items():
            speeds[side].append(sae_lens(x, config, training, autocast))
    n_tokens = training.n_steps * options.batch
    print(
        f"\n{name}: {config.d_sae} features of d_model {options.d_model}, {training.n_steps} "
        f"steps of {options.batch}"
    )
    limit = bound(config, options.d_model, options.batch)
    for side, runs in speeds.items():
        rate = n_tokens / statistics.median(seconds for seconds, _, _ in runs)
        ratios = [other[0] / own[0] for own, other in zip(speeds["ours"], runs, strict=True)]
        print(
            f"  {side:27} {rate:7.0f} tokens/s  {rate / limit:5.1%} of the product alone "
            f"({limit:.0f})  "
            f"explained variance {runs[-1][2]:.4f}  peak "
            f"{max(run[1] for run in runs) / 2**30:.2f} GiB  "
            f"ours is {statistics.median(ratios):.1f} times as fast ({min(ratios):.1f} to "
            f"{max(ratios):.1f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=("topk", "relu"), default=["topk", "relu"])
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--features", type=int, default=24_576)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    print(f"{machine()}, {options.threads} threads. {busy()}")
    configs: dict[str, KindSettings] = {
        "topk": topk.Settings(d_sae=options.features, k=options.k),
        "relu": relu.Settings(d_sae=options.features, l1=L1),
    }
    for kind in options.kinds:
        compare(
            {"topk": f"TopK, k = {options.k}", "relu": f"ReLU + L1, l1 = {L1:g}"}[kind],
            configs[kind],
            options,
        )


if __name__ == "__main__":
    main()
