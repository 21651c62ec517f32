"""`LanguageModel`: one interface over unmodified Hugging Face modules of any architecture.

An adapter says how to embed, how to run one block and how to read out; this class owns the loop over the blocks, what
is captured, what is edited and where the run stops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from homolog.axes import Logits, Residual, Tokens
from homolog.errors import InputError
from homolog.models.edits import Edit
from homolog.models.sites import Site, resolve


@dataclass
class Taps:
    """What a run reads and edits: an adapter passes each site's value through `taps(kind, layer, value)`."""

    wanted: frozenset[Site]
    edits: dict[Site, list[Edit]]
    captured: dict[Site, Tensor] = field(default_factory=dict)

    def touches(self, kind: str, layer: int | None = None) -> bool:
        site = Site(kind, layer)
        return site in self.wanted or site in self.edits

    def __call__(self, kind: str, layer: int | None, value: Tensor) -> Tensor:
        site = Site(kind, layer)
        for edit in self.edits.get(site, ()):
            value = edit.apply(value)
        if site in self.wanted:
            self.captured[site] = value
        return value


@dataclass(frozen=True)
class Run:
    """The result of a forward pass: `logits` (None when it stopped early), and `run[site]` for each captured site."""

    logits: Logits | None
    captured: dict[Site, Tensor]

    def __getitem__(self, site: Site | str) -> Tensor:
        parsed = Site.parse(site)
        if parsed not in self.captured:
            got = ", ".join(map(str, self.captured)) or "nothing"
            raise InputError("site", str(parsed), f"this run captured {got}", "Name it in `capture`.")
        return self.captured[parsed]


class LanguageModel(ABC):
    """A causal language model.  Widths are read off the modules, never asked of the user.

    Attributes
        name            as the user gave it, for example "zoo:mamba-s0"
        hf              the Hugging Face module, unmodified
        tokenizer       its tokenizer, or None when the folder has none
        architecture    "gpt_neox", "mamba", ...
    """

    architecture: str
    neuron_kinds: tuple[str, ...]  # the sites that together are a block's neurons
    site_kinds: tuple[str, ...]  # sites that every block has

    hf: Any  # a PreTrainedModel; its submodules are known by name only

    def __init__(self, name: str, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.name = name
        self.hf = hf
        self.tokenizer = tokenizer
        self.n_layers = len(self._blocks())
        self.d_model = int(self._embedding().weight.shape[1])

    @abstractmethod
    def _blocks(self) -> Any: ...

    @abstractmethod
    def _embedding(self) -> torch.nn.Embedding: ...

    @abstractmethod
    def _context(self, embedded: Residual) -> Any:
        """What all blocks of one pass share, for example rotary tables."""

    @abstractmethod
    def _block(self, layer: int, h: Residual, context: Any, taps: Taps) -> Residual: ...

    @abstractmethod
    def _final_norm(self, h: Residual) -> Residual: ...

    @property
    def device(self) -> torch.device:
        return self._embedding().weight.device

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.hf.parameters())

    def sites(self) -> list[Site]:
        """All sites, in the order in which a pass reaches them."""
        return [
            Site("embed"),
            *(Site(kind, layer) for layer in range(self.n_layers) for kind in self.site_kinds),
        ]

    def neuron_sites(self, layer: int) -> list[Site]:
        """The sites whose concatenation is the layer's neurons [Wang 2025]."""
        return [Site(kind, layer) for kind in self.neuron_kinds]

    def run(
        self,
        tokens: Tokens,
        capture: Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        stop_after: Site | str | None = None,
    ) -> Run:
        """One forward pass over `tokens` (batch, position), int64 token ids without padding.

        capture     sites to read; each is returned in the model's dtype, after the edits at it
        edits       interventions, applied in the order given
        stop_after  end the pass when this site is computed: no later block, no LM head; `logits` is then None
        Gradients follow the caller's grad mode.  Errors: InputError for unknown sites, and token ids out of range.
        """
        available = self.sites()
        wanted = frozenset(resolve(s, available, self.name) for s in capture)
        by_site: dict[Site, list[Edit]] = {}
        for edit in edits:
            by_site.setdefault(resolve(edit.site, available, self.name), []).append(edit)
        stop = None if stop_after is None else resolve(stop_after, available, self.name)
        if stop is not None and (late := [s for s in wanted if available.index(s) > available.index(stop)]):
            raise InputError(
                "capture",
                str(min(late)),
                f"the pass stops after {stop}",
                "Stop later, or capture earlier sites.",
            )
        taps = Taps(wanted, by_site)
        h = taps("embed", None, self._embed(tokens))
        if stop != Site("embed"):
            context = self._context(h)
            for layer in range(self.n_layers):
                h = taps("resid", layer, self._block(layer, h, context, taps))
                if stop is not None and stop.layer == layer:
                    break
        return Run(self.logits(h) if stop is None else None, taps.captured)

    def residuals(self, tokens: Tokens) -> list[Residual]:
        """The residual stream after every block, from one pass that ends with the last block."""
        sites = [Site("resid", layer) for layer in range(self.n_layers)]
        run = self.run(tokens, capture=sites, stop_after=sites[-1])
        return [run[s] for s in sites]

    def continue_from(self, layer: int, h: Residual) -> Logits:
        """Logits of a pass in which `h` (batch, position, d_model) is the residual stream after block `layer`.

        Only the blocks after it run.
        """
        context = self._context(h)
        nothing = Taps(frozenset(), {})
        for later in range(layer + 1, self.n_layers):
            h = self._block(later, h, context, nothing)
        return self.logits(h)

    def logits(self, h: Residual) -> Logits:
        """Final norm and unembedding of a residual stream, in float32."""
        head = self.hf.get_output_embeddings()
        if head is None:
            raise InputError("model", self.name, "it has no language modelling head", "Load a causal language model.")
        h = self._final_norm(h)
        return head(h.to(head.weight.dtype)).float()

    def _embed(self, tokens: Tokens) -> Residual:
        embedding = self._embedding()
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= embedding.num_embeddings):
            raise InputError(
                "tokens",
                f"{int(tokens.min())} to {int(tokens.max())}",
                f"{self.name} embeds {embedding.num_embeddings} token ids",
                "Tokenize with the model's own tokenizer.",
            )
        return embedding(tokens.to(self.device))


class Hooked:
    """Route a submodule's output through the taps for the length of a `with` block."""

    def __init__(self, module: torch.nn.Module, edit: Callable[[Tensor], Tensor]) -> None:
        self._module, self._edit = module, edit

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._route)

    def _route(self, _module: Any, _args: Any, out: Any) -> Tensor:
        return self._edit(out)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
