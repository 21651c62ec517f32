"""The induction circuit of one model: which part carries the previous token, which matches, which
copies.

Prompts end with a repeat of earlier tokens that end with A; the answer is B, which followed A.
Experiments, as in [Wang 2025], each by exact path patching (`attention_paths`, `state_paths`):

    Transformer   head to logits                            the key head is the one whose patch costs most
                  head at B's position to the key head      by its key, its value, or all it reads
    Mamba         state to logits, y to logits              the key layer is the one whose state costs most
                  convolution inputs into the write at B and B+1
                  state write by position
                  layer to the key layer

The released experiments corrupt several tokens at once.  Beside them stand experiments that corrupt
A alone or B alone, because they separate the roles: what is lost with A is the match, what is lost
with B is what is copied.

    previous-token carrier   brings A to B's position: what the key head's key, or the key layer's write, loses with A
    matcher                  finds that position from the end: what is lost when its own input at the end does not match
    copier                   writes B to the logits: what is lost with B at the last position
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from homolog.circuits.attention_paths import AttentionPaths
from homolog.circuits.effects import Effects, Question, measure_effects
from homolog.circuits.evaluation import CircuitEvaluation, Faithfulness
from homolog.circuits.metrics import Interval, accuracy, interval, measure
from homolog.circuits.replay import Replay
from homolog.circuits.state_paths import StatePaths
from homolog.corpus.tasks import PromptPairs, induction
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.mamba import Mamba
from homolog.models.sites import Site
from homolog.models.transformer import READS, Read, Transformer

METRIC = "logit_difference"  # which sender is the key one: it does not move when all logits do
ABLE = (
    0.75  # share of prompts with the answer above the distractor that a model needs; chance is 0.5
)
OFFSETS = (-1, 0, 1, 2, 3)
# of what the whole corruption costs: what a patch must cost to be named beside the strongest
SHARE = 0.05
KEY_LAYERS = 3  # layers of a Mamba, those whose states cost most, that are looked into
ALL = "all"  # the sender that stands for all taps together
WRITES, UPSTREAM = "state write by position", "layer to the key layer"
CARRIER, MATCHER, COPIER = "previous-token carrier", "matcher", "copier"


@dataclass(frozen=True)
class Prompts:
    """How prompts are drawn.  The same seed gives the same clean prompts for every corruption."""

    n_prompts: int = 256
    """Prompts of every experiment."""

    length: int = 64
    """Tokens of a prompt."""

    repeat: int = 1
    """How many tokens at the end repeat those that end with A; 1 in the paper."""

    seed: int = 0
    """Root seed of the prompts and of the intervals."""

    batch: int = 64
    """Prompts in memory at a time."""

    def __len__(self) -> int:
        return self.n_prompts

    def pairs(self, model: LanguageModel, corruption: str) -> PromptPairs:
        return induction(
            model,
            self.n_prompts,
            seed=self.seed,
            length=self.length,
            repeat=self.repeat,
            corruption=corruption,
        )


@dataclass(frozen=True)
class Ability:
    """How well a model does the task: means over prompts.

    preferred   share of prompts with the answer's logit above the distractor's; chance is 0.5
    accuracy    share of prompts with the answer on top of the whole vocabulary
    """

    preferred: float
    accuracy: float
    probability: float
    logit_difference: float

    @property
    def able(self) -> bool:
        return self.preferred >= ABLE and self.logit_difference > 0


class Unable(InputError):
    """The model cannot do the task, so that it has no circuit for it.  `ability` says how well it
    does.
    """

    def __init__(self, model: str, ability: Ability) -> None:
        super().__init__(
            "model",
            model,
            "a circuit needs a model that does the task: it puts the answer above the wrong one in "
            f"{ability.preferred:.0%} of the prompts ({ABLE:.0%} needed, chance 50%), accuracy "
            f"{ability.accuracy:.1%}",
            "Repeat more tokens than one (8, say), or take another model.",
        )
        self.ability = ability


@dataclass(frozen=True)
class Role:
    """A component that plays a part in the circuit.

    component   a head (z.2.3), a layer's state or scan output (state.5, y.5), the convolution tap that reads a
                position (conv_taps.5@A)
    evidence    which patch shows it
    change      of the logit difference by that patch, with its interval
    share       the part of what the whole corruption costs: change / (corrupt - clean logit difference)
    """

    role: str
    component: str
    evidence: str
    change: Interval
    share: float


@dataclass(frozen=True)
class Circuit:
    """The induction circuit of a model.

    key            the head or state whose patch costs most
    effects        of all experiments
    roles          the parts, by role, the strongest first
    faithfulness   of the named heads, or layers with a scan, among all of them; the others resampled from prompts with
                   another B
    """

    model: str
    architecture: str
    ability: Ability
    key: str
    effects: tuple[Effects, ...]
    roles: tuple[Role, ...]
    faithfulness: Faithfulness

    def experiment(self, name: str, corruption: str) -> Effects:
        """The effects of that experiment."""
        return next(e for e in self.effects if (e.experiment, e.corruption) == (name, corruption))


def ability(model: LanguageModel, prompts: Prompts) -> Ability:
    """How well the model answers clean prompts."""
    values = _answers(model, prompts.pairs(model, "replace_B"), prompts.batch)
    return Ability(
        float((values[METRIC] > 0).double().mean()),
        float(accuracy(values)),
        float(values["probability"].double().mean()),
        float(values[METRIC].double().mean()),
    )


def _answers(model: LanguageModel, pairs: PromptPairs, batch: int) -> dict[str, Tensor]:
    """The metrics of the clean prompts, (prompt,) each."""
    found: list[dict[str, Tensor]] = []
    for first in range(0, len(pairs), batch):
        part = pairs[first : first + batch]
        with torch.no_grad():
            logits = model.run(part.clean, last_only=True).logits
        assert logits is not None
        found.append({name: value.cpu() for name, value in measure(logits[:, 0], part).items()})
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def trace_induction(
    model: LanguageModel, prompts: Prompts, advance: Callable[[int], None] | None = None
) -> Circuit:
    """Run every experiment on the model and name the parts of its circuit.

    advance   told after each batch of each experiment how many prompts are done
    Errors: Unable for a model that cannot do the task, with its accuracy; InputError for one whose architecture has
    no path patching.
    """
    tracer = tracer_of(model)(model, prompts, advance)
    able = ability(model, prompts)
    if not able.able:
        raise Unable(model.name, able)
    key, roles = tracer.trace()
    circuit = [node for node in tracer.universe() if str(node) in tracer.named(roles)]
    evaluation = CircuitEvaluation(
        model,
        prompts.pairs(model, "replace_B"),
        circuit,
        metric=METRIC,
        how="resample",
        universe=tracer.universe(),
        batch=prompts.batch,
        seed=prompts.seed,
    )
    with torch.no_grad():
        faithful = evaluation.faithfulness()
    return Circuit(
        model.name, model.architecture, able, key, tuple(tracer.effects), tuple(roles), faithful
    )


def tracer_of(model: LanguageModel) -> type[Tracer]:
    """The experiments for the model's architecture."""
    for architecture, tracer in ((Transformer, _Transformer), (Mamba, _Mamba)):
        if isinstance(model, architecture):
            return tracer
    raise InputError(
        "model",
        model.name,
        f"{model.architecture} has no path patching",
        "Take a GPT-2, GPT-NeoX, Llama or Mamba-1.",
    )


