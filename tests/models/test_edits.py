"""Edits change what they name and nothing else, and act as a block written out by hand says."""

import pytest
import torch
from tests.models.helpers import HF, ONE_EACH, TOKENS, relative, tiny
from tests.reference.plain_blocks import logits_with

from homolog.models import Add, Mean, Replace, Resample, Transform, Zero
from homolog.models.edits import CHANNEL_AXES

pytestmark = pytest.mark.usefixtures("one_thread")

SELECTORS = {
    "positions": (2, -2),
    "heads": (1,),
    "channels": (0, 3),
    "state_dims": (1, 4),
    "taps": (0, 2),
}
OTHER = torch.randint(0, 97, (4, 11), generator=torch.Generator().manual_seed(1))


def of_layer(model, layer=1):
    return [site for site in model.sites() if site.layer in (None, layer)]


def axis_of(site, selector):
    """The axis that a selector restricts, or None."""
    names = {
        "positions": ("position",),
        "heads": ("head",),
        "state_dims": ("d_state",),
        "taps": ("tap",),
    }
    wanted = names.get(selector, CHANNEL_AXES)
    return next((i for i, axis in enumerate(site.axes) if axis in wanted), None)


def mask_of(site, shape, selectors):
    """True where an edit with these selectors acts."""
    mask = torch.ones(shape, dtype=torch.bool)
    for selector, chosen in selectors.items():
        axis = axis_of(site, selector)
        along = torch.zeros(shape[axis], dtype=torch.bool)
        along[list(chosen)] = True
        mask &= along.view([-1 if i == axis else 1 for i in range(len(shape))])
    return mask


def selections(site, shape):
    """Positions alone, positions with each other selector that fits the site, and all of them."""
    axes = {name: axis_of(site, name) for name in SELECTORS}
    fitting = {
        name: tuple(i for i in SELECTORS[name] if i < shape[axis]) or (0,)
        for name, axis in axes.items()
        if axis is not None
    }
    pairs = [{name: fitting[name], "positions": fitting["positions"]} for name in fitting]
    return [*pairs, fitting]


def cut(value, mask):
    """The part of a whole value where the mask is True, in the shape of the selection."""
    shape = [int(mask.movedim(i, 0).flatten(1).any(1).sum()) for i in range(mask.ndim)]
    return value[mask].view(shape)


