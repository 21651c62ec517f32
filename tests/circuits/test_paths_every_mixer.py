"""Path patching in every family against whole runs with edits, one for each sender, in float64.

A run with edits knows nothing of paths: it computes every position of every block.  What is held is
put back to its clean value everywhere; what a sender changes at other positions than the last is
kept from leaving its block.  What modules would compute in float32 (the choice of experts, norms)
is computed in float64 too: a last bit would turn a rounding into 1e-8.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from tests.models.helpers import FAMILY, HF, tiny
from torch import Tensor
from torch.overrides import TorchFunctionMode

from homolog.circuits.known import require_paths
from homolog.circuits.parts import part_name
from homolog.circuits.paths import Paths
from homolog.models.base import LanguageModel
from homolog.models.decoder import Decoder
from homolog.models.edits import Edit, Replace
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Mixer
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.runs import Run
from homolog.models.sites import Site

PROMPTS, LENGTH = 3, 8
AT = torch.tensor([2, 5, 6])
UNREAD = ("C", "query", "gate_in", "gate")  # what a position enters with and does not write


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


@pytest.fixture(scope="module", params=[*HF, *FAMILY, "deepseek_v2", "qwen3_5"])
def model(request: pytest.FixtureRequest) -> Decoder:
    return require_paths(tiny(request.param, torch.float64))


class Double(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **named)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with Double():
        yield


class Oracle:
    """Both runs, and what is held."""

    def __init__(self, model: Decoder) -> None:
        draw = torch.Generator().manual_seed(1)
        self.model = model
        self.clean, self.corrupt = torch.randint(0, 97, (2, PROMPTS, LENGTH), generator=draw)
        sites = [
            Site(kind, m.layer)
            for m in model.mixers()
            for kind in dict.fromkeys(
                [m.readout, m.out, *m.inputs, *([m.local_taps] if m.local_taps else [])]
            )
        ]
        sites += [Site("state", m.layer) for m in model.mixers() if with_state(m)]
        self.of_clean, self.of_corrupt = (
            model.run(tokens, capture=sites) for tokens in (self.clean, self.corrupt)
        )
        self.paths = Paths(model, self.clean, self.corrupt)

    def logits(self, edits: Iterable[Edit]) -> Tensor:
        logits = self.model.run(self.clean, edits=list(edits)).logits
        assert logits is not None
        return logits[:, -1]

    def held_readouts(self, but: Mixer | None = None) -> list[Edit]:
        """Of all mixers everywhere."""
        sites = [Site(m.readout, m.layer) for m in self.model.mixers() if m is not but]
        return [Replace(site, self.of_clean[site]) for site in sites]

    def held_states(self, but: Mixer) -> list[Edit]:
        """States at the last position; readouts of what has none."""
        edits: list[Edit] = []
        for m in self.model.mixers():
            if m is but or (m.kind == "RWKV-4"):  # it reads the state before, which is clean
                continue
            if with_state(m):
                value = self.of_clean[Site("state", m.layer)][:, -1]
                edits.append(Replace(Site("state", m.layer, position=-1), value))
            else:
                site = Site(m.readout, m.layer)
                edits.append(Replace(site, self.of_clean[site]))
        return edits

    def kept_in(self, mixer: Mixer) -> Edit:
        """Nothing leaves the mixer before the last position."""
        site = Site(mixer.out, mixer.layer)
        return Replace(site, self.of_clean[site][:, :-1], positions=range(LENGTH - 1))

    def readout(self, mixer: Mixer, head: int, at: Tensor) -> Tensor:
        """The clean readout, the corrupt one of a head where `at` (prompt, n) is."""
        site = Site(mixer.readout, mixer.layer)
        clean, corrupt = self.of_clean[site].clone(), self.of_corrupt[site]
        each = torch.arange(PROMPTS)[:, None]
        where = (each, at, head) if mixer.n_heads > 1 else (each, at)
        clean[where] = corrupt[where]
        return clean

    def carried(self, mixer: Mixer, run: Run) -> list[Edit]:
        """The mixer's memory before the last position is that of another run."""
        kind, end = ("state" if with_state(mixer) else "mlp_normed"), LENGTH - 2
        at = Site(kind, mixer.layer)
        value = run[at][:, end]
        return [Replace(Site(kind, mixer.layer, position=end), value), self.kept_in(mixer)]


def with_state(mixer: Mixer) -> bool:
    return isinstance(mixer, LinearMixer) and mixer.state == "state"


def same(ours: Tensor, expected: Tensor, oracle: "Oracle") -> None:
    """Equal to 1e-10, and to 1e-5 of what the patch changes."""
    effect = float((expected - oracle.paths.logits).abs().max())
    assert ours.dtype == torch.float64 and ours.shape == expected.shape
    torch.testing.assert_close(ours, expected, rtol=0, atol=min(1e-10, 1e-5 * effect) or 1e-12)


def asked(answers: Iterable) -> tuple[list[str], Tensor]:
    some = list(answers)
    return [name for a in some for name in a.senders], torch.cat([a.logits for a in some])


