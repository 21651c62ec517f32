"""A model changed in a way whose effect on a comparison is known: for controls.

    REF#untrained=SEED   its configuration with fresh weights: nothing of it was learned
    REF#blocks=N         the same with its first N blocks alone: its width at a part of its cost;
                         N:SEED has other weights
    REF#noise=LEVEL      each matrix W + LEVEL sd(W) N(0, 1): the less alike the higher the level
    REF#permuted         its residual stream with permuted dimensions, the same function
    REF#rotated          its residual stream turned at random, the same function

`permuted` and `rotated` write x Q' where the model writes x, and read that.  A normalisation with
weight g and bias b becomes one with weight 1 and bias Q (b / g), and what reads it, W diag(g) Q':

    W diag(g) Q' (Q n(x) + Q (b / g)) = W (g n(x) + b),      n(Q x) = Q n(x)

The latter holds for root mean squares with every orthogonal Q, and for LayerNorm with those that
keep its mean, Q 1 = 1.  So the logits are the same but for rounding, and nothing that compares
models by their functions may tell the two apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from homolog.errors import InputError
from homolog.reference import CHANGES


class Reader(NamedTuple):
    """A normalisation and the linear maps that read it."""

    norm: Any
    linears: list[nn.Linear]


class Stream(NamedTuple):
    """What of a module writes the residual stream and what reads it.

    embeddings: (ids, d_model).  writers: linear maps into it.  mean: whether normalisations take
    the mean off.
    """

    embeddings: list[nn.Embedding]
    writers: list[nn.Linear]
    readers: list[Reader]
    mean: bool


def seed_of_untrained(words: str) -> int | None:
    """SEED of fresh weights, "untrained=SEED" or "blocks=N"; None of another change.

    InputError for one that is no number.
    """
    if words.partition("=")[0] == "blocks":
        return zlib.crc32(words.encode())
    return _number(words, int) if words.partition("=")[0] == "untrained" else None


def changed_configuration(configuration: Any, words: str) -> Any:
    """The configuration as `words` change it: "blocks=N" takes the first N blocks.

    InputError where there are not that many.
    """
    if words.partition("=")[0] != "blocks":
        return configuration
    n, there = _number(words.partition(":")[0], int), int(configuration.num_hidden_layers)
    if not 1 <= n <= there:
        raise InputError("model", f"#{words}", f"it has {there} blocks", f"Take 1 to {there}.")
    values = configuration.to_dict()
    values[configuration.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = n
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:n]
    return type(configuration).from_dict(values)


def change(hf: Any, words: str, name: str) -> None:
    """Change the Hugging Face module of a trained model in place, as `words` say.

    words: what stands behind "#" in a reference.  name: of the model, which seeds what is drawn.
    Errors: InputError for an unknown change, a level that is none, and an architecture whose stream
    is not known.
    """
    generator = np.random.default_rng(zlib.crc32(f"{name}#{words}".encode()))
    if words.partition("=")[0] == "noise":
        _add_noise(hf, _number(words, float), generator)
    elif words in ("permuted", "rotated"):
        stream = _stream(hf, name)
        d_model = stream.embeddings[0].embedding_dim
        if words == "permuted":
            turn = np.eye(d_model)[generator.permutation(d_model)]
        else:
            turn = _rotation(d_model, stream.mean, generator)
        _turn(stream, torch.from_numpy(turn))
    else:
        known = f"There are {', '.join(CHANGES)}; noise, untrained and blocks take a number."
        raise InputError("model", f"{name}#{words}", "there is no such change", known)


def _number(words: str, kind: Callable[[str], Any]) -> Any:
    name, _, value = words.partition("=")
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        requirement = f"{name} takes a number, not negative"
        raise InputError("model", f"#{words}", requirement, "Give for example noise=0.1.")
    return number


def _add_noise(hf: Any, level: float, generator: np.random.Generator) -> None:
    for _, weight in sorted(hf.named_parameters()):
        if weight.ndim > 1:
            drawn = torch.from_numpy(generator.standard_normal(tuple(weight.shape)))
            noise = level * float(weight.detach().double().std()) * drawn
            weight.data += noise.to(weight.dtype)


def _rotation(n: int, keep_mean: bool, generator: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix; with `keep_mean` one for which Q 1 = 1."""
    if not keep_mean:
        q, r = np.linalg.qr(generator.standard_normal((n, n)))
        return q * np.sign(np.diag(r))
    basis = generator.standard_normal((n, n))
    basis[:, 0] = 1
    basis = np.linalg.qr(basis)[0]
    inner = np.eye(n)
    inner[1:, 1:] = _rotation(n - 1, False, generator)
    return basis @ inner @ basis.T


def _turn(stream: Stream, q: torch.Tensor) -> None:
    for embedding in stream.embeddings:
        _set(embedding, "weight", embedding.weight.double() @ q.T)
    for linear in stream.writers:
        _set(linear, "weight", q @ linear.weight.double())
        if linear.bias is not None:
            _set(linear, "bias", q @ linear.bias.double())
    for norm, linears in stream.readers:
        gain = norm.weight.double()
        for linear in linears:
            _set(linear, "weight", (linear.weight.double() * gain) @ q.T)
        if getattr(norm, "bias", None) is not None:
            _set(norm, "bias", q @ (norm.bias.double() / gain))
        _set(norm, "weight", torch.ones_like(gain))


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """A parameter of its own: an embedding and an unembedding that were tied part here."""
    kind = getattr(module, name).dtype
    setattr(module, name, nn.Parameter(value.to(kind), requires_grad=False))


def _neox(hf: Any) -> Stream:
    body = hf.gpt_neox
    readers = [Reader(body.final_layer_norm, [hf.get_output_embeddings()])]
    for block in body.layers:
        readers.append(Reader(block.input_layernorm, [block.attention.query_key_value]))
        readers.append(Reader(block.post_attention_layernorm, [block.mlp.dense_h_to_4h]))
    writers = [w for b in body.layers for w in (b.attention.dense, b.mlp.dense_4h_to_h)]
    return Stream([body.embed_in], writers, readers, True)


def _mamba(hf: Any) -> Stream:
    body = hf.backbone
    readers = [Reader(block.norm, [block.mixer.in_proj]) for block in body.layers]
    readers.append(Reader(body.norm_f, [hf.get_output_embeddings()]))
    return Stream([body.embeddings], [b.mixer.out_proj for b in body.layers], readers, False)


STREAMS: dict[str, Callable[[Any], Stream]] = {"gpt_neox": _neox, "mamba": _mamba}


def _stream(hf: Any, name: str) -> Stream:
    kind = hf.config.model_type
    if kind not in STREAMS:
        known = ", ".join(STREAMS)
        requirement = f"turning the residual stream is known for {known}, not for {kind}"
        raise InputError("model", name, requirement, "Take noise=LEVEL or untrained=SEED.")
    return STREAMS[kind](hf)
