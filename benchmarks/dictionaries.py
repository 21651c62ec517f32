"""Training of sparse autoencoders: ours against a plain PyTorch loop and sae-lens's own SAE, in one run.

    python -m benchmarks.dictionaries --tokens 200000 --layers 2 --sae-lens

On a machine that does other work, give --threads 1 and compare processor time.

All train ReLU + L1 on the same residuals of a zoo model, in the same order, with the same settings, for the same
number of tokens; each one's explained variance on held-out tokens is printed with its time.
    plain      what a user would write: layer by layer, autograd of `losses.relu_loss`, torch.optim.Adam, float32
    sae-lens   the same loop around `StandardTrainingSAE.training_forward_pass`, without the trainer's logging
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import NormalDist

import torch

import homolog
from homolog.corpus import pack, read_documents
from homolog.dictionaries import ReluConfig, ResidualArrays, TrainingConfig, explained_variance, losses, train
from homolog.dictionaries.trainer import estimate_normalisation
from homolog.features.capture import capture
from homolog.zoo import catalog

HELD_OUT = 20_000


def residuals(model_name: str, n_layers: int, n_tokens: int) -> list[torch.Tensor]:
    """Residuals after the last `n_layers` blocks of a model on the demo's text: (token, d_model) each."""
    model = homolog.load(model_name)
    windows = pack(read_documents(catalog.DEMO_TEXT), model.tokenizer, 128)
    windows = windows[: -(-(n_tokens + HELD_OUT) // 120)]
    sites = [site for site in model.sites() if site.kind == "resid"][-n_layers:]
    return capture(model, windows, sites)


def plain(x: torch.Tensor, config: ReluConfig, training: TrainingConfig) -> dict[str, torch.Tensor]:
    """Train one dictionary on scaled x, read in order, with autograd and torch.optim.Adam."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(config.d_sae, x.shape[1], generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True) * config.init_norm
    weights = {
        "W_enc": directions.T.clone(),
        "b_enc": torch.full((config.d_sae,), config.init_norm * NormalDist().inv_cdf(config.init_active)),
        "W_dec": directions.clone(),
        "b_dec": torch.zeros(x.shape[1]),
    }
    parameters = [w.requires_grad_() for w in weights.values()]
    _loop(parameters, x, training, lambda batch: losses.relu_loss(batch, **weights, l1=config.l1))
    return {name: w.detach() for name, w in weights.items()}


def sae_lens(x: torch.Tensor, config: ReluConfig, training: TrainingConfig) -> dict[str, torch.Tensor]:
    """The same with sae-lens's module and losses."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    sae = StandardTrainingSAE(
        StandardTrainingSAEConfig(
            d_in=x.shape[1], d_sae=config.d_sae, l1_coefficient=config.l1, apply_b_dec_to_input=False
        )
    )

    def loss(batch: torch.Tensor) -> torch.Tensor:
        given = TrainStepInput(
            sae_in=batch,
            coefficients={"l1": config.l1},
            dead_neuron_mask=None,
            n_training_steps=0,
            is_logging_step=False,
        )
        return sae.training_forward_pass(given).loss

    _loop(list(sae.parameters()), x, training, loss)
    return {name: getattr(sae, name).detach() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def _loop(
    parameters: list[torch.Tensor],
    x: torch.Tensor,
    training: TrainingConfig,
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    adam = torch.optim.Adam(parameters, betas=(training.beta1, training.beta2))
    size = training.batch_size
    for step in range(training.n_steps):
        adam.param_groups[0]["lr"] = training.learning_rate_at(step)
        adam.zero_grad()
        loss(x[step * size : (step + 1) * size]).backward()
        adam.step()


def ours(layers: list[torch.Tensor], config, training, test: list[torch.Tensor], threads: int):
    """Seconds of wall and of processor, and mean explained variance, of `train` on the same arrays."""
    source = ResidualArrays(layers, seed=0)
    warm = training.model_copy(update={"n_tokens": training.batch_size})
    train(source, config, warm, model="warm", workers=threads)  # compiles
    wall, processor = time.perf_counter(), time.process_time()
    saes = train(source, config, training, model="bench", workers=threads)["sae"]
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    scores = [explained_variance(x, sae.reconstruct(x)) for x, sae in zip(test, saes, strict=True)]
    return wall, processor, sum(scores) / len(scores)


def theirs(fit, layers: list[torch.Tensor], config, training, test: list[torch.Tensor]):
    """The same of a loop that trains layer by layer."""
    source = ResidualArrays(layers, seed=0)
    wall, processor, scores = 0.0, 0.0, []
    for layer, held_out in enumerate(test):
        wall -= time.perf_counter()
        processor -= time.process_time()
        normal = estimate_normalisation(source.sample(training.scale_sample)[layer])
        x = (source.read(0, training.n_steps * training.batch_size)[layer] - normal.mean) * normal.scale
        weights = fit(x, config, training)
        wall += time.perf_counter()
        processor += time.process_time()
        scaled = (held_out - normal.mean) * normal.scale
        f = losses.relu_features(scaled, weights["W_enc"], weights["b_enc"])
        scores.append(explained_variance(scaled, f @ weights["W_dec"] + weights["b_dec"]))
    return wall, processor, sum(scores) / len(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:transformer-s0")
    parser.add_argument("--layers", type=int, default=2, help="dictionaries trained, one a layer")
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens each one sees")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--sae-lens", action="store_true", help="sae-lens as well (a development dependency)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arrays = residuals(options.model, options.layers, min(options.tokens, 250_000))
    layers, test = [a[:-HELD_OUT] for a in arrays], [a[-HELD_OUT:] for a in arrays]
    config, training = ReluConfig(d_sae=options.features), TrainingConfig(n_tokens=options.tokens)
    results = {"ours": ours(layers, config, training, test, options.threads)}
    results["plain"] = theirs(plain, layers, config, training, test)
    if options.sae_lens:
        results["sae-lens"] = theirs(sae_lens, layers, config, training, test)
    print(
        f"{options.layers} dictionaries of {options.features}, {options.tokens} tokens each, {options.threads} threads"
    )
    base = results["ours"]
    for name, (wall, processor, score) in results.items():
        rate = options.layers * training.n_steps * training.batch_size / wall
        print(
            f"{name:9} {wall:7.1f} s {rate:9.0f} tokens/s  processor {processor:7.1f} s  explained variance {score:.3f}"
            f"  to ours: time {wall / base[0]:.1f}, processor {processor / base[1]:.1f}"
        )


if __name__ == "__main__":
    main()