def random_like(value, seed=0):
    return torch.randn(
        value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("case", HF)
def test_a_site_replaced_by_its_own_value_changes_nothing(case):
    model = tiny(case, torch.float64)
    clean = model.run(TOKENS, capture=model.sites())
    for site in of_layer(model):
        same = model.run(TOKENS, edits=[Replace(site, clean[site])])
        assert relative(same.logits, clean.logits) < 1e-10, site
        part = model.run(TOKENS, edits=[Resample(site, source=clean, positions=(4,))])
        assert relative(part.logits, clean.logits) < 1e-10, site
    everywhere = model.run(TOKENS, edits=[Replace(site, clean[site]) for site in model.sites()])
    assert relative(everywhere.logits, clean.logits) < 1e-10


@pytest.mark.parametrize("case", HF)
def test_an_edit_acts_on_the_logits_as_in_a_block_written_out_by_hand(case):
    model = tiny(case)
    clean = model.run(TOKENS, capture=model.sites())
    for site in of_layer(model)[1:]:
        chosen = selections(site, clean[site].shape)
        for selectors in chosen[:: len(chosen) - 1]:
            mask, value = (
                mask_of(site, clean[site].shape, selectors),
                0.5 * random_like(clean[site]),
            )
            if site.kind == "recurrence_gate":  # below 0 it has no root
                value = value.abs()
            expected = logits_with(
                model.hf, TOKENS, 1, site.kind, lambda old, added=value * mask: old + added
            )
            run = model.run(TOKENS, edits=[Add(site, cut(value, mask), **selectors)])
            assert relative(run.logits, expected) < 1e-5, (site, selectors)
            assert relative(expected, clean.logits) > 1e-5


@pytest.mark.parametrize("case", ONE_EACH)
def test_an_edit_changes_what_it_names_and_no_earlier_position(case):
    model = tiny(case, torch.float64)
    clean = model.run(TOKENS, capture=model.sites())
    for site in of_layer(model):
        old, before = clean[site], clean[site].clone()
        for selectors in selections(site, old.shape):
            mask, value = mask_of(site, old.shape, selectors), random_like(old)
            wanted = {
                Replace(site, cut(value, mask), **selectors): torch.where(mask, value, old),
                Add(site, torch.tensor(0.5), **selectors): torch.where(mask, old + 0.5, old),
                Zero(site, **selectors): torch.where(mask, 0, old),
                Transform(site, function=lambda v: 3 * v, **selectors): torch.where(
                    mask, 3 * old, old
                ),
            }
            if site.kind == "state":  # later states follow from the edited one
                wanted = {
                    edit: value
                    for edit, value in wanted.items()
                    if isinstance(edit, Replace | Zero)
                }
            for edit, expected in wanted.items():
                run = model.run(TOKENS, edits=[edit], capture=[site])
                at = site.axes.index("position")
                places = [0, 1, 2] if site.kind == "state" else list(range(11))
                here, there = (
                    v.index_select(at, torch.tensor(places)) for v in (run[site], expected)
                )
                torch.testing.assert_close(here, there, rtol=0, atol=1e-12)
                assert relative(run.logits[:, :2], clean.logits[:, :2]) < 1e-12, (site, selectors)
        assert (run.logits[:, 2:] - clean.logits[:, 2:]).abs().max() > 1e-9, site
        assert torch.equal(old, before), "an edit wrote into a captured tensor"


@pytest.mark.parametrize("case", ONE_EACH)
def test_positions_of_each_prompt_equal_a_loop_over_prompts(case):
    model = tiny(case, torch.float64)
    clean = model.run(TOKENS, capture=model.sites())
    for positions in (torch.tensor([2, 9, -6]), torch.tensor([[1, 4], [-2, 0], [3, 7]])):
        columns = positions.view(3, -1)
        for site in of_layer(model):
            axis = site.axes.index("position")
            value = random_like(clean[site].narrow(axis, 0, columns.shape[1]))
            heads = (1,) if "head" in site.axes else None
            if heads:
                value = value.narrow(site.axes.index("head"), 0, 1)
            together = model.run(
                TOKENS, edits=[Replace(site, value, positions=positions, heads=heads)]
            ).logits
            added = model.run(
                TOKENS, edits=[Add(site, value, positions=positions, heads=heads)]
            ).logits
            for i, row in enumerate(columns.tolist()):
                edits = (Replace, together), (Add, added)
                for kind, expected in edits:
                    alone = model.run(
                        TOKENS[i : i + 1],
                        edits=[kind(site, value[i : i + 1], positions=row, heads=heads)],
                    )
                    assert relative(expected[i : i + 1], alone.logits) < 1e-10, site


@pytest.mark.parametrize("case", ONE_EACH)
def test_mean_and_resample_equal_visible_arithmetic(case):
    model = tiny(case, torch.float64)
    clean, other = model.run(TOKENS, capture=model.sites()), model.run(OTHER, capture=model.sites())
    rows = torch.tensor([3, 1, 1])
    own = torch.tensor([2, 9, 5])
    for site in of_layer(model):
        at, old = site.axes.index("position"), clean[site].movedim(site.axes.index("position"), 1)
        there = other[site].movedim(at, 1)
        wanted = {
            Mean(site, positions=(4,)): (4, old[:, 4].mean(0, keepdim=True).expand_as(old[:, 4])),
            Mean(site, source=other, positions=(4,)): (
                4,
                there[:, 4].mean(0, keepdim=True).expand_as(old[:, 4]),
            ),
            Resample(site, source=other, rows=rows, positions=(4,)): (4, there[rows, 4]),
            Resample(site, source=other, rows=rows, positions=own): (own, there[rows, own]),
        }
        for edit, (position, expected) in wanted.items():
            run = model.run(TOKENS, edits=[edit], capture=[site])
            edited = run[site].movedim(at, 1)[torch.arange(3), position]
            torch.testing.assert_close(edited, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ONE_EACH)
def test_a_name_with_head_and_position_selects_them(case):
    model = tiny(case, torch.float64)
    base = "state.1" if case == "mamba" else "z.1"
    name = f"{base}@-1" if case == "mamba" else f"{base}.2@-1"
    selectors = {"positions": (-1,)} | ({} if case == "mamba" else {"heads": (2,)})
    whole, part = model.run(OTHER[:3], capture=[base]), model.run(OTHER[:3], capture=[name])
    value = part[name]
    by_selectors = Resample(base, source=whole, **selectors)
    by_channels = Resample(base, source=whole, channels=(0, 2), **selectors)
    same = [
        (
            by_selectors,
            [Replace(name, value), Resample(name, source=part), Resample(name, source=whole)],
        ),
        (
            by_channels,
            [
                Resample(name, source=part, channels=(0, 2)),
                Resample(name, source=whole, channels=(0, 2)),
            ],
        ),
    ]
    for first, others in same:
        expected = model.run(TOKENS, edits=[first]).logits
        for edit in others:
            assert relative(model.run(TOKENS, edits=[edit]).logits, expected) < 1e-12


def test_edits_apply_in_order_and_what_is_captured_is_edited():
    model = tiny("gpt2")
    ones = torch.ones(model.d_model)
    run = model.run(
        TOKENS,
        capture=["resid.1"],
        edits=[Zero("resid.1"), Add("resid.1", ones), Add("resid.1", 2 * ones)],
    )
    assert torch.equal(run["resid.1"], torch.full_like(run["resid.1"], 3.0))
    last = model.run(TOKENS, capture=["resid.1"], edits=[Add("resid.1", ones), Zero("resid.1")])
    assert last["resid.1"].abs().max() == 0


def test_an_edited_recurrence_keeps_what_comes_before_and_after():
    """A state put in at one position decays with A_bar and gains the later writes."""
    model = tiny("mamba", torch.float64)
    capture = ["state.0", "A_bar.0", "write.0", "A_bar.0@3", "state.0@-2"]
    value = random_like(model.run(TOKENS, capture=["state.0@5"])["state.0@5"])
    clean = model.run(TOKENS, capture=capture)
    run = model.run(TOKENS, capture=capture, edits=[Replace("state.0@5", value)])
    torch.testing.assert_close(run["state.0"][:, :5], clean["state.0"][:, :5], rtol=0, atol=1e-12)
    state = value
    for t in range(6, 11):
        state = clean["A_bar.0"][:, t] * state + clean["write.0"][:, t]
        torch.testing.assert_close(run["state.0"][:, t], state, rtol=0, atol=1e-12)
    assert torch.equal(run["state.0@-2"], run["state.0"][:, -2])
    assert torch.equal(run["A_bar.0@3"], clean["A_bar.0"][:, 3])
    delta = random_like(value, 1)
    write = model.run(TOKENS, edits=[Add("write.0@4", delta)])
    state = model.run(TOKENS, edits=[Add("state.0@4", delta)])
    assert relative(write.logits, state.logits) < 1e-12  # the state is linear in its writes


def test_all_positions_of_the_state_are_edited_each_with_its_own_value():
    model = tiny("mamba", torch.float64)
    clean = model.run(OTHER[:3], capture=["state.1"])
    copied = model.run(TOKENS, edits=[Replace("state.1", clean["state.1"])], capture=["state.1"])
    assert torch.equal(copied["state.1"], clean["state.1"])
    one_for_all = model.run(
        TOKENS, edits=[Replace("state.1", clean["state.1"][0])], capture=["state.1"]
    )
    assert torch.equal(one_for_all["state.1"], clean["state.1"][:1].expand(3, -1, -1, -1))
    parts = Replace(
        "state.1", clean["state.1"][:, [8, 3]][..., :2], positions=(8, 3), state_dims=(0, 1)
    )
    run = model.run(TOKENS, edits=[parts], capture=["state.1@3", "state.1@8"])
    for t in (3, 8):
        assert torch.equal(run[f"state.1@{t}"][..., :2], clean["state.1"][:, t, :, :2])