def test_readouts_to_logits(model: Decoder) -> None:
    oracle = Oracle(model)
    names, ours = asked(oracle.paths.readouts_to_logits())
    assert names == [part_name(*part) for part in oracle.paths.parts()]
    end = torch.full((PROMPTS, 1), LENGTH - 1)
    expected = [
        oracle.logits(
            [
                *oracle.held_readouts(but=mixer),
                Replace(Site(mixer.readout, mixer.layer), oracle.readout(mixer, head, end)),
            ]
        )
        for mixer, head in oracle.paths.parts()
    ]
    same(ours, torch.stack(expected), oracle)


def linear(model: LanguageModel) -> list[LinearMixer]:
    mixers = [m for m in require_paths(model).mixers() if isinstance(m, LinearMixer)]
    if not mixers:
        pytest.skip("it has no states")
    return mixers


def test_states_to_logits(model: Decoder) -> None:
    mixers, oracle = linear(model), Oracle(model)
    _, ours = asked(oracle.paths.states_to_logits())
    expected = [
        oracle.logits([*oracle.held_states(m), *oracle.carried(m, oracle.of_corrupt)])
        for m in mixers
    ]
    same(ours, torch.stack(expected), oracle)


def test_writes_and_taps_to_logits(model: Decoder) -> None:
    mixers, oracle = linear(model), Oracle(model)
    each = torch.arange(PROMPTS)
    for mixer in mixers:
        own = [k for k in mixer.inputs if k not in UNREAD and k != mixer.local]
        put = [
            Replace(site, oracle.of_corrupt[site][each, AT][:, None], positions=AT)
            for site in (Site(kind, mixer.layer) for kind in own)
        ]
        kept = [oracle.kept_in(mixer), *oracle.held_states(mixer)]
        _, ours = asked(oracle.paths.writes_to_logits(part_name(mixer), {"P": AT}))
        same(ours[0], oracle.logits([*put, *kept]), oracle)
        if mixer.local_taps is None:
            continue
        site, last = Site(mixer.local_taps, mixer.layer), mixer.reach
        for back in (0, 1):
            value = oracle.of_corrupt[site][each, AT, last - back][:, None, None]
            tap = Replace(site, value, positions=AT, taps=[last - back])
            _, ours = asked(oracle.paths.taps_to_write(part_name(mixer), AT, {"one": [back]}))
            same(ours[0], oracle.logits([tap, *kept]), oracle)


def test_parts_to_part(model: Decoder) -> None:
    oracle = Oracle(model)
    receiver = model.mixers()[-1]
    if with_state(receiver) or isinstance(receiver, LinearMixer):
        compare_to_a_state(oracle, receiver)
    for mixer in (m for m in model.mixers()[1:] if isinstance(m, Attention)):
        if mixer.layer:
            compare_to_a_head(oracle, mixer, mixer.n_heads - 1)


def held_below(oracle: Oracle, receiver: Mixer, sender: Mixer, value: Tensor) -> list[Edit]:
    """All readouts before the receiver clean, but for the sender's."""
    order = oracle.model.mixers()
    below = order[: order.index(receiver)]
    held = [m for m in below if m is not sender and _earlier(oracle.model, m, receiver)]
    sites = [Site(m.readout, m.layer) for m in held]
    edits: list[Edit] = [Replace(site, oracle.of_clean[site]) for site in sites]
    return [*edits, Replace(Site(sender.readout, sender.layer), value)]


def _earlier(model: Decoder, one: Mixer, other: Mixer) -> bool:
    """Whether it stands in an earlier step."""
    if one.layer != other.layer:
        return one.layer < other.layer
    steps = model.layers[one.layer]
    return [one in s for s in steps].index(True) < [other in s for s in steps].index(True)


def compare_to_a_state(oracle: Oracle, receiver: Mixer) -> None:
    names, ours = asked(oracle.paths.parts_to_part(part_name(receiver), {"P": AT}))
    expected = []
    for mixer, head in oracle.paths.parts():
        if f"{part_name(mixer, head)}@P" not in names:
            continue
        value = oracle.readout(mixer, head, AT[:, None])
        kind = "state" if with_state(receiver) else "mlp_normed"
        run = oracle.model.run(
            oracle.clean,
            capture=[Site(kind, receiver.layer)],
            edits=held_below(oracle, receiver, mixer, value),
        )
        edits = [*oracle.held_states(receiver), *oracle.carried(receiver, run)]
        expected.append(oracle.logits(edits))
    same(ours, torch.stack(expected), oracle)


def compare_to_a_head(oracle: Oracle, receiver: Attention, head: int) -> None:
    name, layer = part_name(receiver, head), receiver.layer
    names, ours = asked(oracle.paths.parts_to_part(name, {"P": AT}))
    z, expected = Site("z", layer), []
    for mixer, own in oracle.paths.parts():
        if f"{part_name(mixer, own)}@P" not in names:
            continue
        value = oracle.readout(mixer, own, AT[:, None])
        clean = [Replace(Site("query", layer), oracle.of_clean[Site("query", layer)])]
        clean += [
            Replace(site, oracle.of_clean[site][:, -1:], positions=[-1])
            for site in (Site("key", layer), Site("value", layer))
        ]
        edits = [*held_below(oracle, receiver, mixer, value), *clean]
        read = oracle.model.run(oracle.clean, capture=[z], edits=edits)[z][:, -1, head]
        new = oracle.of_clean[z].clone()
        new[:, -1, head] = read
        expected.append(oracle.logits([*oracle.held_readouts(but=receiver), Replace(z, new)]))
    same(ours, torch.stack(expected), oracle)
