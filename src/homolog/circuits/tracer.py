"""The experiments that find who plays which role, in any model whose mixers are known.

Parts are heads of attention (z.LAYER.HEAD) and recurrences (y.LAYER, state.LAYER).  Heads are asked
for what they read out at the end, recurrences for the state that they carry there; the key part is
the one whose patch costs most of B.  Then what enters the key parts is asked: a head's keys and
values by position, a state's writes by position and the taps of its local part, and for both every
part before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.effects import Effects, PathQuestion, measure_effects
from homolog.circuits.known import require_paths
from homolog.circuits.metrics import Interval, interval, measure
from homolog.circuits.parts import part_name, parts_of, state_name, write_name
from homolog.circuits.paths import Paths
from homolog.circuits.prompts import METRIC, Prompts, answers, around, around_columns, label
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import PromptPairs
from homolog.models.base import LanguageModel
from homolog.models.edits import Replace
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.projections import READS
from homolog.models.sites import Site
from homolog.record import circuits as names

OFFSETS = (-1, 0, 1, 2, 3)  # positions around a token that are patched one by one
# of what the whole corruption costs: what a patch must cost to be named beside the strongest
SHARE = 0.05
ALL = "all"  # the sender that stands for several together
_PREDICTED_FROM = 64  # prompts
KEY_LAYERS = 3  # those whose states cost most, that are looked into


@dataclass(frozen=True)
class Role:
    """A component that plays a part in the circuit.

    component   a head (z.2.3), a layer's state or scan output (state.5, y.5), the convolution tap
                that reads a position (conv_taps.5@A)
    evidence    which patch shows it
    change      of the logit difference by that patch, with its interval
    share       of what the whole corruption costs: change / (corrupt - clean logit difference)
    """

    role: str
    component: str
    evidence: str
    change: Interval
    share: float

    def columns(self) -> dict[str, Any]:
        """As columns of a row."""
        return {
            "role": self.role,
            "component": self.component,
            "evidence": self.evidence,
            "share": self.share,
        } | self.change.columns("change")


class Tracer:
    """The experiments on one model."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Prompts,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.prompts, self.advance = require_paths(model), prompts, advance
        self.effects: list[Effects] = []
        self._costs: dict[str, float] = {}
        parts = parts_of(self.model)
        self.heads = [part_name(m, head) for m, head in parts if isinstance(m, Attention)]
        self.states = [m for m, _ in parts if isinstance(m, LinearMixer)]
        self.by_state = {state_name(m): m for m in self.states}
        self.by_write = {write_name(m): m for m in self.states}

    def trace(self) -> tuple[str, list[Role]]:
        """The key part and the roles, after all experiments."""
        by_family = [
            *([self._trace_heads()] if self.heads else []),
            *([self._trace_states()] if self.states else []),
        ]
        strongest = max(by_family, key=lambda traced: -float(traced[0].change.value))
        every = [role for _, roles in by_family for role in roles]
        return strongest[0].component, sorted(every, key=lambda r: names.ROLE_ORDER.index(r.role))

    # --- heads

    def _trace_heads(self) -> tuple[Role, list[Role]]:
        _, copied = self.ask(
            *(self._heads_to_logits(name) for name in (names.UNRELATED, names.REPLACE_B))
        )
        key = copied.strongest(METRIC)
        matched, _ = self.ask(
            _by_position(key, "key", "A", names.REPLACE_A),
            _by_position(key, "value", "B", names.REPLACE_B),
        )
        carriers: list[Role] = []
        if self._before(key):
            heard, _ = self.ask(
                _to_key_head(key, f"{key} key", names.REPLACE_A, ("key",)),
                _to_key_head(key, key, names.UNRELATED, READS),
            )
            evidence = f"its output at B's position, as the key of {key} reads it; another A"
            carriers = self.roles(names.CARRIER, heard, evidence)
        evidence = "the key of one position, read from the end; another A"
        matchers = self.roles(names.MATCHER, matched, evidence, lambda at: f"{key}@{at}")
        copiers = self.roles(names.COPIER, copied, "its output at the last position; another B")
        return copiers[0], [*carriers, *matchers[:1], *copiers]

    def _heads_to_logits(self, corruption: str) -> PathQuestion:
        return _at_the_end(
            names.HEAD_TO_LOGITS, corruption, lambda p, _: p.readouts_to_logits(self.heads)
        )

    def _before(self, part: str) -> bool:
        """Whether there is a part that this one can hear."""
        layer = Site.parse(part).layer or 0
        return any(mixer.layer < layer for mixer in self.model.mixers())

    # --- states

    def _trace_states(self) -> tuple[Role, list[Role]]:
        recurrent = [part_name(m) for m in self.states]
        copied, matched = self.ask(
            _at_the_end(names.STATE_TO_LOGITS, names.REPLACE_B, lambda p, _: p.states_to_logits()),
            _at_the_end(
                names.Y_TO_LOGITS, names.UNREPEATED, lambda p, _: p.readouts_to_logits(recurrent)
            ),
        )
        evidence = "the state it carries to the last position; another B"
        copiers = self.roles(names.COPIER, copied, evidence)
        keys = [self.by_state[role.component] for role in copiers[:KEY_LAYERS]]
        carriers = sorted(self._carriers(keys), key=lambda role: -role.share)
        evidence = "its output at the last position; nothing repeated"
        return copiers[0], [
            *carriers[:1],
            *(role for role in carriers[1:] if role.share >= SHARE and float(role.change.high) < 0),
            *self.roles(names.MATCHER, matched, evidence),
            *copiers,
        ]

    def _carriers(self, keys: Sequence[LinearMixer]) -> list[Role]:
        """What brings A into the key states: the taps of their local parts, and parts before."""
        asked = [(key, one) for key in keys for one in self._questions(key)]
        roles: list[Role] = []
        for (key, question), effects in zip(asked, self.ask(*(q for _, q in asked)), strict=True):
            receiver = question.receiver
            if question.corruption != names.REPLACE_A or question.experiment == names.STATE_WRITES:
                continue
            position = receiver.partition("@")[2]
            if question.experiment == names.LAYER_TO_KEY_LAYER:
                evidence = f"its output before the end, as {receiver} carries it; another A"
                roles += self.roles(names.CARRIER, effects, evidence)
            else:
                taps = f"{key.local_taps}.{key.layer}"
                evidence = (
                    f"one tap's input to the write of {state_name(key)} at {position}; another A"
                )
                roles += self.roles(
                    names.CARRIER, effects, evidence, lambda at, of=taps: f"{of}@{at}"
                )[:1]
        return roles

    def _questions(self, state: LinearMixer) -> list[PathQuestion]:
        """What is asked of a key state."""
        upstream = PathQuestion(
            names.LAYER_TO_KEY_LAYER,
            names.REPLACE_A,
            lambda p, _: p.parts_to_part(part_name(state)),
            state_name(state),
            {"position": "before last"},
        )
        taps = [
            self._taps(state, shift, corruption)
            for corruption in (names.REPLACE_A, names.UNREPEATED_REPLACE_AB)
            for shift in (0, 1)
        ]
        return [
            *(taps if state.local is not None else []),
            _writes(state, "B", names.REPLACE_B),
            _writes(state, "A", names.REPLACE_A),
            *([upstream] if self._before(part_name(state)) else []),
        ]

    def _taps(self, state: LinearMixer, shift: int, corruption: str) -> PathQuestion:
        """Each tap's input alone, then all, into the write at B + shift.

        Senders are the positions that the taps read.
        """
        width, write_at = state.reach + 1, label("B", shift)
        taps = {label("B", shift - back): [back] for back in range(width)}
        taps = {"A" if name == "B-1" else name: back for name, back in taps.items()}
        taps[ALL] = list(range(width))
        return PathQuestion(
            names.into_write(write_at),
            corruption,
            lambda p, part: p.taps_to_write(part_name(state), part.positions["B"] + shift, taps),
            f"{write_name(state)}@{write_at}",
            {"sender": f"{state.local}.{state.layer}", "position": list(taps)},
        )

    # --- what the circuit is chosen from

    def universe(self) -> list[Site]:
        """Where information moves between positions: what a circuit is chosen from."""
        return [Site.parse(part_name(*part)) for part in parts_of(self.model)]

    def named(self, roles: Sequence[Role]) -> set[str]:
        """Names of the sites of the universe that play a role."""
        return {self._part(role.component.split("@")[0]) for role in roles}

    def _part(self, component: str) -> str:
        """The part that a head, a state, a readout or a tap is of."""
        if component in self.heads:
            return component
        site = Site.parse(component)
        kinds = ((m, (m.state, m.readout, m.local_taps)) for m in self.states)
        return part_name(next(m for m, own in kinds if m.layer == site.layer and site.kind in own))

    # --- Off-by-One

    def carriers(self, key: str) -> list[str]:
        """Where the Off-by-One test looks; `key` is the key part."""
        heads = [key] if key in self.heads else []
        return [*heads, *self.by_write]

    def carried(self, paths: Paths, place: str, at: dict[str, Tensor]) -> Iterator[Patched]:
        """What that place carries of each of the positions `at` (label: (prompt,)), patched."""
        if place in self.heads:
            return paths.writes_to_logits(place, at)
        return paths.writes_to_logits(part_name(self.by_write[place]), at)

    def predicted(
        self, places: Sequence[str], pairs: PromptPairs, token: str, offsets: Sequence[int]
    ) -> list[Tensor]:
        """Share of each offset in what each place carries of a token, by its mixer; NaN: none told.

        A tap that reads k positions back brings the token to offset k.  Its share is the energy of
        what it brings, channel by channel, each weighed by how much the answer reads of it there:

            share[k] ~ sum over d of a[k, d] s[k, d]^2
            s[k, d]   standard deviation of what the tap brings, over all positions
            a[k, d]   sum over prompts of (dm / d that)^2 at offset k

        m is the answer's logit difference.
        """
        states = [self.by_write[place] for place in places if place not in self.heads]
        with_taps = [state for state in states if state.local_taps is not None]
        energies = self._energies_of_taps(with_taps, pairs[:_PREDICTED_FROM], token)

        def share(place: str) -> Tensor:
            if place in self.heads:
                return torch.full((len(offsets),), torch.nan, dtype=torch.float64)
            # without a local part a token stays where it is
            energy = energies.get(self.by_write[place], torch.ones(1)).double().cpu().flip(0)
            known = dict(enumerate((energy / energy.sum()).tolist()))
            return torch.tensor([known.get(o, 0.0) for o in offsets], dtype=torch.float64)

        return [share(place) for place in places]

    def _energies_of_taps(
        self, states: Sequence[LinearMixer], pairs: PromptPairs, token: str
    ) -> dict[LinearMixer, Tensor]:
        """sum over d of a s^2 for each tap of each; the last one reads the own position."""
        if not states:
            return {}
        model = self.model.plain
        sites = {state: Site(state.local_taps or "", state.layer) for state in states}
        embedded = model.run(pairs.clean, capture=["embed"], stop_after="embed")["embed"]
        with torch.enable_grad():
            start = Replace("embed", embedded.clone().requires_grad_())
            run = model.run(pairs.clean, [*sites.values()], [start], last_only=True)
            assert run.logits is not None
            value = measure(run.logits[:, -1], pairs)[METRIC].sum()
            gradients = torch.autograd.grad(value, [run[site] for site in sites.values()])
        return {
            state: _energy(state, run[site].detach(), gradient, pairs, token)
            for (state, site), gradient in zip(sites.items(), gradients, strict=True)
        }

    # --- asking

    def measure(
        self, questions: Sequence[PathQuestion], pairs: Callable[[str], PromptPairs]
    ) -> list[Effects]:
        """The effects of some questions, asked together of those pairs."""
        paths = functools.partial(Paths, self.model)
        return measure_effects(questions, pairs, paths, self.prompts.batch, self.advance)

    def ask(self, *questions: PathQuestion) -> list[Effects]:
        """The same of the task's prompts; all effects are kept."""
        effects = self.measure(questions, lambda name: self.prompts.pairs(self.model, name))
        self.effects += effects
        return effects

    def cost(self, effects: Effects) -> float:
        """What all of the corruption costs: corrupt minus clean logit difference, in the mean."""
        corruption = effects.question.corruption
        if corruption not in self._costs:
            pairs = self.prompts.pairs(self.model, corruption)
            swapped = replace(pairs, clean=pairs.corrupt)
            corrupt = answers(self.model, swapped, self.prompts.batch)[METRIC]
            change = (corrupt - effects.clean[METRIC]).double().mean()
            self._costs[corruption] = float(change)
        return self._costs[corruption]

    def roles(
        self, role: str, effects: Effects, evidence: str, named: Callable[[str], str] = str
    ) -> list[Role]:
        """The strongest sender of an experiment, and those that cost at least `SHARE`, in order.

        named   gives the component of a sender's label
        """
        cost = self.cost(effects)
        changes = interval(effects.change(METRIC), seed=self.prompts.seed)
        roles: list[Role] = []
        for i in changes.value.argsort().tolist():
            if effects.senders[i] == ALL:
                continue
            change = changes.at(i)
            share = float(change.value) / cost
            if roles and (share < SHARE or float(change.high) >= 0):
                break
            roles.append(Role(role, named(effects.senders[i]), evidence, change, share))
        return roles


