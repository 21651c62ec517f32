"""Path patching of every sender to the logits: ours against TransformerLens, in one process.

    python benchmarks/path_patching.py [--model pythia-160m|mamba-130m|both] [--prompts N]
                                       [--repeats N] [--side theirs|both]

Weights and prompts are the same. pythia-160m: z of each of the 144 heads at the last position.
mamba-130m: y (without the D-skip) of each of the 24 layers at the last position. The sender's value
comes from the run on corrupt prompts, that of every other head (layer) is held clean, the rest is
recomputed. Configurations of EleutherAI/pythia-160m and state-spaces/mamba-130m, random weights,
prompts of 64 random tokens.  Corrupt prompts as in the experiments of [Wang 2025] with these
senders: for Pythia another random prompt, for Mamba the same prompt with another last token; for
Mamba another random prompt too. Both sides return logits at the last position and start from
tokens: the clean and the corrupt run are in the time. A round is ours, theirs, ours; the ratio is
the median over rounds of theirs / the mean of ours.

The logits of the Mamba with random weights differ by up to 1e-2 between float32 implementations,
each of which is that far from float64; that both sides ask the same question shows against the
largest effect, which is printed too.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

LENGTH = 64
# model, and in what the corrupt prompts differ
CASES = (
    ("pythia-160m", "other tokens"),
    ("mamba-130m", "another last token"),
    ("mamba-130m", "other tokens"),
)


def pythia_160m() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=2048,
        use_parallel_residual=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    )
    return GPTNeoXForCausalLM(config).eval().requires_grad_(False)


def mamba_130m() -> MambaForCausalLM:
    config = MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16, use_cache=False
    )
    return MambaForCausalLM(config).eval().requires_grad_(False)


def bridge_of(hf: Any) -> Any:
    """A TransformerLens bridge over a copy of the module: it replaces submodules by its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        bridge = build_bridge_from_module(copy.deepcopy(hf), type(hf).__name__, hf_config=hf.config)
    for block in bridge.blocks:
        if hasattr(block, "mixer"):
            # the only one with hooks at the state; no slower than Hugging Face's
            block.mixer.eager_scan = True
    return bridge


def theirs_heads_to_logits(
    bridge: Any, clean: Tensor, corrupt: Tensor, seconds: dict[str, float]
) -> Tensor:
    """Logits (layer * head, prompt, vocabulary); adds its stages' seconds to `seconds`."""
    begun = time.perf_counter()
    n_layers, n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
    _, z_clean = bridge.run_with_cache(clean, names_filter=names, logits_to_keep=1)
    _, z_corrupt = bridge.run_with_cache(corrupt, names_filter=names, logits_to_keep=1)
    cached = time.perf_counter()

    def hold(z: Tensor, hook: Any, layer: int, sender: tuple[int, int]) -> Tensor:
        z[:, -1] = z_clean[names[layer]][:, -1]
        if layer == sender[0]:
            z[:, -1, sender[1]] = z_corrupt[names[layer]][:, -1, sender[1]]
        return z

    rows = []
    for sender in [(layer, head) for layer in range(n_layers) for head in range(n_heads)]:
        hooks = [
            (name, partial(hold, layer=layer, sender=sender)) for layer, name in enumerate(names)
        ]
        rows.append(bridge.run_with_hooks(clean, fwd_hooks=hooks, logits_to_keep=1)[:, -1])
    seconds["cache"] = seconds.get("cache", 0.0) + cached - begun
    seconds["senders"] = seconds.get("senders", 0.0) + time.perf_counter() - cached
    return torch.stack(rows)


def theirs_y_to_logits(
    bridge: Any, clean: Tensor, corrupt: Tensor, seconds: dict[str, float]
) -> Tensor:
    """Logits (layer, prompt, vocabulary); adds its stages' seconds to `seconds`."""
    begun = time.perf_counter()
    layers = range(bridge.cfg.n_layers)
    mixers = [f"blocks.{layer}.mixer" for layer in layers]
    y_clean, y_corrupt = cached_last_y(bridge, clean), cached_last_y(bridge, corrupt)
    cached = time.perf_counter()

    def remember(value: Tensor, hook: Any, into: dict[str, Tensor], name: str) -> None:
        into[name] = value[:, -1]

    def hold(value: Tensor, hook: Any, y: Tensor, D: Tensor, now: dict[str, Tensor]) -> Tensor:
        gate = F.silu(now["xz"].chunk(2, dim=-1)[1])
        value[:, -1] = (y + D * now["u"]) * gate
        return value

    rows = []
    for sender in layers:
        hooks: list[tuple[str, Callable]] = []
        for layer, mixer in enumerate(mixers):
            now: dict[str, Tensor] = {}
            y, D = (y_corrupt if layer == sender else y_clean)[layer], bridge.blocks[layer].mixer.D
            hooks += [
                (f"{mixer}.in_proj.hook_out", partial(remember, into=now, name="xz")),
                (f"{mixer}.x_proj.hook_in", partial(remember, into=now, name="u")),
                (f"{mixer}.out_proj.hook_in", partial(hold, y=y, D=D, now=now)),
            ]
        rows.append(bridge.run_with_hooks(clean, fwd_hooks=hooks, logits_to_keep=1)[:, -1])
    seconds["cache"] = seconds.get("cache", 0.0) + cached - begun
    seconds["senders"] = seconds.get("senders", 0.0) + time.perf_counter() - cached
    return torch.stack(rows)


