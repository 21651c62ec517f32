"""Any Hugging Face decoder: the module's own forward, with hooks on its list of blocks.

    embed, resid_pre.0   what block 0 reads          resid_pre.L   what block L reads
    resid.L              what block L returns, or the first part of it
A stream of several lanes is read and written with its lanes side by side (`block_list.Lanes`).
A pass that stops early leaves the forward by an exception, raised in a hook and caught here.

To go on from a residual stream h after block L, without its tokens: the module runs on dummy
tokens, and blocks 0 to L return h at once.  That is right where later blocks read nothing but the
stream and positions.  Some architectures read more (values of earlier blocks, the embeddings
again); so for each L a short pass over tokens is first continued in this way, and its logits must
come out the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from homolog.axes import Logits, Residual, Tokens
from homolog.models import block_list
from homolog.models.base import LanguageModel
from homolog.models.guards import as_it_was, never_rescale, reads_more, require_decoder
from homolog.models.sites import Site
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened


class _Stopped(BaseException):
    """Leaves the forward of a module; no `except Exception` on the way takes it for an error."""


class AnyDecoder(LanguageModel):
    """Adapter over a `*ForCausalLM` of transformers whose blocks stand in one list.

    It has the sites of every model and no others.  The module is put into eval mode and is
    otherwise as it was: hooks and stand-ins live as long as a call.  Making the adapter runs the
    module on ten tokens.  InputError when no list of blocks is found, or when they are not a
    decoder's.
    """

    site_kinds = ("resid_pre", "resid")

    def __init__(
        self, name: str, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self.name, self.hf = name, hf.eval()
        self.architecture = str(hf.config.model_type)
        require_decoder(hf.config, name)
        never_rescale(hf)
        takes = inspect.signature(hf.forward).parameters
        anything = any(taken.kind is inspect.Parameter.VAR_KEYWORD for taken in takes.values())
        self._options = {"use_cache": False} if "use_cache" in takes or anything else {}
        self._keeps_logits = "logits_to_keep" in takes
        self._list = block_list.find_blocks(hf, name)
        self._short_pass: tuple[object, block_list.ShortPass] | None = None
        # blocks after which a pass is known to go on from the stream alone
        self._continued: set[int] = set()
        super().__init__(name, hf, tokenizer)

    def blocks(self) -> torch.nn.ModuleList:
        return self._list

    def _width(self) -> int:
        return self._seen().width  # embeddings may be narrower, and projected

    @cached_property
    def _lanes(self) -> block_list.Lanes:
        return self._seen().lanes

    def _seen(self) -> block_list.ShortPass:
        """What a short pass shows, with the weights on the device and in the dtypes of now."""
        state = (self.device, *(p.dtype for p in self.hf.parameters()))
        if self._short_pass is None or self._short_pass[0] != state:
            shown = block_list.short_pass(self.hf, self._list, self.name, self._forward)
            self._short_pass = state, shown
        return self._short_pass[1]

    def _forward(self, tokens: Tokens, last_only: bool = False) -> Tensor:
        kept = {"logits_to_keep": 1} if last_only and self._keeps_logits else {}
        try:
            with as_it_was(self.hf):
                logits = self.hf(tokens, **self._options, **kept)[0]
        except (IndexError, RuntimeError):
            # tables of positions of other kinds fail where they end
            self._require_positions(tokens.shape[1], "tokens")
            raise
        return widened(logits[:, -1:] if last_only else logits)

    def _pass(
        self, tokens: Tokens, taps: Taps, stop: Site | None, last_only: bool
    ) -> Tensor | None:
        try:
            with self._hooked(taps, stop):
                return self._forward(tokens, last_only)
        except _Stopped:
            return None

    @contextmanager
    def _hooked(self, taps: Taps, stop: Site | None = None, first: int = 0) -> Iterator[None]:
        """Hooks that read, edit and stop, on the blocks from `first` on that need them."""
        hooks: list[Any] = []
        with block_list.removed(hooks):
            for layer in range(first, self.n_layers):
                block, sites = self._list[layer], [Site("resid_pre", layer)]
                if layer == 0:
                    sites.insert(0, Site("embed"))
                leaves = layer == 0 and stop == Site("embed")
                if leaves or any(taps.touches(site.kind, site.layer) for site in sites):
                    before = _before(taps, sites, leaves, self._lanes)
                    hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
                leaves = stop is not None and stop.layer == layer
                if leaves or taps.touches("resid", layer):
                    after = _after(taps, layer, leaves, self._lanes)
                    hooks.append(block.register_forward_hook(after))
            yield

    def _rest_of_pass(
        self, layer: int, h: Residual, taps: Taps, last_only: bool, embedded: Residual | None
    ) -> Tensor:
        """No block up to `layer` runs, but for the check when a layer is asked for first.

        InputError where later blocks read more than the residual stream, the embeddings or else.
        """
        self._require_stream_alone(layer)
        return self._continue(layer, h, taps, last_only)

    def logits(self, h: Residual) -> Logits:
        """What the module makes of a residual stream after its last block, in float32 or wider.

        That is the final norm, the unembedding and whatever else it has there, such as a soft cap.
        """
        self._require_stream_alone(self.n_layers - 1)
        # windows of one position, for `h` may be longer than a window can be
        single = h.reshape(-1, 1, h.shape[-1])
        logits = self._continue(self.n_layers - 1, single, NOTHING, False)
        return logits.reshape(*h.shape[:-1], logits.shape[-1])

    def _continue(self, layer: int, h: Residual, taps: Taps, last_only: bool) -> Tensor:
        if self._has_table:
            self._require_positions(h.shape[1], "h")
        seen, tokens = self._seen(), torch.zeros(h.shape[:2], dtype=torch.long, device=self.device)
        h = self._lanes.apart(h)
        if layer == -1:
            given = h.to(self.device, seen.embedded)
            hook = self._list[0].register_forward_pre_hook(
                lambda _b, a, k: _put_in(a, k, given), with_kwargs=True
            )
            with block_list.removed([hook]), self._hooked(taps):
                return self._forward(tokens, last_only)
        given, besides = h.to(self.device, seen.dtypes[layer]), seen.beside[: layer + 1]
        values = [given if beside is None else (given, *beside) for beside in besides]
        with _returning(self._list[: layer + 1], values), self._hooked(taps, first=layer + 1):
            return self._forward(tokens, last_only)

    def _require_stream_alone(self, layer: int) -> None:
        """InputError where a pass, continued from its own residual stream, has other logits."""
        if layer in self._continued:
            return
        site = Site("embed") if layer == -1 else Site("resid", layer)
        with torch.no_grad():
            run = self.plain.run(block_list.few_tokens(self.hf, 7), capture=[site])
            assert run.logits is not None
            try:
                continued = self._continue(layer, run[site], NOTHING, False)
                alone = block_list.close(continued, run.logits, run[site].dtype)
            except Exception:
                # a block that misses what an earlier one leaves behind fails in a way of its own
                alone = False
        if not alone:
            raise reads_more(self.name, self.architecture, layer)
        self._continued.add(layer)


def _before(
    taps: Taps, sites: list[Site], leaves: bool, lanes: block_list.Lanes
) -> Callable[..., Any]:
    def hook(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        h = lanes.side_by_side(block_list.stream_in(args, kwargs))
        for site in sites:
            h = taps(site.kind, site.layer, h)
        if leaves:
            raise _Stopped
        return _put_in(args, kwargs, lanes.apart(h))

    return hook


def _after(taps: Taps, layer: int, leaves: bool, lanes: block_list.Lanes) -> Callable[..., Any]:
    def hook(_block: Any, _args: Any, output: Any) -> Any:
        h = taps("resid", layer, lanes.side_by_side(block_list.stream_out(output)))
        if leaves:
            raise _Stopped
        h = lanes.apart(h)
        return h if isinstance(output, Tensor) else (h, *output[1:])

    return hook


def _put_in(
    args: tuple[Any, ...], kwargs: dict[str, Any], h: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a block with `h` for the residual stream."""
    return ((h, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": h})


@contextmanager
def _returning(blocks: torch.nn.ModuleList, values: list[Any]) -> Iterator[None]:
    """Blocks that return these values and compute nothing."""
    # a block has its own where another library has wrapped it
    own = [block.__dict__.get("forward") for block in blocks]
    try:
        for block, value in zip(blocks, values, strict=True):
            block.forward = lambda *_args, value=value, **_kwargs: value
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward
