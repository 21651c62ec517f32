"""Path patching against full forward passes: one per sender, on the Hugging Face modules."""

from collections.abc import Callable, Iterable

import pytest
import torch
from tests.reference import path_patching_full_forward as slow
from tests.reference.tiny_models import tiny_gpt2, tiny_gpt_neox, tiny_llama, tiny_mamba
from torch import Tensor

import homolog
from homolog.circuits.paths import Paths
from homolog.circuits.replay import Patched
from homolog.corpus.tasks import induction
from homolog.errors import InputError
from homolog.models.decoder import Decoder
from homolog.models.edits import Replace
from homolog.models.gpt2 import GPT2
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.llama import Llama
from homolog.models.mamba import Mamba
from homolog.models.mixers.projections import READS
from homolog.models.sites import Site

PROMPTS, LENGTH = 5, 12
POSITIONS = torch.tensor([2, 5, 3, 7, 4])
AT_THE_END = torch.tensor([11, 5, 11, 0, 4])
MAMBAS = [{}, {"use_bias": True, "use_conv_bias": False, "conv_kernel": 3}, {"conv_kernel": 1}]


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


@pytest.fixture(scope="module")
def prompts() -> tuple[Tensor, Tensor]:
    clean, corrupt = torch.randint(
        0, 97, (2, PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    return clean, corrupt


def last_changed(clean: Tensor) -> Tensor:
    return torch.cat([clean[:, :-1], (clean[:, -1:] + 1) % 97], dim=1)


def heads_of(model: Decoder) -> int:
    return model.mixers(0)[0].n_heads


def logits(answers: Iterable[Patched]) -> Tensor:
    return torch.cat([answer.logits for answer in answers])


def same(ours: Tensor, expected: Tensor, clean: Tensor) -> None:
    """Equal in float64, and the largest error far below the largest effect of a patch."""
    assert ours.dtype == torch.float64 and ours.shape == expected.shape
    effect = float((expected - clean).abs().max())
    assert effect > 0
    torch.testing.assert_close(ours, expected, rtol=0, atol=min(1e-9, 1e-6 * effect))


# ------------------------------------------------------------------------------------------------
# Transformers


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "sequential"])
def neox(request: pytest.FixtureRequest) -> GPTNeoX:
    return GPTNeoX("tiny", tiny_gpt_neox(use_parallel_residual=request.param).double())