def cached_last_y(bridge: Any, tokens: Tensor) -> list[Tensor]:
    """Each layer's y (prompt, d_inner) at the last position, from the cached states and C."""
    ends = ("mixer.hook_ssm_state", "mixer.x_proj.hook_out")
    cache = bridge.run_with_cache(
        tokens, names_filter=lambda name: name.endswith(ends), logits_to_keep=1
    )[1]
    y = []
    for layer in range(bridge.cfg.n_layers):
        # (prompt, d_inner, d_state)
        state = cache[f"blocks.{layer}.mixer.hook_ssm_state"][:, :, -1]
        C = cache[f"blocks.{layer}.mixer.x_proj.hook_out"][:, -1, -state.shape[-1] :]
        y.append(torch.einsum("pdn,pn->pd", state, C))
    return y


def ours(model: Any, clean: Tensor, corrupt: Tensor) -> Tensor:
    """Logits (sender, prompt, vocabulary), in the order of their rows."""
    from homolog.circuits import Paths

    answers = Paths(model, clean, corrupt).readouts_to_logits()
    return torch.cat([answer.logits for answer in answers])


def adapter_of(name: str, hf: Any) -> Any:
    from homolog.models.gpt_neox import GPTNeoX
    from homolog.models.mamba import Mamba

    return {"pythia-160m": GPTNeoX, "mamba-130m": Mamba}[name](f"{name}, random weights", hf)


def compare(name: str, corruption: str, prompts: int, repeats: int, side: str) -> None:
    """Run both sides `repeats` times by turns; print seconds, ratio and largest differences."""
    torch.manual_seed(0)
    if name == "pythia-160m":
        hf, theirs = pythia_160m(), theirs_heads_to_logits
    else:
        hf, theirs = mamba_130m(), theirs_y_to_logits
    clean, corrupt = torch.randint(1, 50000, (2, prompts, LENGTH))
    if corruption == "another last token":
        corrupt = torch.cat([clean[:, :-1], corrupt[:, -1:]], dim=1)
    bridge = bridge_of(hf)
    model = adapter_of(name, hf) if side == "both" else None
    with torch.inference_mode():
        unpatched = hf(clean, logits_to_keep=1).logits[:, -1]
        bridge(clean, logits_to_keep=1)  # warm-up
        if model is not None:
            ours(model, clean, corrupt)  # warm-up, and what is compiled at the first call
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        stages: dict[str, float] = {}
        for _ in range(repeats):
            # ours takes seconds, theirs minutes: ours before and after, so that both see the same
            # machine
            around = []
            for turn in ("ours", "theirs", "ours"):
                begun = time.perf_counter()
                if turn == "theirs":
                    expected = theirs(bridge, clean, corrupt, stages)
                    seconds["theirs"].append(time.perf_counter() - begun)
                elif model is not None:
                    logits = ours(model, clean, corrupt)
                    around.append(time.perf_counter() - begun)
            if around:
                seconds["ours"].append(statistics.mean(around))
    effect = float((expected - unpatched).abs().max())
    print(
        f"path patching, {name}, {len(expected)} senders, {prompts} prompts of {LENGTH} tokens, "
        f"corrupt ones with {corruption}, {torch.get_num_threads()} threads\n"
        f"  TransformerLens {statistics.median(seconds['theirs']):.1f} s "
        f"(cache {stages['cache'] / repeats:.1f} s, senders {stages['senders'] / repeats:.1f} s), "
        f"largest effect on a logit {effect:.1e}",
        flush=True,
    )
    if model is not None:
        ratio = statistics.median(
            b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)
        )
        difference = float((logits - expected).abs().max())
        print(
            f"  ours {statistics.median(seconds['ours']):.2f} s, ratio {ratio:.1f}, "
            f"largest difference of logits {difference:.1e}"
        )


def main() -> None:
    """Print seconds of both sides, their ratio and the largest difference, for both models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["pythia-160m", "mamba-130m", "both"], default="both")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--side", choices=["theirs", "both"], default="both")
    options = parser.parse_args()
    for name, corruption in CASES:
        if options.model in (name, "both"):
            compare(name, corruption, options.prompts, options.repeats, options.side)


if __name__ == "__main__":
    main()