class Tracer(ABC):
    """What the experiments of all architectures share: prompts, and one call for one experiment."""

    paths: Callable[[Any, Tensor, Tensor], Replay]

    def __init__(self, model: Any, prompts: Prompts, advance: Callable[[int], None] | None) -> None:
        self.model, self.prompts, self.advance = model, prompts, advance
        self.effects: list[Effects] = []
        self._costs: dict[str, float] = {}

    @abstractmethod
    def trace(self) -> tuple[str, list[Role]]:
        """The key component and the roles, after all experiments."""

    @abstractmethod
    def universe(self) -> list[Site]:
        """The sites through which information moves between positions: what a circuit is chosen
        from.
        """

    @abstractmethod
    def named(self, roles: Sequence[Role]) -> set[str]:
        """Names of the sites of the universe that play a role."""

    def ask(self, *questions: Question) -> list[Effects]:
        """The effects of some questions, asked together: they share the clean passes."""
        found = measure_effects(
            questions,
            lambda corruption: self.prompts.pairs(self.model, corruption),
            lambda clean, corrupt: type(self).paths(self.model, clean, corrupt),
            self.prompts.batch,
            self.advance,
        )
        self.effects += found
        return found

    def cost(self, effects: Effects) -> float:
        """What the whole corruption costs: corrupt minus clean logit difference, mean over prompts."""
        if effects.corruption not in self._costs:
            pairs = self.prompts.pairs(self.model, effects.corruption)
            corrupt = _answers(self.model, replace(pairs, clean=pairs.corrupt), self.prompts.batch)[
                METRIC
            ]
            self._costs[effects.corruption] = float(
                (corrupt - effects.clean[METRIC]).double().mean()
            )
        return self._costs[effects.corruption]

    def roles(
        self, role: str, effects: Effects, evidence: str, named: Callable[[str], str] = str
    ) -> list[Role]:
        """The strongest sender of an experiment, and those that cost at least `SHARE`, in order.

        named   gives the component of a sender's label
        """
        cost = self.cost(effects)
        means = interval(effects.change(METRIC), seed=self.prompts.seed)
        found = []
        for i in (i for i in means.mean.argsort().tolist() if effects.senders[i] != ALL):
            change = Interval(*(part[i] for part in means))
            share = float(change.mean) / cost
            if found and (share < SHARE or float(change.high) >= 0):
                break
            found.append(Role(role, named(effects.senders[i]), evidence, change, share))
        return found


