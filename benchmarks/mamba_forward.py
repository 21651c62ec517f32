"""Mamba-1 forward on the CPU: ours against the Hugging Face module's own path, same weights, same tokens, one process.

    python benchmarks/mamba_forward.py [--size zoo|130m|both] [--repeats N]

Both sides return logits.  Rounds alternate; the ratio is the median over rounds of theirs / ours, so that what else the
machine does falls on both.  The 130m model has the configuration of state-spaces/mamba-130m and random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import MambaConfig, MambaForCausalLM

import homolog
from homolog.models.mamba import Mamba


def model_of(size: str) -> tuple[Mamba, torch.Tensor]:
    """The model and a batch of tokens: 16 windows of 128 at zoo size, 2 of 256 at the size of mamba-130m."""
    generator = torch.Generator().manual_seed(0)
    if size == "zoo":
        model = homolog.load("zoo:mamba-s0")
        assert isinstance(model, Mamba)
        return model, torch.randint(1, 1024, (16, 128), generator=generator)
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16, use_cache=False)
    hf = MambaForCausalLM(config).eval().requires_grad_(False)
    return Mamba("mamba-130m, random weights", hf), torch.randint(1, 50000, (2, 256), generator=generator)


def main() -> None:
    """Print tokens/s of both sides, their ratio and the largest difference of the logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["zoo", "130m", "both"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for size in ("zoo", "130m") if options.size == "both" else (options.size,):
        model, tokens = model_of(size)
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        with torch.inference_mode():
            ours, theirs = model.run(tokens).logits, model.hf(tokens).logits  # warm-up, and the comparison of results
            assert ours is not None
            for _ in range(options.repeats):
                for name, call in (("ours", model.run), ("theirs", model.hf)):
                    begun = time.perf_counter()
                    call(tokens)
                    seconds[name].append(time.perf_counter() - begun)
        ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        rates = {name: tokens.numel() / statistics.median(values) for name, values in seconds.items()}
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        print(
            f"mamba forward, {size}: ours {rates['ours']:,.0f} tokens/s, Hugging Face {rates['theirs']:,.0f} tokens/s, "
            f"ratio {ratio:.1f}, relative difference of logits {error:.1e}, {torch.get_num_threads()} threads"
        )


if __name__ == "__main__":
    main()