def _at_the_end(experiment: str, corruption: str, ask: Callable[..., Any]) -> PathQuestion:
    return PathQuestion(experiment, corruption, ask, about={"position": "last"})


def _to_key_head(key: str, receiver: str, corruption: str, kinds: Sequence[str]) -> PathQuestion:
    """Each part before it at B's position, as the key head reads it."""
    return PathQuestion(
        names.HEAD_TO_KEY_HEAD,
        corruption,
        lambda paths, part: paths.parts_to_part(key, {"": part.positions["B"]}, None, kinds),
        receiver,
        {"position": "B"},
    )


def _by_position(key: str, read: str, name: str, corruption: str) -> PathQuestion:
    """The key head's key or value at each position around a named one."""
    return PathQuestion(
        names.by_position(read),
        corruption,
        lambda paths, part: paths.writes_to_logits(key, around(part, name, OFFSETS), (read,)),
        about={"sender": f"{read}.{key[2:]}"} | around_columns(name, OFFSETS),
    )


def _writes(state: LinearMixer, name: str, corruption: str) -> PathQuestion:
    return PathQuestion(
        names.STATE_WRITES,
        corruption,
        lambda p, part: p.writes_to_logits(part_name(state), around(part, name, OFFSETS)),
        about={"sender": write_name(state)} | around_columns(name, OFFSETS),
    )


def _energy(
    state: LinearMixer, brought: Tensor, gradient: Tensor, pairs: PromptPairs, token: str
) -> Tensor:
    """What each tap brings of the token, in the units of `Tracer.predicted`."""
    # a tap that reads k back brings it to k after it
    back = torch.arange(state.reach, -1, -1)
    at = pairs.positions[token][:, None] + back
    inside = (at < pairs.length).to(gradient.device)
    prompts = torch.arange(len(pairs))[:, None]
    there = gradient[prompts, at.clamp(max=pairs.length - 1), torch.arange(len(back))]
    of_taps = (there.double().square() * inside[..., None]).sum(0)
    return (of_taps * brought.double().flatten(0, 1).var(0)).sum(-1)
