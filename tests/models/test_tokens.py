"""What a model takes for token ids, and what it says of what it does not take."""

import numpy as np
import pytest
import torch
from tests.models.helpers import ONE_EACH, TOKENS, tiny

from homolog.circuits.paths import Paths
from homolog.errors import InputError
from homolog.models.tokens import as_tokens

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [[5, 6, 7], [8, 9, 10]]
SAME = [
    IDS,
    tuple(map(tuple, IDS)),
    [torch.tensor(row) for row in IDS],
    np.array(IDS),
    np.array(IDS, dtype=np.int32),
    np.array(IDS, dtype=np.uint16),
    torch.tensor(IDS, dtype=torch.int32),
    torch.tensor(IDS, dtype=torch.uint8),
]
REFUSED = [
    ([[5, 6], [5, 6, 7]], ["tokens is 'list'", "windows have one length; these have 2, 3"]),
    ([torch.tensor([5, 6]), torch.tensor([5])], ["windows have one length; these have 2, 1"]),
    ([5, 6], ["tokens is (2,)", "(batch, position)"]),
    (torch.tensor([5, 6]), ["tokens is (2,)", "(batch, position)"]),
    (torch.zeros(1, 2, 3, dtype=torch.long), ["tokens is (1, 2, 3)"]),
    (torch.tensor(5), ["tokens is ()"]),
    ([[5.0, 6.0]], ["tokens is 'float64'", "integers"]),
    (torch.tensor([[5.0, 6.0]]), ["tokens is 'float32'", "integers"]),
    (np.array([[1.5]]), ["tokens is 'float64'"]),
    (torch.tensor([[True, False]]), ["tokens is 'bool'", "integers"]),
    ([[True, False]], ["tokens is 'bool'"]),
    ([["a", "b"]], ["tokens is 'list'", "token ids are integers"]),
    ([[None, 3]], ["tokens is 'list'", "token ids are integers"]),
    ([], ["tokens is"]),
    ([[]], ["tokens is"]),
    (torch.zeros(0, 5, dtype=torch.long), ["tokens is (0, 5)", "a window and a token at least"]),
    (torch.zeros(2, 0, dtype=torch.long), ["tokens is (2, 0)", "a window and a token at least"]),
    ([[2**70]], ["tokens is 'list'", "token ids are integers"]),
    (torch.tensor([[5, 97]]), ["5 to 97", "embeds 97 token ids"]),
    ([[-1, 5]], ["-1 to 5", "embeds 97 token ids"]),
]


@pytest.mark.parametrize("given", SAME)
def test_whatever_holds_the_same_integers_is_the_same(given):
    ids = as_tokens(given)
    assert ids.dtype == torch.int64 and ids.tolist() == IDS
    model = tiny("gpt2")
    assert torch.equal(model.run(given).logits, model.run(torch.tensor(IDS)).logits)
    assert torch.equal(model.residuals(given)[1], model.residuals(torch.tensor(IDS))[1])


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_is_no_batch_of_windows_is_refused(given, words):
    for case in ONE_EACH:
        for call in (tiny(case).run, tiny(case).residuals):
            with pytest.raises(InputError) as error:
                call(given)
            assert error.value.field == "tokens"
            assert all(word in str(error.value) for word in words), str(error.value)
            if "97" not in words[0] and "-1" not in words[0]:
                assert (
                    "int64 tensor (batch, position) of windows of one length, without padding"
                    in str(error.value)
                )


@pytest.mark.parametrize(
    "h",
    [
        torch.zeros(2, 32),
        torch.zeros(1, 2, 31),
        torch.zeros(1, 2, 32, dtype=torch.long),
        torch.zeros(0, 2, 32),
    ],
)
def test_a_stream_of_another_shape_is_refused(h):
    with pytest.raises(
        InputError, match=r"h is \(.*\(batch, position, 32\), in floats.*resid\.LAYER"
    ):
        tiny("gpt2").continue_from(0, h)


def test_a_run_leaves_the_given_tokens_alone():
    given = TOKENS.clone()
    tiny("gpt2").run(given)
    assert torch.equal(given, TOKENS)


@pytest.mark.parametrize("case", ONE_EACH)
def test_circuits_take_and_refuse_the_same(case):
    model = tiny(case)
    paths, clean, corrupt = Paths, [[5, 6, 7, 5]] * 2, [[5, 9, 7, 5]] * 2
    for given in ((clean, corrupt), (np.array(clean, dtype=np.int32), torch.tensor(corrupt))):
        assert torch.equal(
            paths(model, *given).logits, model.run(clean, last_only=True).logits[:, 0]
        )
    for field, given in (
        ("clean", ([[5, 6], [5]], corrupt)),
        ("corrupt", (clean, torch.zeros(2, 4))),
    ):
        with pytest.raises(InputError, match=f"^{field} is"):
            paths(model, *given)
