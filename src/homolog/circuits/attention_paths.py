"""Path patching in Transformers: heads to logits, and heads to the inputs of another head.

Sender: z of a head (its pattern-weighted values) at one position, taken from the corrupt run.  Held
at clean values: z of every other head.  Recomputed: MLPs.  Source: [Wang 2025]; Wang et al.,
"Interpretability in the Wild", 2023, sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homolog.axes import Tokens
from homolog.circuits.replay import Patched, PatchedRows, Replay, last
from homolog.errors import InputError
from homolog.models.widening import widened
from homolog.models.runs import Run
from homolog.models.sites import Site, resolve
from homolog.models.tokens import TokensLike
from homolog.models.transformer import READS, Read, Transformer


class AttentionPaths(Replay):
    """One batch of prompt pairs; the clean pass runs once, questions add what they alone need.

    clean, corrupt (prompt, position): token ids of the same shape.
    """

    model: Transformer

    def __init__(self, model: Transformer, clean: TokensLike, corrupt: TokensLike) -> None:
        super().__init__(model, clean, corrupt)
        n = model.n_layers
        kept = [site for kind in ("resid_pre", "attn_out", "z", "resid") for site in last(kind, n)]
        run = self.model.run(self.tokens, capture=kept, last_only=True)
        assert run.logits is not None
        self.logits = run.logits[:, 0]
        self._before, self._attn_out, self._z, self._after = (
            [run[site] for site in last(kind, n)]
            for kind in ("resid_pre", "attn_out", "z", "resid")
        )

    def _advance(self, layer: int, h: Tensor) -> Tensor:
        return self.model.after_attention(layer, h, self._attn_out[layer])

    def heads_to_logits(self, senders: Sequence[Site | str] | None = None) -> Iterator[Patched]:
        """Each head's z at the last position from the corrupt run, every other head's held.

        senders   heads; all by default
        """
        chosen = self._heads(senders, self.model.n_layers)
        sites = {
            site.layer: Site("z", site.layer, position=-1)
            for site in chosen
            if site.layer is not None
        }
        z = self.model.run(
            self.corrupt, capture=[*sites.values()], stop_after=f"resid.{max(sites)}"
        )
        starts = []
        for layer, site in sites.items():
            heads = [site.head for site in chosen if site.layer == layer]
            names = [f"z.{layer}.{head}" for head in heads]
            starts.append(self._start(layer, names, heads, z[site][:, heads].transpose(0, 1)))
        return self.to_logits(starts, self._advance)

    def heads_to_head(
        self,
        receiver: Site | str,
        positions: Tensor,
        reads: Sequence[Read] = READS,
        senders: Sequence[Site | str] | None = None,
    ) -> Iterator[Patched]:
        """Each head's z at `positions` from the corrupt run, as the receiver at the end sees it.

        receiver    a head, "z.5.0"; only its own z at the last position changes what reaches the
                    logits
        positions   (prompt,): where the sender is patched
        reads       what of the receiver's input changes: its keys and values at `positions`, its
                    query where that is the last position
        Every other head is held everywhere, in both halves of the path.
        """
        site = self._receiver(receiver)
        if not site.layer:
            requirement = "heads below it must exist"
            raise InputError("receiver", str(site), requirement, "Name a head above block 0.")
        chosen = self._heads(senders, site.layer)
        rows = self._rows_at(positions, chosen, site)
        new: dict[Read, Tensor] = {}
        for read in reads:
            new[read] = self._read_by(site, read, rows, positions)
        z = self._receive(site, self._clean_head(site), positions, new)
        start = self._start(site.layer, [str(s) for s in chosen], [site.head] * len(chosen), z)
        return self.to_logits([start], self._advance)

    def reads_to_logits(
        self, receiver: Site | str, positions: dict[str, Tensor], reads: Sequence[Read] = READS
    ) -> Iterator[Patched]:
        """What the receiver reads at each of `positions` from the corrupt run, all else held.

        positions   label: (prompt,)
        Which position's keys and values carry a token: the test that for a state is which write
        carries it.
        """
        site = self._receiver(receiver)
        seen = self._clean_head(site)
        corrupt = _Head.of(self.model, self._stream(self.corrupt, site), site)
        rows = []
        for at in positions.values():
            each = torch.arange(len(at))
            new: dict[Read, Tensor] = {
                read: corrupt.at(read)[None, each, at] for read in reads if read != "query"
            }
            if "query" in reads:
                new["query"] = corrupt.query[None]
            rows.append(self._receive(site, seen, at, new))
        heads = [site.head] * len(rows)
        start = self._start(site.layer or 0, list(positions), heads, torch.cat(rows))
        return self.to_logits([start], self._advance)

    def _clean_head(self, head: Site) -> _Head:
        if head not in self._of_clean:
            self._of_clean[head] = _Head.of(self.model, self._stream(self.tokens, head), head)
        return self._of_clean[head]

    def _stream(self, tokens: Tokens, head: Site) -> Tensor:
        """The residual stream that the head's block reads, at every position."""
        site = Site("resid", head.layer - 1) if head.layer else Site("embed")
        return self.model.run(tokens, capture=[site], stop_after=site)[site]

    def _receiver(self, receiver: Site | str) -> Site:
        site = resolve(receiver, self.model.sites(), self.model.name)
        if site.kind != "z" or site.head is None or site.head >= self.model.n_heads:
            requirement = f"it must be a head, z.LAYER.HEAD, with a head below {self.model.n_heads}"
            raise InputError("receiver", str(site), requirement, "Name one.")
        return site

    def _heads(self, senders: Sequence[Site | str] | None, below: int) -> list[Site]:
        """The heads of the blocks below that one, or those named, in the order of the pass."""
        n_heads = self.model.n_heads
        heads = [Site("z", layer, head) for layer in range(below) for head in range(n_heads)]
        if senders is None:
            return heads
        chosen = [resolve(sender, self.model.sites(), self.model.name) for sender in senders]
        if strangers := [site for site in chosen if site not in heads]:
            limits = f"with a layer below {below} and a head below {n_heads}"
            requirement = f"it must be a head, z.LAYER.HEAD, {limits}"
            remedy = "Name heads, or leave senders out for all."
            raise InputError("sender", str(strangers[0]), requirement, remedy)
        return sorted(chosen, key=heads.index)

    def _start(
        self, layer: int, names: Sequence[str], heads: Sequence[int | None], z: Tensor
    ) -> PatchedRows:
        """Rows after the block, with other z (sender, prompt, d_head) of `heads`."""
        weight = self.model.head_matrix(layer)[0][heads]
        old = self._z[layer][:, heads].transpose(0, 1)
        change = torch.bmm((z - old).to(weight.dtype), weight)
        return PatchedRows(layer, tuple(names), self._with_attention(layer, change))

    def _with_attention(self, layer: int, change: Tensor) -> Tensor:
        if self.model.parallel:  # the MLP reads the block's input, which has not changed
            return self._after[layer] + change
        before = self._before[layer].expand_as(change)
        return self.model.after_attention(layer, before, self._attn_out[layer] + change)

    def _rows_at(self, positions: Tensor, chosen: list[Site], receiver: Site) -> Tensor:
        """The stream at `positions` before the receiver's block, (sender, prompt, d_model)."""
        layers = range(min(site.layer or 0 for site in chosen), receiver.layer or 0)
        clean = self._clean_at(positions, layers, receiver)
        sites = [Site("z", layer) for layer in sorted({site.layer or 0 for site in chosen})]
        corrupt = _at(
            self.model.run(self.corrupt, capture=sites, stop_after=f"resid.{sites[-1].layer}"),
            positions,
        )
        rows: Tensor | None = None
        for layer in layers:
            attn_out = clean[Site("attn_out", layer)]
            if rows is not None:
                rows = self.model.after_attention(layer, rows, attn_out)
            heads = [site.head for site in chosen if site.layer == layer]
            if not heads:
                continue
            change = (corrupt[Site("z", layer)] - clean[Site("z", layer)])[:, heads].transpose(0, 1)
            change = torch.bmm(change, self.model.head_matrix(layer)[0][heads])
            before = clean[Site("resid_pre", layer)].expand_as(change)
            started = self.model.after_attention(layer, before, attn_out + change)
            rows = started if rows is None else torch.cat([rows, started])
        assert rows is not None
        return rows

    def _clean_at(self, positions: Tensor, layers: range, receiver: Site) -> dict[Site, Tensor]:
        """Clean values at `positions`; the same pass sees what the receiver reads."""
        key = (tuple(positions.tolist()), layers)
        if key not in self._of_clean:
            kinds = ("resid_pre", "attn_out", "z")
            kept = [Site(kind, layer) for kind in kinds for layer in layers]
            stream = Site("resid", layers[-1])
            run = self.model.run(self.tokens, capture=[*kept, stream], stop_after=stream)
            self._of_clean[receiver] = _Head.of(self.model, run[stream], receiver)
            self._of_clean[key] = _at(run, positions, kept)
        return self._of_clean[key]

    def _read_by(self, receiver: Site, read: Read, rows: Tensor, positions: Tensor) -> Tensor:
        """What the receiver reads of `rows` (sender, prompt, d_model) at `positions`, rotated."""
        model = self.model
        head = receiver.head if read == "query" else _own(model, receiver)
        new = model.read(receiver.layer or 0, read, rows, head)
        if read == "value":
            return new
        # prompts take the place of positions here
        rotary = model.rotary(positions[None].to(rows.device), self.tokens.shape[1], rows)
        return model.rotate(new.unsqueeze(-2), rotary).squeeze(-2)

    def _receive(
        self, receiver: Site, seen: _Head, positions: Tensor, new: dict[Read, Tensor]
    ) -> Tensor:
        """The receiver's z at the last position when it reads `new` at `positions`.

        new   (sender, prompt, d_head); a new query counts only where the position is the last one
        In float32 or wider, as scores may need.
        """
        positions = positions.to(seen.key.device)
        scale, each = self.model.scale(receiver.layer or 0), torch.arange(len(positions))
        seen, new = seen.widened(), {read: widened(value) for read, value in new.items()}
        query = seen.query[None]
        if "query" in new:
            query = torch.where((positions == seen.key.shape[1] - 1)[:, None], new["query"], query)
        senders = len(next(iter(new.values())))
        scores = (torch.einsum("snd,ntd->snt", query, seen.key) * scale).expand(senders, -1, -1)
        if "key" in new:
            at = positions.expand(senders, -1)[..., None]
            scores = scores.scatter(-1, at, (query * new["key"]).sum(-1, keepdim=True) * scale)
        pattern = scores.softmax(-1)
        z = torch.einsum("snt,ntd->snd", pattern, seen.value)
        if "value" in new:
            z = z + pattern[:, each, positions, None] * (new["value"] - seen.value[each, positions])
        return z


