"""Forward passes of recurrent models and hybrids on the CPU, ours against Hugging Face's own path.

    python benchmarks/recurrent_forward.py [--models NAME ...] [--batch N ...] [--length L]
                                           [--repeats N] [--threads N] [--mixers]

Models of 130 to 170 million parameters with random weights in float32 (`recurrent_models.py`).
Their side is the module as a user runs it where no CUDA kernels are installed.  Asked of both are
the logits of every position, and the residual stream after every block.  Both sides have the same
weights and tokens and run in one process.  Rounds alternate; every ratio is the median over rounds
of two times of the same round, so that what else the machine does falls on both.  With one thread
times are the processor's, in which other jobs do not count.  Memory is the peak during one call,
its results included, beyond what was there before.  Below the logits stands the ratio that would be
had if only the linear layers took time, which both sides have.  With `--mixers` the peak of a
single mixer over long windows is measured instead, beside what all its states would take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import peak_beyond
from recurrent_models import CONFIGURATIONS, adapter_of, module_of
from torch import Tensor

from homolog.models.decoder import Decoder
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.taps import NOTHING

Call = Callable[[], Tensor]
WITHOUT_EMBEDDINGS = ("mamba2", "rwkv")
"""Model types whose hidden states begin with that after the first block."""


def calls_of(model: Decoder, tokens: Tensor) -> dict[str, tuple[Call, Call]]:
    """By question: ours, theirs."""
    hf: Any = model.hf

    def logits() -> Tensor:
        logits = model.run(tokens).logits
        assert logits is not None
        return logits

    first = 0 if hf.config.model_type in WITHOUT_EMBEDDINGS else 1

    def their_stream() -> Tensor:
        # the last one is normed already: it is left out of the comparison
        states = hf.base_model(tokens, output_hidden_states=True).hidden_states
        return torch.stack(states[first : first + model.n_layers - 1])

    return {
        "logits": (logits, lambda: hf(tokens).logits),
        "stream": (lambda: torch.stack(model.residuals(tokens)[:-1]), their_stream),
    }


def measure(model: Decoder, tokens: Tensor, repeats: int) -> None:
    """Print tokens/s, ratios, memory and the difference of results."""
    print(f"{model.name}, {model.n_parameters / 1e6:.0f} M, tokens {tuple(tokens.shape)}:")
    for asked, calls in calls_of(model, tokens).items():
        (our_peak, ours), (their_peak, theirs) = (peak_beyond(call) for call in calls)
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        del ours, theirs
        timed = [*calls, products_of(model, tokens)] if asked == "logits" else calls
        rounds = [[seconds_of(call) for call in timed] for _ in range(repeats)]
        ratio = statistics.median(b / a for a, b, *_ in rounds)
        print(
            f"    {asked}: ours {shown(tokens, [a for a, *_ in rounds], our_peak)}; Hugging Face "
            f"{shown(tokens, [b for _, b, *_ in rounds], their_peak)}; ratio {ratio:.1f}, memory "
            f"{their_peak / our_peak:.1f}; relative difference {error:.1e}",
            flush=True,
        )
        if asked == "logits":
            bound = statistics.median(b / c for _, b, c in rounds)
            share = statistics.median(c / a for a, _, c in rounds)
            print(f"        products alone: ratio {bound:.1f}; {share:.0%} of our time", flush=True)


def products_of(model: Decoder, tokens: Tensor) -> Call:
    """All linear layers that a pass of their module goes through, on noise of the same shapes."""
    inputs: list[tuple[torch.nn.Linear, Tensor]] = []

    def keep(linear: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(linear, torch.nn.Linear)
        inputs.append((linear, torch.randn_like(given[0])))

    hooks = [
        module.register_forward_pre_hook(keep)
        for module in model.hf.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    model.hf(tokens)
    for hook in hooks:
        hook.remove()

    def products() -> Tensor:
        for linear, x in inputs:
            result = linear(x)
        return result

    return products


def seconds_of(call: Call) -> float:
    """What a call takes: processor time where there is one thread, else time on the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    call()
    return clock() - begun


def shown(tokens: Tensor, seconds: list[float], peak: float) -> str:
    """The speed and the peak of one side."""
    return f"{tokens.numel() / statistics.median(seconds):,.0f} tokens/s, {peak / 2**20:.0f} MiB"


def measure_mixers() -> None:
    """Print what the first mixer of Mamba-2 and of Qwen3-Next needs at 4,096 and 16,384 tokens."""
    for name in ("mamba2", "qwen3_next"):
        model = adapter_of(module_of(name))
        mixer = model.mixers(0)[0]
        assert isinstance(mixer, LinearMixer)
        one = mixer.memory(mixer.enter(torch.randn(1, 8, model.d_model), {None: None}))
        for length in (4096, 16_384):
            h = torch.randn(1, length, model.d_model)
            peak, _ = peak_beyond(lambda h=h, mixer=mixer: mixer(h, {None: None}, NOTHING))
            states = length * one.numel() * one.element_size()
            print(
                f"{name}, one mixer, {length:,} tokens: {peak / 2**20:,.0f} MiB, "
                f"all states {states / 2**20:,.0f} MiB",
                flush=True,
            )


def main() -> None:
    """Measure each model at each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CONFIGURATIONS, default=[*CONFIGURATIONS])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mixers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} threads")
    if options.mixers:
        with torch.inference_mode():
            measure_mixers()
        return
    for name in options.models:
        model = adapter_of(module_of(name))
        with torch.inference_mode():
            model.run(torch.zeros(1, 8, dtype=torch.int64))  # what is compiled at the first call
            for batch in options.batch:
                tokens = torch.randint(1, 30_000, (batch, options.length))
                measure(model, tokens, options.repeats)


if __name__ == "__main__":
    main()
