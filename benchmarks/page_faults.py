"""Reading residuals with freed memory kept (`homolog.memory`) and given back, as glibc does it.

    python benchmarks/page_faults.py [--tokens N] [--rounds N]

A Llama of SmolLM2-135M's configuration with random weights in float32 reads windows of 256 tokens,
4,096 at a time as a study does, up to block 20 of 30, and keeps the residual stream after three
blocks.  Each measurement is a process of its own; rounds alternate, and the ratio is the median
over rounds of two speeds of the same round.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics

import torch
from measuring import alone, timed
from recurrent_models import adapter_of
from transformers.models.auto.configuration_auto import AutoConfig

from homolog.features.capture import FORWARD_TOKENS
from homolog.memory import CHOSEN_BY_USER, keep_freed_memory
from homolog.models.random_weights import fresh

CONTEXT, KEPT = 256, (8, 14, 20)
CONFIGURATION = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "use_cache": False,
}


def reading(keep: bool, n_tokens: int) -> tuple[float, int, float]:
    """(tokens/s, page faults, peak of resident memory in MiB) of this process."""
    if keep:
        keep_freed_memory()
    model = adapter_of(fresh(AutoConfig.for_model("llama", **CONFIGURATION), seed=0).eval())
    sites = [f"resid.{layer}" for layer in KEPT]
    windows = torch.randint(0, 49152, (n_tokens // CONTEXT, CONTEXT))
    batches = windows.split(FORWARD_TOKENS // CONTEXT)

    def read() -> None:
        with torch.inference_mode():
            for batch in batches:
                model.run(batch, capture=sites, stop_after=sites[-1])

    model.run(batches[0][:1], capture=sites, stop_after=sites[-1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds, _ = timed(read)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return n_tokens / seconds, after.ru_minflt - before, after.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in CHOSEN_BY_USER:
        os.environ.pop(name, None)
    ratios = []
    for _ in range(options.rounds):
        given, kept = (alone(reading, keep, options.tokens) for keep in (False, True))
        ratios.append(kept[0] / given[0])
        for name, (speed, faults, peak) in (("given back", given), ("kept", kept)):
            print(f"{name}: {speed:,.0f} tokens/s, {faults:,} page faults, peak {peak:,.0f} MiB")
    print(f"ratio {statistics.median(ratios):.2f}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
