"""`load(ref)`: a zoo name, a local folder or a Hugging Face Hub id becomes a `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from homolog.errors import InputError
from homolog.models.any_decoder import AnyDecoder
from homolog.models.base import LanguageModel, widened
from homolog.models.gpt2 import GPT2
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.guards import cast, no_fetched_kernels, require_decoder
from homolog.models.llama import Llama
from homolog.models.mamba import Mamba
from homolog.models.random_weights import random_configuration, random_weights
from homolog.zoo import catalog

ADAPTERS: dict[str, type[LanguageModel]] = {"gpt2": GPT2, "gpt_neox": GPTNeoX, "llama": Llama, "mamba": Mamba}
"""The adapter of each model type; every other type is an `AnyDecoder`."""


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
    Errors: InputError for an unknown zoo name, a folder without config, a model that is no decoder or whose blocks are
    not found, a Hub id that cannot be fetched, missing or non-finite weights.  Code that comes with a model is not run.
    """
    name = str(ref)
    if random and not _in_zoo(name):
        model = _adapt(name, *random_weights(name, revision))
        cast(model.hf, dtype)
    elif _in_zoo(name):
        chosen = catalog.entry(name)
        model = from_folder(chosen.folder, dtype) if chosen.trained else untrained(chosen)
        cast(model.hf, dtype)
        model.name = catalog.PREFIX + chosen.name
    elif Path(name).expanduser().exists():
        model = from_folder(Path(name).expanduser(), dtype)
    elif _looks_like_hub_id(name):
        with _from_hub(name):
            model = _build(name, dtype, revision=revision)
    else:
        raise _nothing(name)
    model.hf.eval().requires_grad_(False).to(device=device)
    _keep_float32(model)
    return model


def load_tokenizer(ref: str | Path, revision: str | None = None, *, random: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer alone, for checks before the weights are read.  InputError when there is none."""
    name = str(ref)
    if random:
        return AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    if _in_zoo(name):
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


def commit_of(ref: str, revision: str | None = None) -> str:
    """The commit that a Hub id stands for now.  InputError when the Hub does not give its configuration."""
    with _from_hub(ref):
        return Path(hf_hub_download(ref, "config.json", revision=revision)).parent.name


def untrained(chosen: catalog.Entry, device: str = "cpu") -> LanguageModel:
    """The entry's configuration with fresh weights, a function of its seed alone.  float32, with gradients."""
    config = AutoConfig.for_model(chosen.architecture, **chosen.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return _adapt(chosen.name, hf, AutoTokenizer.from_pretrained(catalog.TOKENIZER), device)


def from_folder(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a local Hugging Face folder; nothing is fetched."""
    _require_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            "model",
            str(folder),
            "the folder holds no *.safetensors (pickled weights are not read)",
            "Save the model again with `save_pretrained(folder, safe_serialization=True)`.",
        )
    return _build(str(folder), dtype, local_files_only=True)


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(
            "model",
            str(folder),
            "a model folder holds config.json and *.safetensors",
            "Save the model there with `save_pretrained`.",
        )


def require_inner_sites(
    ref: str | Path, what: str, remedy: str, revision: str | None = None, *, random: bool = False
) -> None:
    """InputError unless the model's adapter knows what is inside its blocks: neurons, heads, mixers.

    what: the work that needs it; remedy: what to do else.  Only the configuration is read.
    """
    name = str(ref)
    if _in_zoo(name):
        return
    if random:
        config = random_configuration(name, revision)
    elif Path(name).expanduser().exists():
        _require_config(Path(name).expanduser())
        config = _configuration(str(Path(name).expanduser()), local_files_only=True)
    elif _looks_like_hub_id(name):
        with _from_hub(name):
            config = _configuration(name, revision=revision)
    else:
        raise _nothing(name)
    kind = config.model_type
    if kind not in ADAPTERS:
        known = ", ".join(sorted(ADAPTERS))
        raise InputError("model", name, f"{what} needs an adapter that knows what is inside blocks; its architecture "
                         f"{kind!r} has none ({known} have)", remedy)  # fmt: skip


@contextmanager
def _from_hub(ref: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            "model",
            ref,
            f"the Hub did not give it ({str(error).splitlines()[0]})",
            f"Check the id, the revision and the network, or name a local folder or a zoo model: {_zoo()}.",
        ) from error


def _configuration(ref: str, **options: Any) -> Any:
    try:
        config = AutoConfig.from_pretrained(ref, trust_remote_code=False, **options)
    except ValueError as error:
        raise InputError(
            "model",
            ref,
            f"this version of transformers does not know its architecture ({str(error).strip().splitlines()[0]})",
            "Upgrade transformers; code that comes with a model is not run.",
        ) from error
    require_decoder(config, ref)
    return config


def _build(ref: str, dtype: torch.dtype, **options: Any) -> LanguageModel:
    config = _configuration(ref, **options)
    with no_fetched_kernels():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            ref,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
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
        tokenizer = AutoTokenizer.from_pretrained(ref, trust_remote_code=False, **options)
    except (OSError, ValueError):
        return None
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) + 1 else None


def _adapt(name: str, hf: Any, tokenizer: PreTrainedTokenizerBase | None, device: str = "cpu") -> LanguageModel:
    return ADAPTERS.get(hf.config.model_type, AnyDecoder)(name, hf.to(device), tokenizer)


def _keep_float32(model: LanguageModel) -> None:
    for name, parameter in model.hf.named_parameters():
        if name.endswith(("A_log", ".D")):
            parameter.data = widened(parameter.data)


def _nothing(name: str) -> InputError:
    return InputError(
        "model",
        name,
        "there is no such folder, and it is no Hub id (OWNER/NAME)",
        f"Name a folder, a Hub id, or one of the zoo: {_zoo()}.",
    )


def _in_zoo(name: str) -> bool:
    return name.startswith(catalog.PREFIX) or name in catalog.names()


def _zoo() -> str:
    return ", ".join(catalog.PREFIX + name for name in catalog.names())


def _looks_like_hub_id(name: str) -> bool:
    owner, slash, model = name.partition("/")
    return bool(slash and owner and model and "/" not in model and not name.startswith((".", "~")))