class _Transformer(Tracer):
    paths = AttentionPaths

    def trace(self) -> tuple[str, list[Role]]:
        _, copied = self.ask(
            *(
                Question(
                    "head to logits",
                    corruption,
                    lambda p, _: p.heads_to_logits(),
                    about={"position": "last"},
                )
                for corruption in ("unrelated", "replace_B")
            )
        )
        key = copied.strongest(METRIC)

        def from_b(corruption: str, receiver: str, *reads: Read) -> Question:
            return Question(
                "head to the key head",
                corruption,
                lambda p, part: p.heads_to_head(key, part.positions["B"], reads),
                receiver,
                {"position": "B"},
            )

        def by_position(read: Read, name: str, corruption: str) -> Question:
            return Question(
                f"{read} by position",
                corruption,
                lambda p, part: p.reads_to_logits(key, around(part, name), (read,)),
                about={"sender": f"{read}.{key[2:]}"} | positions(name),
            )

        matched, _ = self.ask(
            by_position("key", "A", "replace_A"), by_position("value", "B", "replace_B")
        )
        carriers: list[Role] = []
        if not key.startswith("z.0."):  # in block 0 there is nothing below to listen to
            heard, _ = self.ask(
                from_b("replace_A", f"{key} key", "key"), from_b("unrelated", key, *READS)
            )
            evidence = f"its output at B's position, as the key of {key} reads it; another A"
            carriers = self.roles(CARRIER, heard, evidence)
        return key, [
            *carriers,
            *self.roles(
                MATCHER,
                matched,
                "the key of one position, read from the end; another A",
                lambda position: f"{key}@{position}",
            )[:1],
            *self.roles(COPIER, copied, "its output at the last position; another B"),
        ]

    def universe(self) -> list[Site]:
        return [
            Site("z", layer, head)
            for layer in range(self.model.n_layers)
            for head in range(self.model.n_heads)
        ]

    def named(self, roles: Sequence[Role]) -> set[str]:
        return {role.component.split("@")[0] for role in roles}


