"""Training of dictionaries on a CUDA device against SAELens' own trainer on it.

    python benchmarks/sae_training_gpu.py --tokens 4000000 --layers 1 12 24

Both sides train on the same planted activations, which lie on the device.  Ours is
`dictionaries.train` as it is. SAELens is its `SAETrainer` with autocast to bfloat16 and one layer,
which is all it trains at once.  On both sides a feature counts as dead after 1,000 steps.  Rates
are tokens a second times layers, without the first tenth, in which kernels are compiled; memory is
the most that torch held beyond the activations, a layer.  `--profile` prints where the time of our
steps goes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from homolog.dictionaries import (
    KindSettings,
    Place,
    TrainingConfig,
    TrainingProgress,
    plant,
    train,
)
from homolog.dictionaries.kinds import relu, topk

CHUNK = 16_384  # tokens of a read of `train`
FEATURES = 4096  # planted
ACTIVE = 50.0  # of them a token
DEAD = 1000  # steps without firing after which a feature counts as dead


class Stream:
    """Activations on a device as an endless stream, the same for all layers.

    An `ActivationSource`.
    """

    def __init__(self, x: torch.Tensor, n_layers: int) -> None:
        self.x, self.n_layers, self.layer_numbers = x, n_layers, list(range(n_layers))
        self.d_model, self.fingerprint = x.shape[1], "planted"

    def read(self, start: int, n_tokens: int) -> Sequence[torch.Tensor]:
        rows = torch.arange(start, start + n_tokens, device=self.x.device) % len(self.x)
        return [self.x[rows]] * self.n_layers

    def sample(self, n_tokens: int) -> Sequence[torch.Tensor]:
        return [self.x[:n_tokens]] * self.n_layers


@dataclass(frozen=True)
class Measured:
    """One training."""

    rate: float
    """Tokens a second times layers."""
    memory: float
    """Bytes a layer, beyond the activations."""
    l0: float
    """Active features a token in the end."""


def activations(n_tokens: int, d_model: int, device: str) -> torch.Tensor:
    """Planted, centred, of mean norm sqrt(d_model)."""
    x = plant(n_tokens, d_model, FEATURES, seed=0, mean_active=ACTIVE).x
    x -= x.mean(0)
    return (x * (d_model**0.5 / x.norm(dim=1).mean())).to(device)


def wait(device: str) -> float:
    """Seconds on the clock when all work of the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def begin(device: str) -> int:
    """Start to watch the memory of a device; what is in use."""
    if not device.startswith("cuda"):
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def most(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def ours(
    x: torch.Tensor, config: KindSettings, layers: int, n_tokens: int, batch: int, device: str
) -> Measured:
    """`train` on all layers at once."""
    held, marks = begin(device), []

    def mark(progress: TrainingProgress) -> None:
        marks.append((wait(device), progress.tokens_done, progress.l0))

    training = TrainingConfig(
        n_tokens=n_tokens,
        batch=batch,
        lr=3e-4,
        precision="bfloat16",
        dead_after=DEAD * batch,
    )
    train(Stream(x, layers), config, training, model="planted", progress=mark, on=Place(device))
    (first, before, _), (last, after, l0) = marks[len(marks) // 10], marks[-1]
    return Measured((after - before) * layers / (last - first), (most(device) - held) / layers, l0)


def sae_lens(
    x: torch.Tensor, config: KindSettings, n_tokens: int, batch: int, device: str
) -> Measured:
    """SAELens' trainer with the same kind, width and sparsity."""
    from sae_lens import (
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    widths: dict[str, Any] = {"d_in": x.shape[1], "d_sae": config.d_sae, "device": device}
    if isinstance(config, topk.Settings):
        sae: Any = TopKTrainingSAE(
            TopKTrainingSAEConfig(**widths, k=config.k, apply_b_dec_to_input=True)
        )
    else:
        assert isinstance(config, relu.Settings)
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**widths, l1_coefficient=config.l1))

    def batches() -> Iterator[torch.Tensor]:
        start = 0
        while True:
            yield x[torch.arange(start, start + batch, device=x.device) % len(x)]
            start += batch

    steps = n_tokens // batch
    marks: list[float] = []

    class Timed(SAETrainer):
        done = 0

        def _train_step(self, *args: Any, **named: Any) -> Any:
            if self.done == max(1, steps // 10):
                marks.append(wait(device))
            self.done += 1
            return super()._train_step(*args, **named)

    held = begin(device)
    settings = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=steps * batch,
        device=device,
        autocast=True,
        lr=3e-4,
        lr_end=3e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=batch,
        dead_feature_window=DEAD,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = Timed(settings, sae.to(device), batches())
    trainer.fit()
    last = wait(device)
    with torch.no_grad():
        l0 = float((sae.encode(x[:batch]) > 0).sum(1).float().mean())
    return Measured(
        (steps - max(1, steps // 10)) * batch / (last - marks[0]), most(device) - held, l0
    )


def profile(x: torch.Tensor, config: KindSettings, batch: int) -> None:
    """Print the kernels of our steps, the longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    ours(x, config, 1, 4 * CHUNK, batch, "cuda")  # compiles
    with watch(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        ours(x, config, 1, 16 * CHUNK, batch, "cuda")
    print(recorded.key_averages().table(sort_by="cuda_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of every training")
    parser.add_argument("--features", type=int, default=24_576, help="of a dictionary")
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--batch", type=int, default=4096, help="tokens a step")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--l1", type=float, default=4.0)
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[1, 12, 24], help="at once, one training each"
    )
    parser.add_argument("--kinds", nargs="+", default=["topk", "relu"], choices=["topk", "relu"])
    parser.add_argument("--profile", action="store_true", help="where the time of our steps goes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing to measure")
        sys.exit(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    x = activations(131_072, options.d_model, "cuda")
    configs: dict[str, KindSettings] = {
        "topk": topk.Settings(d_sae=options.features, k=options.k),
        "relu": relu.Settings(d_sae=options.features, l1=options.l1),
    }
    print(
        f"{options.features} features of {options.d_model} dimensions, batches of {options.batch} "
        "tokens, bfloat16"
    )
    print(f"{'':28}{'tokens/s x layers':>20}{'to SAELens':>12}{'MiB a layer':>14}{'L0':>8}")
    for kind in options.kinds:
        theirs = sae_lens(x, configs[kind], options.tokens, options.batch, "cuda")
        rows = [("SAELens, 1 layer", theirs)]
        for layers in options.layers:
            numbers = ours(x, configs[kind], layers, options.tokens, options.batch, "cuda")
            rows.append((f"ours, {layers} at once", numbers))
        for name, row in rows:
            ratio, mib = row.rate / theirs.rate, row.memory / 2**20
            print(
                f"{kind + ': ' + name:28}{row.rate:20,.0f}{ratio:12.1f}{mib:14,.0f}{row.l0:8.1f}",
                flush=True,
            )
        if options.profile:
            profile(x, configs[kind], options.batch)


if __name__ == "__main__":
    main()
