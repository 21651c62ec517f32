"""Mamba-1 forward on the CPU, ours against the Hugging Face module's own path.

    python benchmarks/mamba_forward.py [--size zoo|130m|both] [--repeats N]

Both sides have the same weights and tokens, run in one process and return logits.  Rounds
alternate; every ratio is the median over rounds of two times of the same round, so that what else
the machine does falls on both.  The 130m model has the configuration of state-spaces/mamba-130m and
random weights.

The share of the matrix-product bound is the time of the bare matrix products of a forward (in, x,
dt and out projections of every layer, and the unembedding; same weights, same shapes) over the time
of our whole forward.  It is given for the products as `torch.nn.functional.linear` does them and
for oneDNN's, which are faster on some processors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM

import homolog
from homolog.models.mamba import Mamba


def model_of(size: str) -> tuple[Mamba, Tensor]:
    """The model and its tokens: 16 windows of 128 at zoo size, 2 of 256 at that of mamba-130m."""
    generator = torch.Generator().manual_seed(0)
    if size == "zoo":
        model = homolog.load("zoo:mamba-s0")
        assert isinstance(model, Mamba)
        return model, torch.randint(1, 1024, (16, 128), generator=generator)
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16, use_cache=False
    )
    hf = MambaForCausalLM(config).eval().requires_grad_(False)
    return Mamba("mamba-130m, random weights", hf), torch.randint(
        1, 50000, (2, 256), generator=generator
    )


def products_of(model: Mamba, tokens: Tensor) -> dict[str, Callable[[], None]]:
    """The matrix products of a forward and nothing else, by each library that can do them."""
    weights = [model.hf.lm_head.weight]
    for layer in model.hf.backbone.layers:
        mixer = layer.mixer
        weights += [m.weight for m in (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)]
    inputs = {width: torch.randn(*tokens.shape, width) for width in {w.shape[1] for w in weights}}

    def all_products(product: Callable[[Tensor, Tensor], Tensor]) -> None:
        for weight in weights:
            product(inputs[weight.shape[1]], weight)

    libraries = {"torch": lambda: all_products(F.linear)}
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        onednn = torch.ops.mkldnn._linear_pointwise
        libraries["oneDNN"] = lambda: all_products(
            lambda x, weight: onednn(x, weight, None, "none", [], "")
        )
    return libraries


def main() -> None:
    """Print tokens/s of both sides, their ratio and difference, and the share of the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["zoo", "130m", "both"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for size in ("zoo", "130m") if options.size == "both" else (options.size,):
        model, tokens = model_of(size)
        products = products_of(model, tokens)
        calls = {
            "ours": lambda m=model, t=tokens: m.run(t),
            "theirs": lambda m=model, t=tokens: m.hf(t),
            **products,
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        with torch.inference_mode():
            # warm-up, and the comparison of results
            ours, theirs = model.run(tokens).logits, model.hf(tokens).logits
            assert ours is not None
            for call in products.values():
                call()
            for _ in range(options.repeats):
                for name, call in calls.items():
                    begun = time.perf_counter()
                    call()
                    seconds[name].append(time.perf_counter() - begun)
        over_ours = {
            name: statistics.median(b / a for a, b in zip(seconds["ours"], values, strict=True))
            for name, values in seconds.items()
        }
        rates = {
            name: tokens.numel() / statistics.median(values) for name, values in seconds.items()
        }
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        print(
            f"mamba forward, {size}: ours {rates['ours']:,.0f} tokens/s, Hugging Face "
            f"{rates['theirs']:,.0f} tokens/s, "
            f"ratio {over_ours['theirs']:.1f}, relative difference of logits {error:.1e}, "
            f"{torch.get_num_threads()} threads"
        )
        shares = ", ".join(f"{over_ours[name]:.0%} with {name}'s products" for name in products)
        print(f"    share of the matrix-product bound: {shares}")


if __name__ == "__main__":
    main()
