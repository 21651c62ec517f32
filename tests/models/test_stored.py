"""What is wrong with a folder is said by file, tensor and shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reference import tiny_models as tiny

import homolog
from homolog.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

BUILDS = {
    "llama": tiny.tiny_llama,
    "gpt2": tiny.tiny_gpt2,
    "gpt_neox": tiny.tiny_gpt_neox,
    "mamba": tiny.tiny_mamba,
    "gemma2": tiny.tiny_gemma2,
    "rwkv": tiny.tiny_rwkv,
    "opt": tiny.tiny_opt,
    "recurrent_gemma": tiny.tiny_recurrent_gemma,
}
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    tiny.tiny_llama().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tiny.tiny_llama().save_pretrained(tmp_path, max_shard_size="40KB")
    return tmp_path


def told(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        homolog.load(folder)
    assert error.value.field == "model"
    return str(error.value)


def shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, {"format": "pt"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it is not valid JSON (Expecting property name"),
        ("", "it is not valid JSON"),
        ("null", "it must hold a JSON object, and holds null"),
        ("[1, 2]", "it must hold a JSON object, and holds [1, 2]"),
        ("\x00\xff", "it is not valid JSON"),
        ('{"model_type": 3}', "does not know its architecture (3)"),
        ("{}", "does not know its architecture (config.json has no model_type)"),
    ],
)
def test_a_config_that_is_none(whole, content, words):
    (whole / "config.json").write_text(content)
    message = told(whole)
    assert words in message
    assert "config.json" in message or "architecture" in message
    assert "save_pretrained" not in message  # the file is there: no advice to put one there


def test_a_file_cut_in_half(whole):
    content = (whole / FILE).read_bytes()
    (whole / FILE).write_bytes(content[: len(content) // 2])
    message = told(whole)
    assert str(whole / FILE) in message and "it is not a whole safetensors file" in message


def test_a_pointer_of_git_lfs(whole):
    (whole / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    message = told(whole)
    assert f"'{whole / FILE}', but it is a pointer of Git LFS" in message
    assert "Fetch them: git lfs pull." in message


def test_a_shard_that_is_missing_cut_or_a_directory(sharded):
    path = shard(sharded)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert f"'{path}', but it is not a whole safetensors file" in told(sharded)
    path.unlink()
    assert f"'{path}', but there is no such file, and {INDEX} names it" in told(sharded)
    path.mkdir()
    assert f"'{path}', but it is a directory, not a file" in told(sharded)


def test_an_index_that_is_none(sharded):
    (sharded / INDEX).write_text("{")
    assert f"{INDEX}', but it is not valid JSON" in told(sharded)
    (sharded / INDEX).write_text('{"weight_map": {"a": 3}}')
    assert f"{INDEX}', but its weight_map must name the file of each tensor" in told(sharded)


def test_an_index_that_names_another_file(sharded):
    index = json.loads((sharded / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    others = set(index["weight_map"].values()) - {index["weight_map"][name]}
    index["weight_map"][name] = min(others)
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"{INDEX} says that it holds {name}, and it does not" in told(sharded)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"intermediate_size": 60},
            ["model.layers.0.mlp.down_proj.weight", "(36, 56)", "(36, 60)"],
        ),
        ({"vocab_size": 98}, ["(97, 36)", "(98, 36)"]),
        ({"num_key_value_heads": 6}, ["k_proj.weight", "(16, 36)", "(48, 36)"]),
        ({"num_hidden_layers": 4}, ["lack 9 weights", "model.layers.3."]),
        (
            {"num_hidden_layers": 2},
            ["hold 9 tensors that have no place by its configuration", "model.layers.2."],
        ),
        ({"num_hidden_layers": 400}, ["counts 400 blocks", "its files hold 30 tensors"]),
        (
            {"num_hidden_layers": 10**9},
            ["its num_hidden_layers is 1000000000", "up to 10000 blocks"],
        ),
        ({"attention_bias": True}, ["lack 12 weights"]),
        ({"hidden_size": "36x"}, ["its configuration and files make no model", "hidden_size"]),
        ({"num_attention_heads": 5}, ["make no model"]),
    ],
)
def test_a_configuration_that_disagrees_with_the_weights(whole, changes, words):
    configured(whole, **changes)
    message = told(whole)
    assert all(word in message for word in words), message


def test_biases_that_the_configuration_leaves_out(tmp_path):
    tiny.tiny_llama(attention_bias=True).save_pretrained(tmp_path)
    configured(tmp_path, attention_bias=False)
    assert (
        "hold 12 tensors that have no place by its configuration, "
        "model.layers.0.self_attn.k_proj.bias" in told(tmp_path)
    )


def test_norms_of_another_architecture(tmp_path):
    tiny.tiny_qwen3().save_pretrained(tmp_path)
    configured(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"])
    assert "model.layers.0.self_attn.k_norm.weight" in told(tmp_path)


def test_masks_and_frequencies_of_older_files_are_no_disagreement(whole, tmp_path_factory):
    rewritten(
        whole, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    )
    assert homolog.load(whole).n_layers == 3
    for build, name in (
        (tiny.tiny_gpt2, "transformer.h.0.attn.bias"),
        (tiny.tiny_gpt2, "transformer.h.1.attn.masked_bias"),
        (tiny.tiny_gpt_neox, "gpt_neox.layers.0.attention.bias"),
        (tiny.tiny_gpt_neox, "gpt_neox.layers.2.attention.masked_bias"),
        (tiny.tiny_gpt_neox, "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
    ):
        folder = tmp_path_factory.mktemp("old")
        build().save_pretrained(folder)
        rewritten(folder, lambda t, name=name: t.update({name: torch.ones(1, 1, 64, 64)}))
        assert homolog.load(folder).n_layers == 3, name


def test_embeddings_are_there_unless_they_are_tied(tmp_path):
    for tied, gone, why in (
        (False, "lm_head.weight", "lack 1 weights, lm_head.weight"),
        (False, "model.embed_tokens.weight", "lack 1 weights, model.embed_tokens.weight"),
        (True, "lm_head.weight", None),
        (True, "model.embed_tokens.weight", "lack"),
    ):
        folder = tmp_path / f"{tied}-{gone}"
        tiny.tiny_llama(tie_word_embeddings=tied).save_pretrained(folder)
        rewritten(folder, lambda t, gone=gone: t.pop(gone, None))
        if why is not None:
            assert why in told(folder)
            continue
        model = homolog.load(folder)
        assert torch.equal(model.hf.lm_head.weight, model.hf.model.embed_tokens.weight)


@pytest.mark.parametrize("tied", [False, True])
def test_an_unembedding_of_another_name_is_not_left_out(tied, tmp_path):
    tiny.tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    rewritten(tmp_path, lambda t: t.update({"output.weight": torch.ones(97, 36)}))
    assert "hold 1 tensors that have no place by its configuration, output.weight" in told(tmp_path)


def test_an_unembedding_of_its_own_is_not_tied_by_a_configuration_that_says_so(tmp_path):
    tiny.tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    rewritten(tmp_path, lambda t: t.update({"lm_head.weight": torch.ones(97, 36)}))
    hf = homolog.load(tmp_path).hf
    assert torch.equal(hf.lm_head.weight, torch.ones(97, 36))
    assert not torch.equal(hf.model.embed_tokens.weight, hf.lm_head.weight)


@pytest.mark.parametrize("name", BUILDS)
def test_a_missing_embedding_is_never_drawn(name, tmp_path):
    hf = BUILDS[name]()
    hf.save_pretrained(tmp_path)
    embeddings = [m.weight for m in (hf.get_input_embeddings(), hf.get_output_embeddings())]
    stored = load_file(tmp_path / FILE)
    gone = [key for key, tensor in stored.items() if tensor.shape == embeddings[0].shape]
    assert len(gone) == 2 - (embeddings[0] is embeddings[1])
    for key in gone:
        rewritten(tmp_path, lambda t, key=key: t.pop(key))
        assert "its files lack" in told(tmp_path)
        save_file(stored, tmp_path / FILE, {"format": "pt"})


def test_the_first_missing_weights_are_named(whole):
    gone = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("down", "gate", "up")]
    rewritten(whole, lambda t: [t.pop(name) for name in gone])
    assert f"lack 3 weights, {', '.join(gone)} among them" in told(whole)


def test_weights_stored_as_integers(whole):
    rewritten(whole, lambda t: t.update({"model.norm.weight": torch.ones(36, dtype=torch.int32)}))
    assert "model.norm.weight is stored as I32, and weights are floats" in told(whole)


def test_a_missing_config_and_a_file_in_the_place_of_a_folder(whole, tmp_path):
    (whole / "config.json").unlink()
    assert "a folder that holds config.json" in told(whole)
    assert "a folder that holds config.json" in told(whole / FILE)
    (whole / "config.json").mkdir()
    assert "config.json', but it is a directory" in told(whole)


def test_random_weights_say_the_same_of_a_config(whole):
    (whole / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json', but it is not valid JSON"):
        homolog.load(whole, random=True)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_weights_that_were_quantised(method, whole):
    configured(whole, quantization_config={"quant_method": method, "bits": 4})
    message = told(whole)
    assert f"its weights are quantised ({method}), and those that are read are floats" in message
    assert "Take the model as it was before that, or a GGUF file of it." in message