@dataclass(frozen=True)
class _Head:
    """What one head uses; query and key are rotated.

    query        at the last position, (prompt, d_head)
    key, value   (prompt, position, d_head)
    """

    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, model: Transformer, stream: Tensor, head: Site) -> _Head:
        """From the residual stream that the head's block reads, (prompt, position, d_model)."""
        layer, own = head.layer or 0, _own(model, head)
        query = model.read(layer, "query", stream[:, -1:], head.head)
        key, value = (model.read(layer, read, stream, own) for read in READS[1:])
        positions = torch.arange(stream.shape[1], device=stream.device)[None]
        query, key = (
            model.rotate(x.unsqueeze(-2), model.rotary(at, stream.shape[1], stream)).squeeze(-2)
            for x, at in ((query, positions[:, -1:]), (key, positions))
        )
        return cls(query[:, 0], key, value)

    def widened(self) -> _Head:
        """The same in float32 or wider."""
        return _Head(widened(self.query), widened(self.key), widened(self.value))

    def at(self, read: Read) -> Tensor:
        return self.key if read == "key" else self.value


def _at(run: Run, positions: Tensor, sites: Sequence[Site] | None = None) -> dict[Site, Tensor]:
    """Values of a run at each prompt's position; of all its sites unless some are given."""
    each = torch.arange(len(positions))
    return {site: run[site][each, positions] for site in (run.captured if sites is None else sites)}


def _own(model: Transformer, head: Site) -> int:
    """The key and value head that a query head uses."""
    return (head.head or 0) * model.n_kv_heads // model.n_heads