def test_every_head_to_logits(neox: GPTNeoX, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(neox, *prompts)
    answers = list(paths.readouts_to_logits())
    assert [s for a in answers for s in a.senders] == [
        f"z.{layer}.{head}" for layer in range(3) for head in range(4)
    ]
    same(logits(answers), slow.head_to_logits(neox.hf, *prompts).flatten(0, 1), paths.logits)


@pytest.mark.parametrize("at", [POSITIONS, AT_THE_END], ids=["inside", "some at the end"])
@pytest.mark.parametrize("reads", [READS, ("query",), ("key",), ("value",), ("key", "value")])
def test_every_head_to_a_head(
    neox: GPTNeoX, prompts: tuple[Tensor, Tensor], reads: tuple, at: Tensor
) -> None:
    paths = Paths(neox, *prompts)
    expected = slow.head_to_head_to_logits(
        neox.hf, *prompts, (2, 1), at, tuple(read[0] for read in reads)
    )
    ours = logits(paths.parts_to_part("z.2.1", {"": at}, kinds=reads))
    if (
        reads == ("query",) and at is POSITIONS
    ):  # nothing before the last position changes its query
        torch.testing.assert_close(ours, paths.logits.expand_as(ours))
        torch.testing.assert_close(expected.flatten(0, 1), paths.logits.expand_as(ours))
    else:
        same(ours, expected.flatten(0, 1), paths.logits)


def test_some_heads_are_rows_of_all(neox: GPTNeoX, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(neox, *prompts)
    rows = dict(
        zip(
            [s for a in paths.readouts_to_logits() for s in a.senders],
            logits(paths.readouts_to_logits()),
            strict=True,
        )
    )
    for chosen in (["z.2.3"], ["z.2.0", "z.0.1", "z.0.3"]):
        answers = list(paths.readouts_to_logits(chosen))
        assert [s for a in answers for s in a.senders] == sorted(chosen)
        torch.testing.assert_close(
            logits(answers), torch.stack([rows[name] for name in sorted(chosen)])
        )
    all_heads = logits(paths.parts_to_part("z.2.0", {"": POSITIONS}))
    some = list(paths.parts_to_part("z.2.0", {"": POSITIONS}, senders=["z.1.2", "z.0.3"]))
    assert some[0].senders == ("z.0.3", "z.1.2")
    torch.testing.assert_close(logits(some), all_heads[[3, 6]])


def test_more_rows_than_fit_at_once(
    neox: GPTNeoX, prompts: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = logits(Paths(neox, *prompts).readouts_to_logits())
    monkeypatch.setattr("homolog.circuits.replay.LOGITS_AT_ONCE", 5 * PROMPTS * 97)
    answers = list(Paths(neox, *prompts).readouts_to_logits())
    assert [len(a.senders) for a in answers] == [5, 5, 2] == [len(a.logits) for a in answers]
    torch.testing.assert_close(logits(answers), whole)


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2", "llama"])
def transformer(request: pytest.FixtureRequest) -> Decoder:
    """Llama's heads share keys and values in groups of three."""
    make: dict[str, Callable[[], Decoder]] = {
        "gpt_neox": lambda: GPTNeoX("tiny", tiny_gpt_neox().double()),
        "gpt2": lambda: GPT2("tiny", tiny_gpt2().double()),
        "llama": lambda: Llama("tiny", tiny_llama().double()),
    }
    return make[request.param]()


def test_heads_by_edits_of_whole_runs(transformer: Decoder, prompts: tuple[Tensor, Tensor]) -> None:
    model, paths = transformer, Paths(transformer, *prompts)
    expected = [
        with_heads_held(model, *prompts, {("z", layer, head): torch.full((PROMPTS,), LENGTH - 1)})
        for layer in range(model.n_layers)
        for head in range(heads_of(model))
    ]
    same(logits(paths.readouts_to_logits()), torch.stack(expected), paths.logits)


@pytest.mark.parametrize("reads", [READS, ("key",), ("value",)])
def test_heads_to_a_head_by_edits_of_whole_runs(
    transformer: Decoder, prompts: tuple[Tensor, Tensor], reads: tuple
) -> None:
    model, paths, head = transformer, Paths(transformer, *prompts), heads_of(transformer) - 2
    at = AT_THE_END
    senders = [(layer, h) for layer in range(2) for h in range(heads_of(model))]
    clean = model.run(prompts[0], capture=[f"{read}.2" for read in READS])
    unread = [Replace(f"{read}.2", clean[f"{read}.2"]) for read in READS if read not in reads]
    expected = []
    for sender in senders:
        z = with_heads_held(
            model, *prompts, {("z", *sender): at}, below=2, edits=unread, read=f"z.2.{head}@-1"
        )
        expected.append(with_heads_held(model, *prompts, {}, given={f"z.2.{head}": z}))
    ours = logits(paths.parts_to_part(f"z.2.{head}", {"": at}, kinds=reads))
    same(ours, torch.stack(expected), paths.logits)


@pytest.mark.parametrize("read", READS)
def test_what_a_head_reads_by_position(
    transformer: Decoder, prompts: tuple[Tensor, Tensor], read: str
) -> None:
    model, paths, head = transformer, Paths(transformer, *prompts), 1
    at = {"P": AT_THE_END, "last": torch.full((PROMPTS,), LENGTH - 1)}
    corrupt = model.run(prompts[1], capture=[f"{read}.1"])
    expected = []
    for p in at.values():
        if read == "query":  # it counts at the last position alone
            p = torch.where(p == LENGTH - 1, p, 0)
        value = corrupt[f"{read}.1"][torch.arange(PROMPTS), p][:, None]
        edit = Replace(f"{read}.1", value, positions=p)
        z = with_heads_held(model, *prompts, {}, below=1, edits=[edit], read=f"z.1.{head}@-1")
        expected.append(with_heads_held(model, *prompts, {}, given={f"z.1.{head}": z}))
    answers = list(paths.writes_to_logits(f"z.1.{head}", at, (read,)))
    assert answers[0].senders == ("P", "last")
    same(logits(answers), torch.stack(expected), paths.logits)


def with_heads_held(
    model: Decoder,
    clean: Tensor,
    corrupt: Tensor,
    senders: dict[tuple[str, int, int], Tensor],
    below: int | None = None,
    edits: Iterable[Replace] = (),
    given: dict[str, Tensor] | None = None,
    read: str | None = None,
) -> Tensor:
    """Logits (or `read`) of a whole run: z of heads clean, corrupt at the senders, or as given."""
    layers = range(model.n_layers if below is None else below)
    sites = [Site("z", layer) for layer in layers]
    z_clean, z_corrupt = (model.run(tokens, capture=sites) for tokens in (clean, corrupt))
    every = torch.arange(len(clean))
    table = []
    for layer in layers:
        z = z_clean[f"z.{layer}"].clone()
        for (_, at_layer, head), position in senders.items():
            if at_layer == layer:
                z[every, position, head] = z_corrupt[f"z.{layer}"][every, position, head]
        for name, value in (given or {}).items():
            if Site.parse(name).layer == layer:
                z[:, -1, Site.parse(name).head] = value
        table.append(Replace(Site("z", layer), z))
    run = model.run(clean, capture=[read] if read else [], edits=[*table, *edits])
    if read:
        return run[read]
    assert run.logits is not None
    return run.logits[:, -1]


# ------------------------------------------------------------------------------------------------
# Mamba


@pytest.fixture(scope="module", params=MAMBAS, ids=["as released", "3 taps, biases", "1 tap"])
def mamba(request: pytest.FixtureRequest) -> Mamba:
    return Mamba("tiny", tiny_mamba(num_hidden_layers=4, **request.param).double())


def test_every_state_to_logits(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(mamba, *prompts)
    answers = list(paths.states_to_logits())
    assert [s for a in answers for s in a.senders] == ["state.0", "state.1", "state.2", "state.3"]
    same(logits(answers), slow.state_to_logits(mamba.hf, *prompts), paths.logits)


def test_every_y_to_logits(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(mamba, *prompts)
    same(logits(paths.readouts_to_logits()), slow.y_to_logits(mamba.hf, *prompts), paths.logits)


def test_y_where_only_the_last_token_differs(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    clean, corrupt = prompts[0], last_changed(prompts[0])
    paths = Paths(mamba, clean, corrupt)
    same(
        logits(paths.readouts_to_logits()), slow.y_to_logits(mamba.hf, clean, corrupt), paths.logits
    )


def test_writes_to_logits(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(mamba, *prompts)
    at = {"P": POSITIONS, "P-2": POSITIONS - 2, "mixed": AT_THE_END}
    answers = list(paths.writes_to_logits("y.1", at))
    assert answers[0].senders == tuple(at)
    same(
        logits(answers),
        torch.stack([slow.write_to_logits(mamba.hf, *prompts, 1, p) for p in at.values()]),
        paths.logits,
    )


def test_convolution_into_a_write(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(mamba, *prompts)
    reach = mamba.mixers(0)[0].reach
    asked = {"P": [0], "P-1": [1], "P, P-1": [0, 1], "P-1, P-2": [1, 2]}
    inputs = {label: before for label, before in asked.items() if max(before) <= reach}
    expected = [
        slow.conv_to_write_to_logits(
            mamba.hf, *prompts, 2, POSITIONS, [POSITIONS - b for b in before]
        )
        for before in inputs.values()
    ]
    same(logits(paths.taps_to_write("y.2", POSITIONS, inputs)), torch.stack(expected), paths.logits)
    every = {"all": range(reach + 1)}
    for at in (
        POSITIONS,
        AT_THE_END,
    ):  # the whole convolution is the whole write, at position 0 too
        torch.testing.assert_close(
            logits(paths.taps_to_write("y.2", at, every)),
            logits(paths.writes_to_logits("y.2", {"all": at})),
        )


def test_earlier_layers_to_a_state(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(mamba, *prompts)
    expected = torch.stack(
        [slow.mixer_to_state_to_logits(mamba.hf, *prompts, sender, 3) for sender in range(3)]
    )
    same(logits(paths.parts_to_part("y.3")), expected, paths.logits)
    same(logits(paths.parts_to_part("y.3", senders=["y.2", "y.0"])), expected[[0, 2]], paths.logits)


def test_earlier_layers_at_positions_add_up_to_everywhere(
    mamba: Mamba, prompts: tuple[Tensor, Tensor]
) -> None:
    paths = Paths(mamba, *prompts)
    every = torch.arange(LENGTH - 1).expand(PROMPTS, -1)
    answers = list(paths.parts_to_part("y.2", {"every": every, "first": every[:, :1]}, ["y.1"]))
    assert answers[0].senders == ("y.1@every", "y.1@first")
    torch.testing.assert_close(
        logits(answers)[:1], logits(paths.parts_to_part("y.2", senders=["y.1"]))
    )
    # one corrupt position: the corrupt prompt is clean but for its first token, as seen by block 0
    first = torch.cat([prompts[1][:, :1], prompts[0][:, 1:]], dim=1)
    _, ours = slow.mamba_forward(mamba.hf, prompts[0])
    _, theirs = slow.mamba_forward(mamba.hf, first)
    here = slow.at(first, 0)
    _, patched = slow.mamba_forward(mamba.hf, prompts[0], {("y", 0): (here, theirs["y", 0])})
    state = slow._enter_last(ours, 1, patched["state", 1][:, -2])
    expected = slow._hold_states(mamba.hf, prompts[0], ours, 1, state)
    found = Paths(mamba, prompts[0], first).parts_to_part("y.1", {"first": every[:, :1]}, ["y.0"])
    same(logits(found)[0], expected, paths.logits)


# ------------------------------------------------------------------------------------------------
# both families


def questions(paths: Paths) -> dict[str, Iterable[Patched]]:
    at = POSITIONS[: len(paths.tokens)]
    if paths.parts()[0][0].kind == "attention":
        return {
            "heads": paths.readouts_to_logits(),
            "to a head": paths.parts_to_part("z.2.1", {"": at}),
            "reads": paths.writes_to_logits("z.0.2", {"P": at}),
        }
    return {
        "state": paths.states_to_logits(),
        "y": paths.readouts_to_logits(),
        "writes": paths.writes_to_logits("y.1", {"P": at}),
        "convolution": paths.taps_to_write("y.1", at, {"P": [0]}),
        "layers": paths.parts_to_part("y.2"),
    }


@pytest.fixture(scope="module", params=["gpt_neox", "mamba"])
def make_paths(
    request: pytest.FixtureRequest,
) -> Callable[[Tensor, Tensor], Paths]:
    if request.param == "gpt_neox":
        model = GPTNeoX("tiny", tiny_gpt_neox().double())
        return lambda clean, corrupt: Paths(model, clean, corrupt)
    mamba = Mamba("tiny", tiny_mamba().double())
    return lambda clean, corrupt: Paths(mamba, clean, corrupt)


def test_clean_against_clean_changes_nothing(
    make_paths: Callable, prompts: tuple[Tensor, Tensor]
) -> None:
    paths = make_paths(prompts[0], prompts[0])
    for name, answers in questions(paths).items():
        found = logits(answers)
        torch.testing.assert_close(
            found, paths.logits.expand_as(found), msg=lambda text, name=name: f"{name}: {text}"
        )


def test_one_prompt(make_paths: Callable, prompts: tuple[Tensor, Tensor]) -> None:
    one = questions(make_paths(prompts[0][:1], prompts[1][:1]))
    for name, answers in questions(make_paths(*prompts)).items():
        torch.testing.assert_close(logits(one[name]), logits(answers)[:, :1])


def test_against_other_corrupt_prompts(
    make_paths: Callable, prompts: tuple[Tensor, Tensor]
) -> None:
    """What was kept of the clean prompts serves later questions, nothing of the corrupt does."""
    clean, corrupt = prompts
    first = make_paths(clean, corrupt)
    before = {name: logits(answers) for name, answers in questions(first).items()}
    for other in (corrupt.flip(0), last_changed(clean)):
        second = first.against(other)
        fresh = questions(make_paths(clean, other))
        for name, answers in questions(second).items():
            torch.testing.assert_close(logits(answers), logits(fresh[name]))
    for name, answers in questions(first).items():
        torch.testing.assert_close(logits(answers), before[name])


def test_answers_may_be_read_in_any_order(
    make_paths: Callable, prompts: tuple[Tensor, Tensor]
) -> None:
    paths = make_paths(*prompts)
    asked = questions(paths)
    late = {name: logits(asked[name]) for name in reversed(list(asked))}
    for name, answers in questions(make_paths(*prompts)).items():
        torch.testing.assert_close(late[name], logits(answers))


def test_shapes_that_differ(make_paths: Callable, prompts: tuple[Tensor, Tensor]) -> None:
    message = (
        r"corrupt is \(5, 11\), but clean prompts are \(5, 12\). "
        r"Give both as \(prompt, position\), of one shape."
    )
    with pytest.raises(InputError, match=message):
        make_paths(prompts[0], prompts[1][:, 1:])
    with pytest.raises(InputError, match=message):
        make_paths(*prompts).against(prompts[1][:, 1:])


def test_heads_that_are_none(neox: GPTNeoX, prompts: tuple[Tensor, Tensor]) -> None:
    paths = Paths(neox, *prompts)
    with pytest.raises(InputError, match=r"receiver is 'z.0.1', but parts before it must exist"):
        paths.parts_to_part("z.0.1", {"": POSITIONS})
    for name in ("z.1.4", "z.1", "query.1.0"):
        with pytest.raises(
            InputError, match=r"part is .* a part that reads other positions, .*z.0.0 to z.2.3"
        ):
            paths.writes_to_logits(name, {"P": POSITIONS})
    with pytest.raises(InputError, match=r"site is 'zz.1.0'"):
        paths.parts_to_part("zz.1.0", {"": POSITIONS})
    with pytest.raises(
        InputError, match=r"sender is 'z.2.0', but it must be a part before z.2.1. .* to z.1.3"
    ):
        paths.parts_to_part("z.2.1", {"": POSITIONS}, senders=["z.0.0", "z.2.0"])
    with pytest.raises(InputError, match=r"sender is 'z.1.9', but it must be a part that reads"):
        paths.readouts_to_logits(["z.1.9"])


def test_layers_and_taps_that_are_none(mamba: Mamba, prompts: tuple[Tensor, Tensor]) -> None:
    paths, width = Paths(mamba, *prompts), mamba.mixers(0)[0].reach + 1
    with pytest.raises(
        InputError, match=r"sender is 'y.2', but it must be a part before y.2. They are y.0 to y.1"
    ):
        paths.parts_to_part("y.2", senders=["y.2"])
    with pytest.raises(InputError, match=r"sender is \[\], but it must be a part before y.2"):
        paths.parts_to_part("y.2", senders=[])
    with pytest.raises(InputError, match=r"receiver is 'y.0', but parts before it must exist"):
        paths.parts_to_part("y.0")
    with pytest.raises(
        InputError, match=rf"inputs is {width}, but the convolution reads {width} positions"
    ):
        paths.taps_to_write("y.1", POSITIONS, {"far": [0, width]})
    with pytest.raises(InputError, match=r"'y.9'"):
        paths.writes_to_logits("y.9", {"P": POSITIONS})
    with pytest.raises(
        InputError, match=r"clean is \(5, 1\), but a state must be carried into the last position"
    ):
        Paths(mamba, prompts[0][:, :1], prompts[1][:, :1])


# ------------------------------------------------------------------------------------------------
# the zoo


@pytest.mark.parametrize("seed", [0, 1])
def test_zoo_transformers_in_float32(seed: int) -> None:
    model = homolog.load(f"zoo:transformer-s{seed}")
    pairs = induction(model, 4, length=32, repeat=4, corruption="replace_A")
    paths = Paths(model, pairs.clean, pairs.corrupt)
    expected = slow.head_to_logits(model.hf, pairs.clean, pairs.corrupt).flatten(0, 1)
    torch.testing.assert_close(logits(paths.readouts_to_logits()), expected, rtol=0, atol=1e-4)
    at = pairs.positions["B"]
    for reads in (READS, ("key",)):
        expected = slow.head_to_head_to_logits(
            model.hf, pairs.clean, pairs.corrupt, (2, 3), at, tuple(read[0] for read in reads)
        )
        ours = logits(paths.parts_to_part("z.2.3", {"": at}, kinds=reads))
        torch.testing.assert_close(ours, expected.flatten(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_zoo_mambas_in_float32(seed: int) -> None:
    model, layer = homolog.load(f"zoo:mamba-s{seed}"), 5
    unrepeated, pairs = (
        induction(model, 2, length=24, repeat=r, corruption=c)
        for r, c in ((1, "unrepeated"), (4, "replace_A"))
    )
    b, prompts = pairs.positions["B"], (pairs.clean, pairs.corrupt)
    paths = Paths(model, *prompts)
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(
        logits(paths.states_to_logits()), slow.state_to_logits(model.hf, *prompts), **close
    )
    for given in (unrepeated, pairs):
        ours = logits(Paths(model, given.clean, given.corrupt).readouts_to_logits())
        torch.testing.assert_close(
            ours, slow.y_to_logits(model.hf, given.clean, given.corrupt), **close
        )
    for ours, expected in (
        (
            paths.writes_to_logits(f"y.{layer}", {"B": b}),
            slow.write_to_logits(model.hf, *prompts, layer, b),
        ),
        (
            paths.taps_to_write(f"y.{layer}", b, {"A": [1]}),
            slow.conv_to_write_to_logits(model.hf, *prompts, layer, b, [b - 1]),
        ),
        (
            paths.parts_to_part(f"y.{layer}", senders=["y.3"]),
            slow.mixer_to_state_to_logits(model.hf, *prompts, 3, layer),
        ),
    ):
        torch.testing.assert_close(logits(ours)[0], expected, **close)
