"""The adapter for every architecture, against hooks that the test itself puts on the module.

Each case names the path of its blocks; the adapter has to find them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.helpers import relative
from tests.reference import tiny_models as tiny
from torch import Tensor

from homolog.models import Add, LanguageModel, Replace, Site, Transform, Zero
from homolog.models.any_decoder import AnyDecoder
from homolog.models.architectures import ADAPTERS

pytestmark = pytest.mark.usefixtures("one_thread")

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "gpt2": (tiny.tiny_gpt2, "transformer.h"),
    "llama": (tiny.tiny_llama, "model.layers"),
    "qwen2": (tiny.tiny_qwen2, "model.layers"),
    "qwen3": (tiny.tiny_qwen3, "model.layers"),
    "gemma": (tiny.tiny_gemma, "model.layers"),
    "gemma2": (tiny.tiny_gemma2, "model.layers"),
    "mamba2": (tiny.tiny_mamba2, "backbone.layers"),
    "falcon_h1": (tiny.tiny_falcon_h1, "model.layers"),
    "rwkv": (tiny.tiny_rwkv, "rwkv.blocks"),
    "recurrent_gemma": (tiny.tiny_recurrent_gemma, "model.layers"),
    "mixtral": (tiny.tiny_mixtral, "model.layers"),
    "opt": (tiny.tiny_opt, "model.decoder.layers"),
    "zamba": (tiny.tiny_zamba, "model.layers"),
}
READS_MORE = ("zamba",)  # its blocks read the embeddings beside the residual stream
TOKENS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def adapted(case: str, dtype: torch.dtype = torch.float32) -> AnyDecoder:
    hf = CASES[case][0]().to(dtype).requires_grad_(False)
    return AnyDecoder(f"tiny {case}", hf)


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(case: str) -> AnyDecoder:
    return adapted(case)


@pytest.fixture(params=[c for c in CASES if c not in READS_MORE])
def streamed(request: pytest.FixtureRequest, models: dict[str, AnyDecoder]) -> AnyDecoder:
    """A model whose blocks read the residual stream and positions alone."""
    return (
        models.setdefault(request.param, adapted(request.param))
        if request.param not in models
        else models[request.param]
    )


@pytest.fixture(scope="module")
def models() -> dict[str, AnyDecoder]:
    return {}


def blocks_of(model: AnyDecoder) -> Any:
    return model.hf.get_submodule(CASES[model.name.removeprefix("tiny ")][1])


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


def forward(
    model: AnyDecoder,
    tokens: Tensor,
    put: dict[tuple[str, int], Callable[[Tensor], Tensor]] | None = None,
):
    """(what each block reads, what it returns, logits); `put` changes what one reads or returns."""
    put, read, returned, handles = put or {}, [], [], []

    def before(layer):
        def hook(_block, args, kwargs):
            h = args[0] if args else kwargs["hidden_states"]
            h = put.get(("in", layer), lambda x: x)(h)
            read.append(h.clone())
            return ((h, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": h})

        return hook

    def after(layer):
        def hook(_block, _args, output):
            h = put.get(("out", layer), lambda x: x)(first(output))
            returned.append(h.clone())
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return hook

    for layer, block in enumerate(blocks_of(model)):
        handles.append(block.register_forward_pre_hook(before(layer), with_kwargs=True))
        handles.append(block.register_forward_hook(after(layer)))
    logits = model.hf(tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return read, returned, logits


def same(ours: Tensor | None, theirs: Tensor) -> None:
    assert ours is not None
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_sites_and_widths(case, model):
    assert model.architecture == case
    assert (model.n_layers, model.d_model) == (len(blocks_of(model)), model.hf.config.hidden_size)
    assert [str(site) for site in model.sites()[:4]] == [
        "embed",
        "resid_pre.0",
        "resid.0",
        "resid_pre.1",
    ]
    assert len(model.sites()) == 1 + 2 * model.n_layers
    assert model.n_parameters == sum(p.numel() for p in model.hf.parameters())
    assert model.device == torch.device("cpu") and not model.hf.training


def test_residuals_and_logits_are_those_of_the_module(model):
    read, returned, logits = forward(model, TOKENS)
    for ours, theirs in zip(model.residuals(TOKENS), returned, strict=True):
        assert ours.shape == (*TOKENS.shape, model.d_model)
        same(ours, theirs)
    run = model.run(TOKENS, capture=model.sites())
    same(run["embed"], read[0])
    for layer in range(model.n_layers):
        same(run[f"resid_pre.{layer}"], read[layer])
        same(run[f"resid.{layer}"], returned[layer])
    same(run.logits, logits)
    same(model.run(TOKENS).logits, logits)
    torch.testing.assert_close(
        model.run(TOKENS, last_only=True).logits, logits[:, -1:], atol=1e-5, rtol=1e-5
    )
    same(model.run(TOKENS, capture=["resid.1@-1"])["resid.1@-1"], returned[1][:, -1])


@pytest.mark.parametrize(
    ("case", "factor"),
    [("gemma", 32**0.5), ("gemma2", 32**0.5), ("falcon_h1", 3.0)],
    indirect=["case"],
)
def test_embed_is_what_block_0_reads_where_embeddings_are_scaled(case, factor):
    model = adapted(case)
    expected = model.hf.get_input_embeddings().weight[TOKENS] * factor
    torch.testing.assert_close(
        model.run(TOKENS, capture=["embed"])["embed"], expected, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_as_the_module_computes_them(case, dtype):
    if case == "mixtral" and dtype == torch.float64:
        pytest.skip("torch has no grouped product of experts in float64")
    model = adapted(case, dtype)
    _, returned, logits = forward(model, TOKENS)
    run = model.run(TOKENS, capture=[Site("resid", layer) for layer in range(model.n_layers)])
    for layer, theirs in enumerate(returned):
        same(run[f"resid.{layer}"], theirs)
        assert theirs.isfinite().all()
    same(run.logits, logits.float() if logits.dtype == torch.bfloat16 else logits)
    if case not in READS_MORE:
        same(model.continue_from(1, run["resid.1"]), run.logits)


def test_mamba2_keeps_its_stream_in_float32_inside_bfloat16():
    run = adapted("mamba2", torch.bfloat16).run(TOKENS, capture=["embed", "resid.2"])
    assert (run["embed"].dtype, run["resid.2"].dtype) == (torch.bfloat16, torch.float32)


def parts_that_ran(model: AnyDecoder, call: Callable[[], Any]) -> set[int]:
    """The blocks inside which some module ran during the call, and -1 if the head did."""
    ran: set[int] = set()
    watched = [
        (layer, part) for layer, block in enumerate(blocks_of(model)) for part in block.children()
    ]
    watched.append((-1, model.hf.get_output_embeddings()))
    handles = [
        part.register_forward_hook(lambda *_, layer=layer: ran.add(layer))
        for layer, part in watched
    ]
    call()
    for handle in handles:
        handle.remove()
    return ran


@pytest.mark.parametrize(
    ("stop", "expected"), [("embed", set()), ("resid_pre.1", {0, 1}), ("resid.0", {0})]
)
def test_a_stopped_run_computes_nothing_later(model, stop, expected):
    runs = []
    ran = parts_that_ran(
        model, lambda: runs.append(model.run(TOKENS, capture=[stop], stop_after=stop))
    )
    assert ran == expected
    assert runs[0].logits is None and list(runs[0].captured) == [Site.parse(stop)]
    same(runs[0][stop], model.run(TOKENS, capture=[stop])[stop])


def test_edits_act_as_hooks_do(model):
    value = torch.linspace(-1, 1, model.d_model)
    mask = torch.zeros(*TOKENS.shape, 1)
    mask[:, [2, -1]] = 1
    for site, key in (("resid.1", ("out", 1)), ("resid_pre.1", ("in", 1)), ("embed", ("in", 0))):
        read, returned, logits = forward(model, TOKENS, {key: lambda h: h + mask * value})
        run = model.run(TOKENS, capture=model.sites(), edits=[Add(site, value, positions=(2, -1))])
        same(run.logits, logits)
        same(run["resid_pre.2"], read[2])
        same(run["resid.2"], returned[2])
    clean = model.run(TOKENS).logits
    assert clean is not None
    assert (model.run(TOKENS, edits=[Zero("resid.1")]).logits - clean).abs().max() > 1e-3
    same(model.run(TOKENS, edits=[Transform("resid.1", function=lambda h: h)]).logits, clean)


def test_gradients_reach_an_edit_and_a_captured_value(streamed):
    delta = torch.zeros(streamed.d_model, requires_grad=True)
    run = streamed.run(TOKENS, capture=["resid.0"], edits=[Add("resid.0", delta)])
    assert run.logits is not None
    score = run.logits[0, -1, 5]
    of_value, of_delta = torch.autograd.grad(score, [run["resid.0"], delta])
    torch.testing.assert_close(of_value.sum((0, 1)), of_delta)
    assert of_delta.abs().max() > 0


def test_going_on_from_a_stream_is_a_pass_edited_there(streamed):
    generator = torch.Generator().manual_seed(1)
    read, returned, _ = forward(streamed, TOKENS)
    for layer in range(-1, streamed.n_layers):
        before = read[0] if layer == -1 else returned[layer]
        h = before + 0.3 * torch.randn(before.shape, generator=generator)
        key = ("in", 0) if layer == -1 else ("out", layer)
        _, _, expected = forward(streamed, TOKENS, {key: lambda _, h=h: h})
        same(streamed.continue_from(layer, h), expected)
        last = streamed.continue_from(layer, h, last_only=True)
        torch.testing.assert_close(last, expected[:, -1:], atol=1e-5, rtol=1e-5)
        edited = streamed.run(
            TOKENS, edits=[Replace("embed" if layer == -1 else f"resid.{layer}", h)]
        )
        same(edited.logits, expected)
    _, _, expected = forward(
        streamed, TOKENS, {("out", 0): lambda h: 2 * h, ("out", 2): lambda h: -h}
    )
    turned = Transform("resid.2", function=lambda h: -h)
    same(streamed.continue_from(0, 2 * returned[0], edits=[turned, Zero("resid.0")]), expected)


def test_only_later_blocks_run_when_going_on(streamed):
    h = streamed.run(TOKENS, capture=["resid.1"], stop_after="resid.1")["resid.1"]
    streamed.continue_from(1, h)  # the first call checks that the stream is all that is read
    assert parts_that_ran(streamed, lambda: streamed.continue_from(1, h)) == {2, -1}
    streamed.logits(h)
    assert parts_that_ran(streamed, lambda: streamed.logits(h)) == {-1}


def test_logits_of_a_stream(streamed):
    run = streamed.run(TOKENS, capture=["resid.2"])
    assert run.logits is not None
    torch.testing.assert_close(streamed.logits(run["resid.2"]), run.logits, atol=1e-5, rtol=1e-5)
    many = run["resid.2"][:1, :1].expand(1, 300, -1)  # more than any window has positions
    torch.testing.assert_close(
        streamed.logits(many), run.logits[:1, :1].expand(1, 300, -1), atol=1e-5, rtol=1e-5
    )


def test_blocks_that_read_more_than_the_stream_are_refused_by_layer():
    model = adapted("zamba")
    run = model.run(TOKENS, capture=["resid.1", "resid.5"])
    with pytest.raises(
        ValueError,
        match=r"layer is 1.*reads more than the stream.*run\(tokens, edits=\[Replace\('resid.1'",
    ):
        model.continue_from(1, run["resid.1"])
    assert run.logits is not None
    # after the last block the stream is all there is
    same(model.logits(run["resid.5"]), run.logits)
    same(model.run(TOKENS, edits=[Replace("resid.1", run["resid.1"])]).logits, run.logits)


def attached(hf: Any) -> dict[str, tuple[int, int, bool]]:
    """Hooks and stand-ins of every module."""
    return {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__)
        for name, m in hf.named_modules()
    }


def test_nothing_stays_on_the_module(streamed):
    def fail(_h: Tensor) -> Tensor:
        raise RuntimeError("in the middle of a pass")

    before, state = (
        attached(streamed.hf),
        {name: p.clone() for name, p in streamed.hf.state_dict().items()},
    )
    h = streamed.run(TOKENS, capture=["embed", "resid.1"], edits=[Zero("resid_pre.1")])["resid.1"]
    streamed.run(TOKENS, stop_after="resid.0")
    streamed.continue_from(1, h)
    streamed.logits(h)
    for failing in (
        lambda: streamed.run(TOKENS, edits=[Transform("resid.1", function=fail)]),
        lambda: streamed.run(TOKENS, edits=[Transform("embed", function=fail)]),
        lambda: streamed.continue_from(1, h, edits=[Transform("resid.2", function=fail)]),
        lambda: streamed.continue_from(-1, h, edits=[Transform("resid.2", function=fail)]),
    ):
        with pytest.raises(RuntimeError, match="in the middle of a pass"):
            failing()
    assert attached(streamed.hf) == before
    assert all(torch.equal(p, state[name]) for name, p in streamed.hf.state_dict().items())


@pytest.mark.parametrize("case", ["gpt2", "llama"], indirect=True)
def test_it_agrees_with_the_own_adapter(case, model):
    own: LanguageModel = ADAPTERS[case]("own", model.hf)
    for ours, theirs in zip(model.residuals(TOKENS), own.residuals(TOKENS), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    both = [m.run(TOKENS, capture=["embed", "resid_pre.2", "resid.1"]) for m in (model, own)]
    for site in both[0].captured:
        torch.testing.assert_close(both[0][site], both[1][site], atol=1e-5, rtol=0)
    torch.testing.assert_close(both[0].logits, both[1].logits, atol=1e-5, rtol=1e-5)
    h = both[1]["resid.1"] + 0.5
    torch.testing.assert_close(
        model.continue_from(1, h), own.continue_from(1, h), atol=1e-5, rtol=1e-5
    )
    assert relative(model.logits(h), own.logits(h)) < 1e-5


def test_rwkv_weights_are_never_divided():
    rescaled = tiny.tiny_rwkv()
    before = {name: p.clone() for name, p in rescaled.state_dict().items()}
    plain = rescaled.train()(
        TOKENS
    ).logits  # in training, RWKV leaves its weights alone; it has no dropout
    rescaled.eval()(TOKENS)
    assert any(not torch.equal(p, before[name]) for name, p in rescaled.state_dict().items())
    model = AnyDecoder("rwkv", rescaled.requires_grad_(False))
    for _ in range(2):
        run = model.run(TOKENS, capture=["resid.2"])
    assert all(torch.equal(p, before[name]) for name, p in rescaled.state_dict().items())
    assert run.logits is not None
    torch.testing.assert_close(run.logits, plain, atol=1e-5, rtol=1e-5)
