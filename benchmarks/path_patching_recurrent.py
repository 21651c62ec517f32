"""Path patching of a recurrent model and a hybrid: ours against full passes with hooks.

    python benchmarks/path_patching_recurrent.py [--models mamba2 falcon_h1] [--prompts N]
                                                 [--repeats N] [--ask readouts states]

Their side is the unmodified module of transformers, one pass for every sender, with hooks that hold
what its mixers read out at the last position; no other tool patches paths in these models.
Weights and prompts are the same, random, `recurrent_models.py` has the models.  Senders:

    readouts   y of every state space (without the D-skip) and z of every head of attention; held:
               every other one
    states     what the state of every state space carries into the last position; held: every other
               state, and z of all heads

Each comes from the run on corrupt prompts, of other tokens.  Both sides start from tokens and give
logits at the last position: the clean and the corrupt run are in the time.  A round is ours,
theirs, ours; the ratio is the median over rounds of theirs / the mean of ours.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from measuring import timed
from recurrent_models import adapter_of, module_of
from torch import Tensor

from homolog.circuits import Paths
from homolog.models.decoder import Decoder

LENGTH = 64
Answers = dict[str, Tensor]  # logits (prompt, vocabulary) by sender


@dataclass
class Entering:
    """What a state space enters the last position with, from what `in_proj` gives everywhere."""

    mixer: Any
    projected: Tensor

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """gate, x, B, C and dt', (prompt, ...)."""
        mixer = self.mixer
        conv = mixer.conv1d
        last = self.projected[:, -conv.kernel_size[0] :]
        gate, inputs, dt = last.split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], 2)
        convolved = F.silu((inputs * conv.weight[:, 0].T).sum(1) + conv.bias)
        keys = mixer.n_groups * mixer.ssm_state_size
        x, B, C = convolved.split([mixer.intermediate_size, keys, keys], 1)
        return gate[:, -1], x, B, C, dt[:, -1]

    def read(self, state: Tensor) -> Tensor:
        """y (prompt, d_inner) of a state (prompt, head, d_head, d_state)."""
        return torch.einsum("phdn,pn->phd", state, self.parts[3]).flatten(1)

    def decayed(self, state: Tensor) -> Tensor:
        """A state times the decay of the last position."""
        dt = F.softplus(self.parts[4] + self.mixer.dt_bias)
        return state * torch.exp(-dt * self.mixer.A_log.exp())[..., None, None]

    def left(self, y: Tensor, gated: bool) -> Tensor:
        """y with its skip, and times its gate where that comes before the norm's place."""
        gate, x = self.parts[:2]
        out = y + x * self.mixer.D.repeat_interleave(self.mixer.head_dim)
        return out * F.silu(gate) if gated else out


ReadOut = Callable[[int, Entering], Tensor]


