"""`load(ref)`: a zoo name, a local folder or a Hugging Face Hub id becomes a `LanguageModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from homolog.errors import InputError
from homolog.models.base import LanguageModel, widened
from homolog.models.gpt2 import GPT2
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.llama import Llama
from homolog.models.mamba import Mamba
from homolog.models.random_weights import random_weights
from homolog.zoo import catalog

ADAPTERS: dict[str, type[LanguageModel]] = {"gpt2": GPT2, "gpt_neox": GPTNeoX, "llama": Llama, "mamba": Mamba}


def load(
    ref: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    random: bool = False,
) -> LanguageModel:
    """Load a model for reading: in eval mode, without gradients, with its tokenizer when it has one.

    ref       "zoo:NAME" (or a bare zoo name), a local folder with config.json and safetensors, or a Hub id
    revision  branch, tag or commit of a Hub id
    random    the model's size with random weights and the zoo's tokenizer (`random_weights`), for rehearsals
    dtype     of the weights; a Mamba keeps its residual stream, A_log and scan in float32 or wider
    Errors: InputError for an unknown zoo name, a folder without config, an architecture without adapter, a Hub id that
    cannot be fetched, missing or non-finite weights.
    """
    name = str(ref)
    if random and not (name.startswith(catalog.PREFIX) or name in catalog.names()):
        model = _adapt(name, *random_weights(name, revision))
    elif name.startswith(catalog.PREFIX) or name in catalog.names():
        chosen = catalog.entry(name)
        model = from_folder(chosen.folder, dtype) if chosen.trained else untrained(chosen)
        model.name = catalog.PREFIX + chosen.name
    elif Path(name).expanduser().exists():
        model = from_folder(Path(name).expanduser(), dtype)
    elif _looks_like_hub_id(name):
        model = _from_hub(name, revision, dtype)
    else:
        raise InputError(
            "model",
            name,
            "there is no such folder, and it is no Hub id (OWNER/NAME)",
            f"Name a folder, a Hub id, or one of the zoo: {_zoo()}.",
        )
    model.hf.eval().requires_grad_(False).to(device=device, dtype=dtype)
    _keep_float32(model)
    return model


def load_tokenizer(ref: str | Path, revision: str | None = None, *, random: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer alone, for checks before the weights are read.  InputError when there is none."""
    name = str(ref)
    if random:
        return AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    if name.startswith(catalog.PREFIX) or name in catalog.names():
        catalog.entry(name)
        return AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    tokenizer = _tokenizer(name, revision=revision)
    if tokenizer is None:
        raise InputError(
            "model",
            name,
            "its tokenizer cannot be loaded",
            f"Check the id or the folder, and save the tokenizer beside the weights. The zoo: {_zoo()}.",
        )
    return tokenizer


def untrained(chosen: catalog.Entry, device: str = "cpu") -> LanguageModel:
    """The entry's configuration with fresh weights, a function of its seed alone.  float32, with gradients."""
    config = AutoConfig.for_model(chosen.architecture, **chosen.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return _adapt(chosen.name, hf, AutoTokenizer.from_pretrained(catalog.TOKENIZER), device)


def from_folder(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a local Hugging Face folder; nothing is fetched."""
    if not (folder / "config.json").is_file():
        raise InputError(
            "model",
            str(folder),
            "a model folder holds config.json and *.safetensors",
            "Save the model there with `save_pretrained`.",
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            "model",
            str(folder),
            "the folder holds no *.safetensors (pickled weights are not read)",
            "Save the model again with `save_pretrained(folder, safe_serialization=True)`.",
        )
    return _build(str(folder), dtype, local_files_only=True)


def _from_hub(ref: str, revision: str | None, dtype: torch.dtype) -> LanguageModel:
    try:
        return _build(ref, dtype, revision=revision)
    except InputError:
        raise
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            "model",
            ref,
            f"the Hub did not give it ({str(error).splitlines()[0]})",
            f"Check the id, the revision and the network, or name a local folder or a zoo model: {_zoo()}.",
        ) from error


def _build(ref: str, dtype: torch.dtype, **options: object) -> LanguageModel:
    config = AutoConfig.from_pretrained(ref, **options)
    if config.model_type not in ADAPTERS:
        raise InputError(
            "model",
            ref,
            f"its architecture {config.model_type!r} has no adapter",
            f"Supported: {', '.join(sorted(ADAPTERS))}.",
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        ref, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    hf, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            "model",
            ref,
            f"its files lack {len(missing)} weights, {missing[0]} among them",
            "Fetch or save the model again.",
        )
    for name, parameter in hf.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                "model",
                ref,
                f"its weight {name} has values that are not finite (NaN or infinite)",
                "Fetch or save the model again.",
            )
    return _adapt(ref, hf, _tokenizer(ref, **options))


def _tokenizer(ref: str, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or None: without its files, transformers makes an empty one of special tokens alone."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(ref, **options)
    except (OSError, ValueError):
        return None
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) + 1 else None


def _adapt(name: str, hf: Any, tokenizer: PreTrainedTokenizerBase | None, device: str = "cpu") -> LanguageModel:
    return ADAPTERS[hf.config.model_type](name, hf.to(device), tokenizer)


def _keep_float32(model: LanguageModel) -> None:
    for name, parameter in model.hf.named_parameters():
        if name.endswith(("A_log", ".D")):
            parameter.data = widened(parameter.data)


def _zoo() -> str:
    return ", ".join(catalog.PREFIX + name for name in catalog.names())


def _looks_like_hub_id(name: str) -> bool:
    owner, slash, model = name.partition("/")
    return bool(slash and owner and model and "/" not in model and not name.startswith((".", "~")))
