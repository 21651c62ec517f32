"""The slow path patching against Hugging Face and itself: what the oracle's arithmetic rests on."""

import pytest
import torch
from tests.reference import path_patching_full_forward as slow
from tests.reference.tiny_models import tiny_gpt_neox, tiny_mamba
from torch import Tensor

PROMPTS, LENGTH, LAST = 3, 12, 11


@pytest.fixture(scope="module")
def prompts() -> tuple[Tensor, Tensor]:
    clean, corrupt = torch.randint(
        1, 97, (2, PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    return clean, corrupt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mamba_forward_is_hugging_faces(prompts: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    hf = tiny_mamba(use_bias=True).to(dtype)
    with torch.no_grad():
        expected = hf(prompts[0], use_cache=False).logits
    logits, _ = slow.mamba_forward(hf, prompts[0])
    assert logits.dtype == dtype
    torch.testing.assert_close(logits, expected.to(dtype), rtol=1e-5, atol=1e-5)


def test_overriding_with_what_was_recorded_changes_nothing(prompts: tuple[Tensor, Tensor]) -> None:
    hf = tiny_mamba().double()
    logits, record = slow.mamba_forward(hf, prompts[0])
    everywhere = torch.ones_like(prompts[0], dtype=torch.bool)
    again, _ = slow.mamba_forward(
        hf, prompts[0], {key: (everywhere, value) for key, value in record.items()}
    )
    assert torch.equal(again, logits)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_patch_from_the_clean_prompt_itself_changes_nothing(
    prompts: tuple[Tensor, Tensor], parallel: bool
) -> None:
    clean = prompts[0]
    neox, mamba = tiny_gpt_neox(use_parallel_residual=parallel).double(), tiny_mamba().double()
    position = torch.tensor([2, 5, 9])
    logits, mamba_logits = (
        slow.gpt_neox_forward(neox, clean)[0],
        slow.mamba_forward(mamba, clean)[0][:, -1],
    )
    for patched in (
        slow.head_to_logits(neox, clean, clean),
        slow.head_to_head_to_logits(neox, clean, clean, (2, 1), position),
    ):
        torch.testing.assert_close(patched, logits.expand_as(patched))
    for patched in (
        slow.state_to_logits(mamba, clean, clean),
        slow.y_to_logits(mamba, clean, clean),
        slow.conv_to_write_to_logits(mamba, clean, clean, 1, position, [position, position - 1]),
        slow.write_to_logits(mamba, clean, clean, 1, position),
        slow.mixer_to_state_to_logits(mamba, clean, clean, 0, 2),
    ):
        torch.testing.assert_close(patched, mamba_logits.expand_as(patched))


def test_all_taps_of_a_corrupt_write_are_the_corrupt_write(prompts: tuple[Tensor, Tensor]) -> None:
    """B, dt and u at a position read nothing but the last four conv inputs."""
    hf, (clean, corrupt), position = tiny_mamba().double(), prompts, torch.tensor([3, 6, LAST])
    taps = [position - back for back in range(4)]
    by_taps = slow.conv_to_write_to_logits(hf, clean, corrupt, 1, position, taps)
    torch.testing.assert_close(by_taps, slow.write_to_logits(hf, clean, corrupt, 1, position))
    three = slow.conv_to_write_to_logits(hf, clean, corrupt, 1, position, taps[:3])
    assert (three - by_taps).abs().max() > 1e-3


def test_a_write_decays_to_the_last_position(prompts: tuple[Tensor, Tensor]) -> None:
    """state[last] changes by the change at the position times the later clean decays."""
    hf, (clean, corrupt), layer, p = tiny_mamba().double(), prompts, 1, 6
    _, ours = slow.mamba_forward(hf, clean)
    _, theirs = slow.mamba_forward(hf, corrupt)
    A_bar, state = ours["A_bar", layer], ours["state", layer]
    patched = theirs["A_bar", layer][:, p] * state[:, p - 1] + theirs["write", layer][:, p]
    at_last = state[:, LAST] + A_bar[:, p + 1 :].prod(1) * (patched - state[:, p])
    expected = slow._hold_states(hf, clean, ours, layer, at_last)
    actual = slow.write_to_logits(hf, clean, corrupt, layer, torch.full((PROMPTS,), p))
    torch.testing.assert_close(actual, expected)
    assert (actual - slow.mamba_forward(hf, clean)[0][:, -1]).abs().max() > 1e-3


def test_a_sender_in_the_last_block_only_adds_to_the_residual_stream(
    prompts: tuple[Tensor, Tensor],
) -> None:
    """Only norm and head come after the last block: head(norm(h + W (corrupt - clean)))."""
    hf, (clean, corrupt) = tiny_gpt_neox().double(), prompts
    _, z, _ = slow.gpt_neox_forward(hf, clean)
    _, z_corrupt, _ = slow.gpt_neox_forward(hf, corrupt)
    head, width = 2, z[0].shape[-1]
    W = hf.gpt_neox.layers[-1].attention.dense.weight[:, head * width : (head + 1) * width]
    with torch.no_grad():
        h = [None]
        handle = hf.gpt_neox.final_layer_norm.register_forward_pre_hook(
            lambda _, args: h.__setitem__(0, args[0])
        )
        hf(clean, use_cache=False)
        handle.remove()
        change = (z_corrupt[-1] - z[-1])[:, -1, head] @ W.T
        expected = hf.lm_head(hf.gpt_neox.final_layer_norm(h[0][:, -1] + change))
    torch.testing.assert_close(slow.head_to_logits(hf, clean, corrupt)[-1, head], expected)