class _Mamba(Tracer):
    paths = StatePaths

    def trace(self) -> tuple[str, list[Role]]:
        copied, matched = self.ask(
            Question(
                "state to logits",
                "replace_B",
                lambda p, _: p.state_to_logits(),
                about={"position": "last"},
            ),
            Question(
                "y to logits",
                "unrepeated",
                lambda p, _: p.y_to_logits(),
                about={"position": "last"},
            ),
        )
        copiers = self.roles(COPIER, copied, "the state it carries to the last position; another B")
        carriers = self._carriers(
            [int(role.component.split(".")[1]) for role in copiers[:KEY_LAYERS]]
        )
        key = copiers[0].component
        first, *others = sorted(carriers, key=lambda role: -role.share)
        return key, [
            first,
            *(role for role in others if role.share >= SHARE and float(role.change.high) < 0),
            *self.roles(MATCHER, matched, "its output at the last position; nothing repeated"),
            *copiers,
        ]

    def _carriers(self, layers: Sequence[int]) -> list[Role]:
        """What brings A into the key layers' states: taps of their own convolutions, and earlier
        layers.
        """
        asked = [question for layer in layers for question in self._questions(layer)]
        found: list[Role] = []
        for effects in self.ask(*asked):
            if effects.corruption != "replace_A" or effects.experiment == WRITES:
                continue
            receiver = effects.question.receiver
            layer, _, position = receiver.split(".")[1].partition("@")
            if effects.experiment == UPSTREAM:
                found += self.roles(
                    CARRIER,
                    effects,
                    f"its output before the end, as {receiver} carries it; another A",
                )
            else:
                evidence = f"one tap's input to the write of state.{layer} at {position}; another A"
                found += self.roles(
                    CARRIER, effects, evidence, lambda at, of=layer: f"conv_taps.{of}@{at}"
                )[:1]
        return found

    def _questions(self, layer: int) -> list[Question]:
        """What is asked of a key layer."""
        upstream = Question(
            UPSTREAM,
            "replace_A",
            lambda p, _: p.layers_to_state(layer),
            f"state.{layer}",
            {"position": "before last"},
        )
        return [
            *(
                self._convolution(layer, position, shift, corruption)
                for corruption in ("replace_A", "unrepeated_replace_AB")
                for shift, position in enumerate(("B", "B+1"))
            ),
            self._writes(layer, "B", "replace_B"),
            self._writes(layer, "A", "replace_A"),
            *([upstream] if layer else []),
        ]

    def _convolution(self, layer: int, position: str, shift: int, corruption: str) -> Question:
        """Each tap's input alone, then all, into the write at B + shift; senders are the positions
        that taps read.
        """
        taps = {label("B", shift - back): [back] for back in range(self.model.conv_width)}
        taps = {"A" if name == "B-1" else name: back for name, back in taps.items()} | {
            ALL: list(range(self.model.conv_width))
        }
        return Question(
            f"convolution into the write at {position}",
            corruption,
            lambda p, part: p.conv_to_write(layer, part.positions["B"] + shift, taps),
            f"write.{layer}@{position}",
            {"sender": f"conv_in.{layer}", "position": list(taps)},
        )

    def _writes(self, layer: int, name: str, corruption: str) -> Question:
        return Question(
            WRITES,
            corruption,
            lambda p, part: p.writes_to_logits(layer, around(part, name)),
            about={"sender": f"write.{layer}"} | positions(name),
        )

    def universe(self) -> list[Site]:
        return [Site("y", layer) for layer in range(self.model.n_layers)]

    def named(self, roles: Sequence[Role]) -> set[str]:
        return {f"y.{role.component.split('@')[0].split('.')[1]}" for role in roles}


def around(pairs: PromptPairs, name: str, offsets: Sequence[int] = OFFSETS) -> dict[str, Tensor]:
    """Positions before and after a named one, by label: "B-1", "B", "B+1", ...; they stop at the
    window's ends.
    """
    return {
        label(name, offset): (pairs.positions[name] + offset).clamp(0, pairs.length - 1)
        for offset in offsets
    }


def label(name: str, offset: int) -> str:
    """The position `offset` after a named one: "B", "B+1", "B-1"."""
    return name if offset == 0 else f"{name}{offset:+d}"


def positions(name: str) -> dict[str, Any]:
    """Columns of the effects table for senders made by `around`."""
    return {"position": [label(name, o) for o in OFFSETS], "offset": list(OFFSETS)}
