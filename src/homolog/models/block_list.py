"""The blocks of an unmodified Hugging Face decoder: their list, and a short pass through them.

    the list    the one list of modules that lies in no other list and is as long as the
                configuration counts layers; where more are as long (of a tower for images), the
                one beside the embedding of the tokens; where none is as long, the only such list.
                Lists inside it (experts, heads) do not count
    the pass    every block runs once, in order, and turns the residual stream (batch, position,
                width) into one of that shape; earlier positions do not change with a later token
    the lanes   a stream may have several, which blocks mix: (batch, position, lane, width) of
                hyper-connections, (lane, batch, position, width) of AltUp.  They are read side by
                side, as one stream (batch, position, lane * width)
What does not hold is an `InputError`, so that nothing is ever read at the wrong place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homolog.errors import InputError

REMEDY = "Take a decoder whose blocks stand in one list, or write an adapter for its architecture."


@dataclass(frozen=True)
class Lanes:
    """How what blocks hand on becomes one residual stream (batch, position, width), and back.

    n: how many lanes.  axis: where they stand; None where there is one, without an axis.
    """

    n: int = 1
    axis: int | None = None

    def side_by_side(self, h: Tensor) -> Tensor:
        return h if self.axis is None else h.movedim(self.axis, 2).flatten(2)

    def apart(self, h: Tensor) -> Tensor:
        if self.axis is None:
            return h
        return h.unflatten(2, (self.n, -1)).movedim(2, self.axis).contiguous()


def _lanes(shape: torch.Size, windows: torch.Size) -> Lanes | None:
    """Of a stream of that shape over windows (batch, position); None for what is no stream."""
    if len(shape) == 3 and shape[:2] == windows:
        return Lanes()
    if len(shape) == 4 and shape[:2] == windows:
        return Lanes(shape[2], 2)
    if len(shape) == 4 and shape[1:3] == windows:
        return Lanes(shape[0], 0)
    return None


@dataclass(frozen=True)
class ShortPass:
    """What a short pass shows.

    lanes      how blocks hand on the residual stream
    width      of the residual stream, all lanes together
    embedded   dtype in which block 0 reads it
    dtypes     in which each block returns it
    beside     what each block returns beside it; None where it returns the stream alone
    """

    lanes: Lanes
    width: int
    embedded: torch.dtype
    dtypes: tuple[torch.dtype, ...]
    beside: tuple[tuple[Any, ...] | None, ...]


def find_blocks(hf: Any, name: str) -> torch.nn.ModuleList:
    """The list of blocks.  InputError when there is none, or more than one."""
    lists = {path: m for path, m in hf.named_modules() if isinstance(m, torch.nn.ModuleList)}
    outer = {
        path: m
        for path, m in lists.items()
        if not any(path.startswith(f"{other}.") for other in lists)
    }
    n_layers = getattr(hf.config.get_text_config(decoder=True), "num_hidden_layers", None)
    as_long = {path: m for path, m in outer.items() if len(m) == n_layers}
    if len(as_long) > 1:
        embedding = next(p for p, m in hf.named_modules() if m is hf.get_input_embeddings())
        beside = {path: m for path, m in as_long.items() if _owner(path) == _owner(embedding)}
        as_long = beside or as_long
    candidates = as_long or outer
    if len(candidates) != 1:
        named = ", ".join(f"{path} ({len(m)})" for path, m in candidates.items()) or "none"
        raise _refusal(
            hf, name, f"it must be clear which list of modules the blocks are; candidates: {named}"
        )
    return next(iter(candidates.values()))


def _owner(path: str) -> str:
    return path.rpartition(".")[0]


def short_pass(
    hf: Any, blocks: torch.nn.ModuleList, name: str, forward: Callable[[Tensor], Tensor]
) -> ShortPass:
    """What a pass of `forward` over two windows shows, which differ in their last token.

    InputError when the blocks are no decoder's.
    """
    tokens = few_tokens(hf, 5).repeat(2, 1)
    tokens[1, -1] = tokens[1, 0]
    seen: list[tuple[int, Any, Any]] = []

    def after(layer: int) -> Callable[..., None]:
        return lambda _block, args, kwargs, output: seen.append(
            (layer, stream_in(args, kwargs), output)
        )

    hooks = [
        block.register_forward_hook(after(layer), with_kwargs=True)
        for layer, block in enumerate(blocks)
    ]
    try:
        with torch.no_grad(), removed(hooks):
            forward(tokens)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        why = f"its module must run on token ids alone; that ends with {said}"
        raise _refusal(hf, name, why, "Take another dtype or another model.") from error
    order = [layer for layer, _, _ in seen]
    if order != list(range(len(blocks))):
        raise _refusal(
            hf, name, f"its {len(blocks)} blocks must run once each, in order; these ran: {order}"
        )
    embedded = seen[0][1]
    lanes = _lanes(embedded.shape, tokens.shape)
    for layer, before, output in seen:
        if why := _not_a_block(layer, before, output, embedded.shape, lanes):
            raise _refusal(hf, name, why)
    assert lanes is not None
    outputs = [output for _, _, output in seen]
    return ShortPass(
        lanes=lanes,
        width=int(lanes.side_by_side(embedded).shape[-1]),
        embedded=embedded.dtype,
        dtypes=tuple(stream_out(output).dtype for output in outputs),
        beside=tuple(None if isinstance(o, Tensor) else tuple(o[1:]) for o in outputs),
    )


def _not_a_block(
    layer: int, before: Tensor, output: Any, shape: torch.Size, lanes: Lanes | None
) -> str | None:
    """Why a module is no block of a decoder, whose stream has that shape; None where it is one."""
    if not (isinstance(output, Tensor) or type(output) in (tuple, list)):
        return f"block {layer} must return a tensor or a tuple, not {type(output).__name__}"
    h = stream_out(output)
    if lanes is None or not before.shape == h.shape == shape:
        return (
            "the residual stream must have axes batch, position and width, or lanes beside; "
            f"block {layer} makes {tuple(h.shape)} of {tuple(before.shape)}"
        )
    h = lanes.side_by_side(h)
    if not close(h[0, :-1], h[1, :-1], h.dtype):
        return (
            f"a decoder must not look ahead; a later token changes what block {layer} returns "
            "at earlier positions"
        )
    return None


def _refusal(hf: Any, name: str, why: str, remedy: str = REMEDY) -> InputError:
    requirement = f"its architecture {hf.config.model_type!r} has no adapter of its own, so {why}"
    return InputError("model", name, requirement, remedy)


def few_tokens(hf: Any, n: int) -> Tensor:
    """Token ids, (1, n), away from both ends of the vocabulary, where special tokens stand."""
    embedding = hf.get_input_embeddings().weight
    ids = torch.linspace(len(embedding) / 4, 3 * len(embedding) / 4, n).long()
    return ids[None].to(embedding.device)


def stream_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The residual stream among a block's arguments: the first, or that called hidden_states."""
    return args[0] if args else kwargs["hidden_states"]


def stream_out(output: Any) -> Tensor:
    """The residual stream among what a block returns: all of it, or the first part."""
    return output if isinstance(output, Tensor) else output[0]


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results in `dtype` differ by rounding alone; what overflowed in both is equal."""
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return bool(((a - b).norm(dim=-1) <= max(1e-5, torch.finfo(dtype).eps) * b.norm(dim=-1)).all())


@contextmanager
def removed(hooks: list[Any]) -> Iterator[None]:
    """Remove the hooks afterwards, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
