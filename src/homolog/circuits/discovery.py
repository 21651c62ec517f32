"""Circuit discovery: edge attribution patching with integrated gradients, at positions.

The effect of patching the edge u -> v at position p is estimated for all edges at once, from
gradients of the metric m at prompts on the way from corrupt to clean:

    score(u -> v, p) = sum over d of (u_corrupt - u_clean)[p, d] * g_v[p, d]
    g_v[p, d]        = 1/K sum over k of dm(z_k) / d(input of v)[p, d]
    z_k              = e_corrupt + k/K (e_clean - e_corrupt),  k = 1 ... K     e: the embeddings

It estimates the change of m, mean over prompts: a negative score means that the edge helps the
task.  K = 1 is edge attribution patching [Syed 2023]; more steps are EAP-IG in its variant "inputs"
[Hanna 2024].  Scores are kept apart by the position of the receiver [Haklay 2025], summed over the
positions of a label. What the embedding sends in all sums up to m(corrupt) - m(clean) as K grows.
The edges are those of `edges.py`; inside a recurrent mixer

    convolution tap j at p   u = weight[:, j] * conv_in[p - (K - 1) + j]
                             input of v = the convolution's output at p
    write at p               u = dt B u at p
                             input of v = the state at p (and by it the later ones), decay unchanged

The second is the derivative of what the readout's gradient finds in the readouts, by how much of
the corrupt write each position takes: a backward pass of the mixer's own recurrence.

A score is linear in the patch and so an estimate; `edge_patching.validate` compares some with real
patches.

[Syed 2023] "Attribution Patching Outperforms Automated Circuit Discovery", arXiv 2310.10348.
[Hanna 2024] "Have Faith in Faithfulness", arXiv 2403.17806.
[Haklay 2025] "Position-aware Automatic Circuit Discovery", arXiv 2502.04577.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from homolog.circuits.edge_patching import SMOOTH_METRICS, metric_of, validate
from homolog.circuits.edges import (
    LOGITS,
    Contrast,
    Receiver,
    ends,
    position_labels,
    receivers,
    senders,
    with_states,
    with_states_at,
)
from homolog.circuits.known import require_paths
from homolog.circuits.tables import COMPONENTS, SCORED_EDGES
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.edits import Edit, Replace, Transform
from homolog.models.finite import all_finite
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.runs import Run
from homolog.models.sites import Site
from homolog.models.widening import widened
from homolog.record.circuits import LOGIT_DIFFERENCE


@dataclass(frozen=True)
class Discovery:
    """Scores of all edges, and how far they can be trusted.

    metric         "kl" stands for negative KL divergence
    edges          columns `tables.SCORED_EDGES`: layers null for embed and logits, tap null but
                   for conv_taps, position is the label of the receiver's; largest in size first
    validation     some edges with their real effects, and
    correlation    that of score and effect: see `edge_patching.Validation`
    ends           the nodes that senders and receivers are part of: see `edges.ends`
    """

    metric: str
    edges: pl.DataFrame
    validation: pl.DataFrame
    correlation: pl.DataFrame
    ends: Mapping[str, tuple[Site, ...]]

    def nodes_at(self, name: str) -> tuple[Site, ...]:
        """The nodes that an end of an edge is of; none for the embedding and the logits."""
        return self.ends[name]

    def components(self, top: int = 100) -> pl.DataFrame:
        """The nodes at the ends of the `top` edges; score is the sum of their edges' |score|.

        Columns `tables.COMPONENTS`.  Nodes are named as in `edges.nodes`: head_out.L.H, mlp_out.L,
        mixer_out.L; largest score first.  Edges inside a mixer count once for it.  A key and value
        head stands for all query heads that share it.
        """
        by_node: dict[Site, list[float]] = {}
        for sender, receiver, score in (
            self.edges.head(top).select("sender", "receiver", "score").iter_rows()
        ):
            for node in dict.fromkeys([*self.nodes_at(sender), *self.nodes_at(receiver)]):
                by_node.setdefault(node, []).append(abs(score))
        rows = [(str(node), node.layer, sum(some), len(some)) for node, some in by_node.items()]
        nodes = pl.DataFrame(rows, COMPONENTS.schema, orient="row")
        return nodes.sort("score", descending=True, maintain_order=True)


def discover(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    metric: str = LOGIT_DIFFERENCE,
    steps: int = 5,
    n_top: int = 20,
    n_random: int = 20,
    seed: int = 0,
    batch: int = 16,
) -> Discovery:
    """Score all edges on the prompts, and patch some of them for real.

    metric   one of those that have a gradient, as far as the task has it; "kl" has none at the
             clean prompt, so that it needs several steps
    steps    K, points between the corrupt and the clean embeddings
    n_top, n_random, seed   edges to validate: those with the largest scores, and others drawn
    batch    prompts in one pass

    Memory grows with batch x positions x d_model x (senders + receivers); no copy of the model is
    made.  Weights stay as they are, and gradients of weights are not formed.  Raises `InputError`:
    a metric unknown or not of the task, fewer than 1 step.
    """
    edges = score_edges(model, pairs, metric=metric, steps=steps, batch=batch)
    effects, correlation = validate(
        model, pairs, edges, n_top, n_random, seed, metric=metric, batch=batch
    )
    return Discovery(metric, edges, effects, correlation, ends(model))


def score_edges(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    metric: str = LOGIT_DIFFERENCE,
    steps: int = 5,
    batch: int = 16,
) -> pl.DataFrame:
    """The edges of `Discovery` and nothing else; arguments as for `discover`."""
    check_choice("metric", metric, SMOOTH_METRICS)
    if steps < 1:
        requirement = "at least the clean prompt is needed"
        raise InputError("steps", steps, requirement, "Give 5, or 1 for plain gradients.")
    names, index = position_labels(pairs)
    totals: dict[Site, Tensor] = {}
    for first in range(0, len(pairs), batch):
        chunk = slice(first, first + batch)
        one_hot = torch.nn.functional.one_hot(index[chunk], len(names)).double().to(model.device)
        scores = _Scores(model, pairs[chunk], metric, steps)
        for site, table in scores.tables(one_hot).items():
            totals[site] = totals.get(site, 0) + table.cpu() / len(pairs)
    present = {"": index.unique().tolist(), LOGITS: index[:, -1].unique().tolist()}
    every, rows = senders(model), []
    sent = {one.site: [every[i] for i in one.senders] for one in receivers(model)}
    for site, table in totals.items():
        if not all_finite(table):
            requirement = f"scores need finite gradients, and those at {site} are not"
            remedy = "Load it in float32: in half precision they may overflow."
            raise InputError("model", model.name, requirement, remedy)
        rows += _rows(model, site, sent.get(site, []), table.tolist(), names, present)
    edges = pl.DataFrame(rows, SCORED_EDGES.frame().schema, orient="row")
    return edges.sort(pl.col("score").abs(), descending=True, maintain_order=True)


def _rows(
    model: LanguageModel,
    site: Site,
    sent: list[Site],
    table: list,
    names: list[str],
    present: dict[str, list[int]],
) -> list[tuple]:
    """Rows of the frame from a site's scores: [label][sender][head], [label][tap], or [label].

    sent: the senders that the site reads, if it reads the stream
    """
    layer = site.layer
    inner = with_states_at(model, layer)
    if inner is not None and site.kind == inner.write:
        ends = (str(site), f"{inner.state}.{layer}", layer, layer, None)
        return [(*ends, names[i], table[i]) for i in present[""]]
    if inner is not None and site.kind == inner.local_taps:
        ends = (f"{inner.local}.{layer}", str(site), layer, layer)
        return [
            (*ends, tap, names[i], score) for i in present[""] for tap, score in enumerate(table[i])
        ]
    reads, read_layer, labels = [str(site)], layer, present[""]
    if "head" in site.axes:
        reads = [str(Site(site.kind, layer, head)) for head in range(len(table[0][0]))]
    if site.kind == "resid":
        reads, read_layer, labels = [LOGITS], None, present[LOGITS]
    return [
        (str(sender), receiver, sender.layer, read_layer, None, names[i], score)
        for i in labels
        for sender, by_head in zip(sent, table[i], strict=True)
        for receiver, score in zip(reads, by_head, strict=True)
    ]


class _Scores:
    """Scores of some prompts: differences on the edges times mean gradients along the way."""

    def __init__(self, model: LanguageModel, pairs: PromptPairs, metric: str, steps: int) -> None:
        # the prompts hold what they begin with
        self.model = require_paths(model.plain)
        self.pairs, self.metric, self.steps = pairs, metric, steps
        self.receivers = receivers(model)
        self.contrast = Contrast.of(model, pairs)
        self._states = with_states(self.model)
        self._gradients: dict[Site, Tensor] = {}  # summed over steps
        self._writes: dict[Site, Tensor] = {}  # (prompt, position), summed over steps
        for k in range(1, steps + 1):
            self._add_step(k / steps)

    def tables(self, one_hot: Float[Tensor, "prompt position label"]) -> dict[Site, Tensor]:
        """By site, sums over prompts and over the positions of a label, in float64.

        (label, sender, head) for receivers of the stream, (label, tap) for conv_taps, (label,) for
        write.
        """
        sums = {
            receiver.site: _by_label(self._streams(receiver), one_hot)
            for receiver in self.receivers
        }
        for mixer in self._states:
            if mixer.local_taps is not None:
                gradient = self._gradients[_of_taps(mixer)]
                if gradient.ndim == 3:  # that of every tap, for the output is their sum
                    gradient = gradient.unsqueeze(2)
                taps = (self.contrast.taps(mixer) * gradient).sum(-1)
                sums[Site(mixer.local_taps, mixer.layer)] = _by_label(taps, one_hot)
            write = Site(mixer.write, mixer.layer)
            sums[write] = _by_label(self._writes[write], one_hot)
        return {site: table / self.steps for site, table in sums.items()}

    def _streams(self, receiver: Receiver) -> Float[Tensor, "prompt position sender head"]:
        gradient = self._gradients[receiver.site]
        gradient = gradient if gradient.ndim == 4 else gradient.unsqueeze(2)
        up_to = self.contrast.streams[:, :, : receiver.senders[-1] + 1]
        return (up_to @ gradient.transpose(-1, -2))[:, :, list(receiver.senders)]

    def _add_step(self, clean_part: float) -> None:
        """Gradients with the embeddings at this part of the way from corrupt to clean."""
        model, run = self.model, self.contrast
        clean, corrupt = run.clean["embed"], run.corrupt["embed"]
        sites = [receiver.site for receiver in self.receivers]
        for mixer in self._states:
            sites += [Site(mixer.readout, mixer.layer)]
            sites += [_of_taps(mixer)] if mixer.local_taps is not None else []
        kept = [Site(kind, mixer.layer) for mixer in self._states for kind in mixer.inputs]
        way = (corrupt + clean_part * (clean - corrupt)).requires_grad_()
        # A receiver's input may be the stream itself: as a view of its own it has the gradient of
        # that one reader.
        inside = [receiver.site for receiver in self.receivers[:-1]]
        apart = [site for site in inside if "head" not in site.axes]
        edits: list[Edit] = [Replace("embed", way)]
        edits += [Transform(site, function=lambda h: h.view_as(h)) for site in apart]
        capture = [*sites, *kept]
        with torch.enable_grad():
            passed = model.run(self.pairs.clean, capture=capture, edits=edits, last_only=True)
            assert passed.logits is not None
            value = metric_of(passed.logits[:, -1], self.pairs, run.logits, self.metric).sum()
            at_sites = torch.autograd.grad(value, [passed[site] for site in sites])
        gradients = {site: widened(g) for site, g in zip(sites, at_sites, strict=True)}
        for mixer in self._states:
            readout = Site(mixer.readout, mixer.layer)
            self._add_write_scores(mixer, gradients.pop(readout), passed)
        for site, gradient in gradients.items():
            before = self._gradients.get(site)
            self._gradients[site] = gradient if before is None else before + gradient

    def _add_write_scores(self, mixer: LinearMixer, gradient: Tensor, passed: Run) -> None:
        """Adds what the readout's gradient finds in each position's corrupt write, less the clean.

        By the derivative at none of the corrupt writes.
        """
        clean, corrupt = self.contrast.inputs[mixer]
        inputs = {k: v.detach() for k, v in self.contrast.inputs_of(mixer, passed).items()}
        share = torch.zeros(gradient.shape[:2], dtype=gradient.dtype, device=gradient.device)
        with torch.enable_grad():
            share.requires_grad_()
            readouts = mixer.replayed(inputs, clean, corrupt, share)
            (scores,) = torch.autograd.grad((readouts * gradient).sum(), share)
        site = Site(mixer.write, mixer.layer)
        self._writes[site] = self._writes.get(site, 0) + scores


def _of_taps(mixer: LinearMixer) -> Site:
    """Where the gradient of taps is read: at their sum, where the local part has one."""
    return Site(mixer.local_out or mixer.local_taps or "", mixer.layer)


def _by_label(
    values: Float[Tensor, "prompt position *rest"], one_hot: Tensor
) -> Float[Tensor, "label *rest"]:
    return torch.einsum("bpl,bp...->l...", one_hot, values.double())
