"""`LanguageModel`: one interface over unmodified Hugging Face modules of any architecture.

This class owns what may be asked: which sites are captured and edited, and where a run stops.  How
a pass is made is left to two kinds of adapters: `Blockwise` computes every block itself, with sites
inside, and `AnyDecoder` runs the module's own forward.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from homolog.axes import Logits, Residual, Tokens
from homolog.errors import InputError
from homolog.models.beginning import AUTO, BegunTaps, chosen_beginning
from homolog.models.edits import Edit, Replace
from homolog.models.finite import STREAM, Pass, Values, require_finite
from homolog.models.float32 import HALF
from homolog.models.positions import has_table, n_positions, too_long
from homolog.models.runs import Run
from homolog.models.sites import Site, is_wide, resolve
from homolog.models.taps import Taps
from homolog.models.tokens import TokensLike, as_tokens
from homolog.record.layers import STREAM_AFTER

TOKENIZER_REMEDY = (
    "Save its tokenizer beside the weights with `save_pretrained`, or install what it needs."
)


class LanguageModel(ABC):
    """A causal language model.  Widths are read off the modules, never asked of the user.

    Attributes
        name            as the user gave it, for example "zoo:mamba-s0"
        hf              the Hugging Face module, unmodified
        tokenizer       its tokenizer, or None when the folder has none
        no_tokenizer    why it has none, in words
        bos             the token that is read before every window (`beginning`); None: windows are
                        read as they are
        place           the kind of site that dictionaries are of, read and written there (`placed`)
        n_positions     positions it was made for; None where there is no such number (recurrent
                        models) or rotary frequencies follow the length of the window
    An adapter says
        architecture    the model type of its configurations: "gpt_neox", "mamba", ...
        site_kinds      the sites of every block, in the order in which a pass reaches them
        neuron_kinds    those of them that together are a block's neurons; none if that is not known
    or, where blocks differ, `layer_kinds` and `layer_neurons` of each
    """

    architecture: str
    site_kinds: tuple[str, ...] = ()
    neuron_kinds: tuple[str, ...] = ()

    hf: Any  # a PreTrainedModel; its submodules are known by name only

    def __init__(
        self, name: str, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self.name = name
        self.hf = hf
        self.tokenizer = tokenizer
        self.no_tokenizer = None if tokenizer is not None else "the model was made without one"
        self.bos: int | None = None
        self.place = STREAM_AFTER
        self.n_positions = n_positions(hf.config)
        self._has_table = has_table(hf, self.blocks(), self.n_positions)
        self.n_layers = len(self.blocks())
        self.d_model = self._width()

    @abstractmethod
    def blocks(self) -> Any:
        """The modules of the blocks, a torch.nn.ModuleList."""

    def embedding(self) -> torch.nn.Embedding:
        """The embedding of the tokens."""
        return self.hf.get_input_embeddings()

    @abstractmethod
    def _pass(
        self, tokens: Tokens, taps: Taps, stop: Site | None, last_only: bool
    ) -> Tensor | None:
        """A pass through `taps`; None when it stops, after the block of `stop`."""

    @abstractmethod
    def _rest_of_pass(
        self, layer: int, h: Residual, taps: Taps, last_only: bool, embedded: Residual | None
    ) -> Tensor:
        """The part of a pass that comes after block `layer`, whose output is `h`.

        embedded: as in `continue_from`.
        """

    @abstractmethod
    def logits(self, h: Residual) -> Logits:
        """Final norm and unembedding of a residual stream, in float32, or float64 as the model."""

    def _width(self) -> int:
        """Width of the residual stream."""
        return int(self.embedding().weight.shape[1])

    @property
    def device(self) -> torch.device:
        return self.embedding().weight.device

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.hf.parameters())

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.  InputError that says why there is none."""
        if self.tokenizer is None:
            requirement = f"the model has none: {self.no_tokenizer}"
            raise InputError("tokenizer", self.name, requirement, TOKENIZER_REMEDY)
        return self.tokenizer

    def begun(self, bos: str = AUTO) -> LanguageModel:
        """The same model over the same weights, with windows begun by a token, or not.

        bos     auto: as the tokenizer's own template has it; true, false
        Errors: InputError for true where the tokenizer has no such token.
        """
        return self._read_after(chosen_beginning(self.name, self.tokenizer, bos))

    @property
    def plain(self) -> LanguageModel:
        """The same model over the same weights, which reads windows as they are."""
        return self._read_after(None)

    def _read_after(self, bos: int | None) -> LanguageModel:
        if bos == self.bos:
            return self
        if bos is not None:
            self.plain._checked([[bos]])
        other = copy.copy(self)
        other.bos = bos
        return other

    def placed(self, place: str) -> LanguageModel:
        """The same model over the same weights, with dictionaries at another place of its blocks.

        InputError for a place that it does not have, or that is not as wide as its stream.
        """
        if place == self.place:
            return self
        of_all = set.intersection(*(set(self.layer_kinds(n)) for n in range(self.n_layers)))
        there = [kind for kind in self.layer_kinds(0) if kind in of_all and is_wide(kind)]
        if place not in there:
            requirement = f"of the width of its stream {self.name} has {', '.join(there)}"
            raise InputError("site", place, requirement, "Choose of these.")
        other = copy.copy(self)
        other.place = place
        return other

    def own_site(self, layer: int) -> Site:
        """Where the dictionary of a block reads and writes."""
        return Site(self.place, layer)

    def with_own(
        self, layer: int, before: Tensor | None, value: Tensor
    ) -> tuple[int, Tensor, list[Edit]]:
        """What `continue_from` takes for a pass with `value` at the place of a block's dictionary.

        before: the stream before the block, from which it is computed again; not read where the
        place is the stream itself.
        """
        if self.place == STREAM_AFTER:
            return layer, value, []
        assert before is not None
        return layer - 1, before, [Replace(self.own_site(layer), value)]

    def reads_embeddings_after(self, layer: int) -> bool:
        """Whether a block after this one reads the embeddings beside the stream."""
        return False

    def embedded_for(self, layer: int, tokens: TokensLike) -> Tensor | None:
        """What `continue_from` takes as `embedded` after that block; None: it takes none."""
        if not self.reads_embeddings_after(layer):
            return None
        return self.run(tokens, capture=["embed"], stop_after="embed")["embed"]

    def require_positions(self, n: int, field: str = "tokens") -> None:
        """InputError where windows of n tokens are longer than the model was made for."""
        if self.bos is None or self.n_positions is None:
            self._require_positions(n, field)
        elif n >= self.n_positions:
            raise too_long(self.name, n, self.n_positions, field, begun=True)

    def _require_positions(self, n: int, field: str) -> None:
        """The same of all that is read."""
        if self.n_positions is not None and n > self.n_positions:
            raise too_long(self.name, n, self.n_positions, field)

    def sites(self) -> list[Site]:
        """All sites, in the order in which a pass reaches them."""
        return [
            Site("embed"),
            *(Site(k, layer) for layer in range(self.n_layers) for k in self.layer_kinds(layer)),
        ]

    def layer_kinds(self, layer: int) -> tuple[str, ...]:
        """The sites of a block, in the order in which a pass reaches them."""
        return self.site_kinds

    def layer_neurons(self, layer: int) -> tuple[str, ...]:
        """Those of them that together are the block's neurons; none if that is not known."""
        return self.neuron_kinds

    def neuron_sites(self, layer: int) -> list[Site]:
        """The sites whose concatenation is the layer's neurons [Wang 2025].

        InputError where it is not known which they are.
        """
        kinds = self.layer_neurons(layer)
        if not kinds:
            kind = f"the architecture {self.architecture!r}"
            requirement = f"{kind} has no adapter that names its neurons"
            raise InputError("model", self.name, requirement, "Set controls.neurons = false.")
        return [Site(kind, layer) for kind in kinds]

    def run(
        self,
        tokens: TokensLike,
        capture: Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        stop_after: Site | str | None = None,
        last_only: bool = False,
    ) -> Run:
        """One forward pass over `tokens` (batch, position).

        tokens      int64 token ids without padding, or what else `as_tokens` takes
        capture     sites to read, each in the dtype it is computed in, after the edits at it
        edits       interventions, applied in the order given
        stop_after  end the pass when this site's block is computed: no later block, no LM head;
                    `logits` is then None
        last_only   logits of the last position alone, (batch, 1, vocabulary)
        Gradients follow the caller's grad mode.  What is captured never changes what is computed.
        Errors: InputError for unknown sites, token ids out of range, windows longer than a learned
        table of positions, and where no edit was given, logits or a captured residual stream that
        are not finite.
        """
        taps = self._taps(capture, edits)
        stop = None if stop_after is None else resolve(stop_after, self.sites(), self.name).base
        if stop is not None and (late := [s for s in taps.reads if _depth(s) > _depth(stop)]):
            requirement = f"the pass stops after {stop}"
            remedy = "Stop later, or capture earlier sites."
            raise InputError("capture", str(min(late, key=_depth)), requirement, remedy)
        tokens = self._checked(tokens)
        run = Run(self._text_pass(tokens, taps, stop, last_only), taps.captured)
        if not taps.edits:
            streams = (value for site, value in run.captured.items() if site.kind in STREAM)
            again = self._again(
                lambda w, taps: self._text_pass(tokens[w : w + 1], taps, stop, False)
            )
            require_finite(again, (run.logits, *streams), tokens)
        return run

    def _text_pass(
        self, tokens: Tokens, taps: Taps, stop: Site | None, last_only: bool
    ) -> Tensor | None:
        """`_pass` over the tokens and what they are read after, of which nothing comes back."""
        if self.bos is None:
            return self._pass(tokens, taps, stop, last_only)
        begun = torch.cat([torch.full_like(tokens[:, :1], self.bos), tokens], dim=1)
        logits = self._pass(begun, _begun(taps), stop, last_only)
        return logits if logits is None or last_only else logits[:, 1:]

    def _text_rest(
        self,
        layer: int,
        h: Residual,
        taps: Taps,
        last_only: bool,
        embedded: Residual | None = None,
    ) -> Tensor:
        """`_rest_of_pass` from the streams of the text and those of what it is read after."""
        if self.bos is None:
            return self._rest_of_pass(layer, h, taps, last_only, embedded)
        site = Site("embed") if layer == -1 else Site("resid", layer)
        token = torch.tensor([[self.bos]], device=self.device)
        with torch.no_grad():
            first = self.plain.run(token, capture=[site, "embed"], stop_after=site)

        def begun(text: Tensor, before: Tensor) -> Tensor:
            return torch.cat([before.to(text).expand(len(text), -1, -1), text], dim=1)

        whole = None if embedded is None else begun(embedded, first["embed"])
        logits = self._rest_of_pass(layer, begun(h, first[site]), _begun(taps), last_only, whole)
        return logits if last_only else logits[:, 1:]

    def _again(self, window_pass: Callable[[int, Taps], Tensor | None]) -> Pass:
        """window_pass: over the window of that index alone, without edits."""

        def read(window: int, sites: list[Site]) -> Values:
            taps = Taps({site: [site] for site in sites}, {})
            with torch.no_grad():
                return taps.captured, window_pass(window, taps)

        return Pass(self.name, self.sites(), next(self.hf.parameters()).dtype in HALF, read)

    def residuals(self, tokens: TokensLike) -> list[Residual]:
        """The residual stream after every block, from one pass that ends with the last block."""
        sites = [Site("resid", layer) for layer in range(self.n_layers)]
        run = self.run(tokens, capture=sites, stop_after=sites[-1])
        return [run[s] for s in sites]

    def continue_from(
        self,
        layer: int,
        h: Tensor,
        edits: Sequence[Edit] = (),
        last_only: bool = False,
        embedded: Tensor | None = None,
    ) -> Tensor:
        """Logits of a pass in which `h` is the residual stream after block `layer`.

        h (batch, position, d_model) -> (batch, position, vocabulary), or (batch, 1, vocabulary).
        Only the blocks after it run; layer -1 stands for the embeddings.  edits and last_only as in
        `run`.
        embedded   what the pass has at `embed`, shaped like `h`: needed where later blocks read the
                   embeddings beside the stream (Zamba2)
        Errors: InputError for a layer that is not there, another shape of `h`, blocks that read
        more than they are given, and where no edit was given, logits that are not finite.
        """
        if not -1 <= layer < self.n_layers:
            requirement = f"{self.name} has {self.n_layers} blocks"
            raise InputError("layer", layer, requirement, f"Use -1 to {self.n_layers - 1}.")
        if not h.is_floating_point() or h.ndim != 3 or h.shape[-1] != self.d_model or 0 in h.shape:
            axes = f"(batch, position, {self.d_model})"
            requirement = f"the stream of {self.name} is {axes}, in floats"
            remedy = "Give what a run captured at resid.LAYER."
            raise InputError("h", tuple(h.shape), requirement, remedy)
        taps = self._taps((), edits)
        logits = self._text_rest(layer, h, taps, last_only, embedded)
        if not taps.edits:
            before = ("embed", None) if layer == -1 else ("resid", layer)

            def rest_alone(window: int, taps: Taps) -> Tensor:
                """Logits of one window, whose stream after block `layer` is read too."""
                one = slice(window, window + 1)
                beside = None if embedded is None else embedded[one]
                return self._text_rest(layer, taps(*before, h[one]), taps, False, beside)

            require_finite(self._again(rest_alone), (h, logits), None)
        return logits

    def _taps(self, capture: Sequence[Site | str], edits: Sequence[Edit]) -> Taps:
        """What a pass reads and edits.  InputError for unknown sites."""
        available, taps = self.sites(), Taps({}, {})
        for asked in capture:
            site = resolve(asked, available, self.name)
            taps.reads.setdefault(site.base, []).append(site)
        for edit in edits:
            taps.edits.setdefault(resolve(edit.site, available, self.name).base, []).append(edit)
        return taps

    def _checked(self, tokens: TokensLike) -> Tokens:
        """The tokens on the model's device.  InputError for one it does not embed, and too many."""
        ids = as_tokens(tokens)
        n_ids, first, last = int(self.embedding().weight.shape[0]), int(ids.min()), int(ids.max())
        if first < 0 or last >= n_ids:
            requirement = f"{self.name} embeds {n_ids} token ids"
            remedy = "Tokenize with the model's own tokenizer."
            raise InputError("tokens", f"{first} to {last}", requirement, remedy)
        if self._has_table:
            self.require_positions(ids.shape[1])
        return ids.to(self.device)


def _begun(taps: Taps) -> BegunTaps:
    return BegunTaps(taps.reads, taps.edits, taps.captured)


def _depth(site: Site) -> int:
    """The block that a site is computed in; embeddings come before block 0."""
    return -1 if site.layer is None else site.layer