@dataclass
class Held:
    """A pass of the module that reads out other values at the last position.

    y   of a state space, by layer and what it enters with;   z   of attention, by layer
    After a pass, `entered` and `heads` are what there was before the hooks.
    """

    hf: Any
    y: ReadOut | None = None
    z: dict[int, Tensor] | None = None
    entered: dict[int, Entering] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, tokens: Tensor, **options: Any) -> Any:
        """The module's output."""
        handles = []
        for layer, block in enumerate(self.hf.base_model.layers):
            mixer = block.mixer if hasattr(block, "mixer") else block.mamba
            seen = mixer.in_proj.register_forward_hook(partial(self._enter, layer, mixer))
            place = mixer.norm if getattr(mixer, "mamba_rms_norm", True) else mixer.out_proj
            handles += [seen, place.register_forward_pre_hook(partial(self._hold_y, layer))]
            if hasattr(block, "self_attn"):
                out = block.self_attn.o_proj
                handles.append(out.register_forward_pre_hook(partial(self._hold_z, layer)))
        try:
            return self.hf(tokens, logits_to_keep=1, **options)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, layer: int, mixer: Any, _module: Any, _args: Any, projected: Tensor) -> None:
        self.entered[layer] = Entering(mixer, projected)

    def _hold_y(self, layer: int, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.y is None:
            return args
        at, given = self.entered[layer], args[0].clone()
        given[:, -1] = at.left(self.y(layer, at), module is at.mixer.out_proj)
        return given, *args[1:]

    def _hold_z(self, layer: int, _module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        self.heads[layer] = args[0][:, -1]
        if self.z is None:
            return args
        given = args[0].clone()
        given[:, -1] = self.z[layer]
        return (given,)


@dataclass
class Memories:
    """What a pass leaves: states of every layer after the last position, z there, and logits."""

    states: list[Tensor]
    run: Held

    @classmethod
    def of(cls, hf: Any, tokens: Tensor) -> Memories:
        run = Held(hf)
        out = run(tokens, use_cache=True)
        cache = out.cache_params if hasattr(out, "cache_params") else out.past_key_values
        n_layers = hf.config.num_hidden_layers
        return cls([cache.get_recurrent_state(layer) for layer in range(n_layers)], run)

    @property
    def y(self) -> list[Tensor]:
        return [self.run.entered[layer].read(state) for layer, state in enumerate(self.states)]


def their_readouts(hf: Any, clean: Tensor, corrupt: Tensor) -> Answers:
    """One pass for each y and each z."""
    own, other = Memories.of(hf, clean), Memories.of(hf, corrupt)
    y_own, y_other, answers = own.y, other.y, {}
    for sender in range(len(y_own)):
        mixed = [*y_own[:sender], y_other[sender], *y_own[sender + 1 :]]
        run = Held(hf, lambda layer, _, y=mixed: y[layer], own.run.heads)
        answers[f"y.{sender}"] = run(clean).logits[:, -1]
    for layer, z in own.run.heads.items():
        width = hf.base_model.layers[layer].self_attn.head_dim
        for head in range(z.shape[1] // width):
            mixed, at = z.clone(), slice(head * width, (head + 1) * width)
            mixed[:, at] = other.run.heads[layer][:, at]
            run = Held(hf, lambda layer, _: y_own[layer], own.run.heads | {layer: mixed})
            answers[f"z.{layer}.{head}"] = run(clean).logits[:, -1]
    return answers


def their_states(hf: Any, clean: Tensor, corrupt: Tensor) -> Answers:
    """One pass for each state."""
    own = Memories.of(hf, clean)
    before, other = (Memories.of(hf, tokens[:, :-1]) for tokens in (clean, corrupt))
    answers = {}
    for sender, state in enumerate(own.states):
        change = own.run.entered[sender].decayed(other.states[sender] - before.states[sender])
        mixed = [*own.states[:sender], state + change, *own.states[sender + 1 :]]
        run = Held(hf, lambda layer, at, states=mixed: at.read(states[layer]), own.run.heads)
        answers[f"state.{sender}"] = run(clean).logits[:, -1]
    return answers


def our_readouts(model: Decoder, clean: Tensor, corrupt: Tensor) -> Answers:
    return by_sender(Paths(model, clean, corrupt).readouts_to_logits())


def our_states(model: Decoder, clean: Tensor, corrupt: Tensor) -> Answers:
    return by_sender(Paths(model, clean, corrupt).states_to_logits())


def by_sender(patched: Any) -> Answers:
    return {s: row for p in patched for s, row in zip(p.senders, p.logits, strict=True)}


ASK = {"readouts": (our_readouts, their_readouts), "states": (our_states, their_states)}


def compare(model: Decoder, asked: str, prompts: tuple[Tensor, Tensor], repeats: int) -> None:
    """Run both sides by turns; print seconds, their ratio and largest differences."""
    ours, theirs = ASK[asked]
    mine, hf = partial(ours, model, *prompts), model.hf
    mine()  # what is compiled at the first call
    rounds = []
    for _ in range(repeats):
        # ours before and after theirs, so that both see the same machine
        first, answers = timed(mine)
        long, expected = timed(lambda: theirs(hf, *prompts))
        rounds.append(((first + timed(mine)[0]) / 2, long))
    difference = max(float((answers[s] - row).abs().max()) for s, row in expected.items())
    clean: Any = hf(prompts[0], logits_to_keep=1).logits[:, -1]
    effect = max(float((row - clean).abs().max()) for row in expected.values())
    our_seconds, their_seconds = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    print(
        f"  {asked}: {len(expected)} senders of {len(answers)}, ours {our_seconds:.2f} s, full "
        f"passes {their_seconds:.1f} s, ratio {ratio:.1f}; largest difference of logits "
        f"{difference:.1e}, largest effect {effect:.1e}",
        flush=True,
    )


def main() -> None:
    """Compare both sides on each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ("mamba2", "falcon_h1")
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ask", nargs="+", choices=ASK, default=[*ASK])
    options = parser.parse_args()
    for name in options.models:
        model = adapter_of(module_of(name))
        clean, other = torch.randint(1, 30_000, (2, options.prompts, LENGTH))
        print(
            f"{model.name}, {options.prompts} prompts of {LENGTH} tokens, "
            f"{torch.get_num_threads()} threads"
        )
        with torch.inference_mode():
            for asked in options.ask:
                compare(model, asked, (clean, other), options.repeats)


if __name__ == "__main__":
    main()
