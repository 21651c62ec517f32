"""`load(ref)`: a zoo name, a local folder or a Hugging Face Hub id becomes a `LanguageModel`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from homolog.errors import InputError
from homolog.models.any_decoder import AnyDecoder
from homolog.models.architectures import ADAPTERS, knows_inside
from homolog.models.base import TOKENIZER_REMEDY, LanguageModel
from homolog.models.block_list import few_tokens
from homolog.models.float32 import cast, read_in_float32
from homolog.models.gguf import (
    as_pretrained,
    dequantised,
    is_gguf,
    read_well,
    require_all_read,
    require_as_many,
    require_gguf,
)
from homolog.models.guards import no_fetched_kernels
from homolog.models.positions import n_positions, too_long
from homolog.models.random_weights import fresh, random_configuration, random_weights
from homolog.models.stored import (
    AGAIN,
    OF_ONE,
    SINGLE,
    configuration,
    disagreement,
    made_by_transformers,
    require_agreement,
    require_floats,
    require_model_folder,
    stored_weights,
)
from homolog.models.taps import NOTHING
from homolog.models.tokenizer import find_tokenizer
from homolog.models.variants import change, changed_configuration, seed_of_untrained
from homolog.reference import Reference, gguf_file, resolve, zoo
from homolog.zoo import catalog


def load(
    ref: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    random: bool = False,
) -> LanguageModel:
    """Load a model for reading: in eval mode, without gradients, with its tokenizer if it has one.

    ref       "zoo:NAME" (or a bare zoo name), a local folder with config.json and safetensors, a
              GGUF file (or a folder that holds one), whose weights are dequantised, or a Hub id
    revision  branch, tag or commit of a Hub id
    random    the model's size with random weights and the zoo's tokenizer (`random_weights`), for
              rehearsals
    dtype     of the weights, but for those that stay in float32 (`float32` lists them); a Mamba
              keeps its residual stream and scan in float32 or wider
    Errors: InputError for an unknown zoo name, a model that is no decoder or whose blocks are not
    found, a Hub id that cannot be fetched, files that are missing or damaged, a configuration that
    disagrees with the stored weights, and weights that are missing or not finite.  A tokenizer that
    cannot be made is no error here: `require_tokenizer` says why there is none.  Code that comes
    with a model is not run.
    """
    named = resolve(ref)
    seed = seed_of_untrained(named.change)
    if seed is not None:
        config = read_configuration(ref, revision, random=random)
        with made_by_transformers(str(ref)):
            hf = fresh(config, seed)
        model = _adapt(str(ref), hf, *_tokenizer(named, revision, random))
        cast(model.hf, dtype)
    elif named.kind == "zoo":
        model = _from_zoo(catalog.entry(named.name), dtype)
    elif random:
        model = _adapt(named.name, *random_weights(named.source, revision))
        cast(model.hf, dtype)
    elif named.folder is not None:
        model = from_folder(named.folder, dtype)
    else:
        with _from_hub(named.name):
            model = _build(named.name, dtype, revision=revision)
    if named.change and seed is None:
        change(model.hf, named.change, named.name)
        model = _adapt(str(ref), model.hf, model.tokenizer, model.no_tokenizer)
    model.hf.eval().requires_grad_(False).to(device=device)
    return model


def load_tokenizer(
    ref: str | Path, revision: str | None = None, *, random: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer alone, for checks before the weights are read.  InputError if there is none."""
    tokenizer, why = _tokenizer(resolve(ref), revision, random)
    if tokenizer is None:
        requirement = f"its tokenizer cannot be loaded: {why}"
        raise InputError("model", str(ref), requirement, TOKENIZER_REMEDY)
    return tokenizer


def _tokenizer(
    named: Reference, revision: str | None, random: bool
) -> tuple[PreTrainedTokenizerBase | None, str | None]:
    """(tokenizer, None) or (None, why there is none)."""
    if named.kind == "zoo":
        return AutoTokenizer.from_pretrained(catalog.entry(named.name).tokenizer), None
    if random:
        return AutoTokenizer.from_pretrained(catalog.TOKENIZER), None
    return find_tokenizer(named.source, revision=revision)


def _from_zoo(entry: catalog.Entry, dtype: torch.dtype) -> LanguageModel:
    if entry.trained:
        model = from_folder(entry.folder, dtype)
    else:
        model = untrained(entry)
        cast(model.hf, dtype)
    model.name = catalog.PREFIX + entry.name
    return model


def has_weights(ref: str | Path, revision: str | None = None) -> bool:
    """Whether `load` fetches no weights: of the Hub, that one file of them is in the cache."""
    named = resolve(ref)
    if named.kind != "hub" or seed_of_untrained(named.change) is not None:
        return True
    return isinstance(try_to_load_from_cache(named.name, SINGLE, revision=revision), str)


def commit_of(ref: str, revision: str | None = None) -> str:
    """The commit that a Hub id stands for now.  InputError when the Hub does not say."""
    with _from_hub(ref):
        return _snapshot(ref, revision).name


def _snapshot(ref: str, revision: str | None) -> Path:
    """The folder of the cache that holds a Hub id's files; its name is the commit."""
    return Path(hf_hub_download(ref, "config.json", revision=revision)).parent


def untrained(chosen: catalog.Entry, device: str = "cpu") -> LanguageModel:
    """The entry's configuration with fresh float32 weights, a function of its seed alone."""
    hf = fresh(read_configuration(catalog.PREFIX + chosen.name), chosen.seed)
    return _adapt(chosen.name, hf, AutoTokenizer.from_pretrained(catalog.TOKENIZER), device=device)


def from_folder(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a local Hugging Face folder, or a GGUF file; nothing is fetched."""
    return _build(_local(folder), dtype, local_files_only=True)


def _local(folder: Path) -> str:
    """The folder, or the GGUF file that it is or holds.  InputError unless that is a model's."""
    file = gguf_file(folder)
    if file is None:
        require_model_folder(folder)
    else:
        require_gguf(file)
    return str(file or folder)


def require_inner_sites(
    ref: str | Path, what: str, remedy: str, revision: str | None = None, *, random: bool = False
) -> None:
    """InputError unless the model's adapter knows what is inside blocks: neurons, heads, mixers.

    what: the work that needs it; remedy: what to do else.  Only the configuration is read.
    """
    if resolve(ref).kind == "zoo":
        return
    config = read_configuration(ref, revision, random=random)
    kind = config.model_type
    knowing = [name for name, adapter in ADAPTERS.items() if knows_inside(adapter)]
    if kind not in knowing and _read_as(config) not in knowing:
        needs = f"{what} needs an adapter that knows what is inside blocks"
        has = f"its architecture {kind!r} has none ({len(knowing)} have"
        raise InputError("model", str(ref), f"{needs}; {has}: docs/sites.md)", remedy)


def _read_as(config: Any) -> str:
    """The model type of the module that is made: that of the text alone, for some with images."""
    made = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    own = getattr(made, "config_class", None)
    return config.model_type if own is None else own.model_type


def read_configuration(
    ref: str | Path, revision: str | None = None, *, random: bool = False
) -> Any:
    """The configuration alone, known before the weights are read.  Errors as for `load`."""
    named = resolve(ref)
    return changed_configuration(_configuration(named, revision, random=random), named.change)


def _configuration(named: Reference, revision: str | None, *, random: bool) -> Any:
    if named.kind == "zoo":
        entry = catalog.entry(named.name)
        if not entry.trained:
            return AutoConfig.for_model(entry.architecture, **entry.config)
        return configuration(_local(entry.folder), local_files_only=True)
    if random:
        return random_configuration(named.source, revision)
    if named.folder is not None:
        return configuration(_local(named.folder), local_files_only=True)
    with _from_hub(named.name):
        return configuration(named.name, revision=revision)


def require_positions(
    ref: str | Path, n: int, field: str, revision: str | None = None, *, random: bool = False
) -> None:
    """InputError for `field` where windows of n tokens are longer than the model was made for."""
    most = n_positions(read_configuration(ref, revision, random=random))
    if most is not None and n > most:
        raise too_long(str(ref), n, most, field)


def n_blocks(ref: str | Path, revision: str | None = None, *, random: bool = False) -> int | None:
    """How many blocks the model has by its configuration; None where that does not say."""
    config = read_configuration(ref, revision, random=random).get_text_config(decoder=True)
    return getattr(config, "num_hidden_layers", None)


@contextmanager
def _from_hub(ref: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        requirement = f"the Hub did not give it ({str(error).splitlines()[0]})"
        check = "Check the id, the revision and the network, or name a local folder or a zoo model"
        raise InputError("model", ref, requirement, f"{check}: {zoo()}.") from error


def _build(ref: str, dtype: torch.dtype, **options: Any) -> LanguageModel:
    """The model of a folder, GGUF file or Hub id."""
    with read_well(ref):
        config = configuration(ref, **options)
        require_floats(ref, config)
        with made_by_transformers(ref):
            if Path(ref).is_dir():
                require_agreement(ref, config, stored_weights(Path(ref)))
            if is_gguf(ref):
                require_as_many(Path(ref), config)
            hf, info = _read(ref, config, dtype, options)
            _require_all(ref, hf, info, options)
            if is_gguf(ref):
                require_all_read(Path(ref), hf)
                cast(hf, dtype)
            model = _adapt(ref, hf, *find_tokenizer(ref, **options))
            with torch.no_grad():  # a configuration may build a module that cannot run
                model._pass(few_tokens(hf, 2), NOTHING, None, True)
    return model


def _read(
    ref: str, config: Any, dtype: torch.dtype, options: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """The module of transformers, and what it says of weights that are missing or left over."""
    source, named = as_pretrained(ref, options)
    with no_fetched_kernels(), read_in_float32():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=torch.float32 if is_gguf(ref) else dtype,  # and cast above
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # and refused above, by name
            trust_remote_code=False,
            **named,
            **dequantised(ref),
        )
    return loaded


def _require_all(ref: str, hf: Any, info: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """InputError unless every weight is there, of its shape and finite, and none is left over."""
    for name, held, expected in sorted(info["mismatched_keys"]):
        raise disagreement(ref, name, tuple(held), tuple(expected))
    if missing := sorted(info["missing_keys"]):
        requirement = f"its files lack {len(missing)} weights, {_some(missing)} among them"
        raise InputError("model", ref, requirement, AGAIN)
    unexpected = sorted(info["unexpected_keys"])
    shapes = _shapes(ref, options) if unexpected and not is_gguf(ref) else {}
    if left := [name for name in unexpected if _matters(name, shapes.get(name), hf)]:
        strangers = f"{len(left)} tensors that have no place by its configuration"
        raise InputError(
            "model", ref, f"its files hold {strangers}, {_some(left)} among them", OF_ONE
        )
    for name, parameter in hf.named_parameters():
        if not torch.isfinite(parameter).all():
            requirement = f"its weight {name} has values that are not finite (NaN or infinite)"
            raise InputError("model", ref, requirement, AGAIN)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3])


def _shapes(ref: str, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of the stored tensors, by name; of a Hub id, those in the cache, where loading put them."""
    folder = Path(ref) if Path(ref).is_dir() else _snapshot(ref, options.get("revision"))
    return {name: tensor.shape for name, tensor in stored_weights(folder).items()}


def _matters(name: str, shape: tuple[int, ...] | None, hf: Any) -> bool:
    """Whether a tensor that was not taken tells that weights and configuration disagree.

    That is one inside a list of modules (a block more, a part that blocks lack), beside a weight
    that was taken (a bias), or of the shape of the embedding (an unembedding of another name).
    Masks and frequencies, which older files hold, and other heads and towers do not.
    """
    if shape == tuple(hf.get_input_embeddings().weight.shape):
        return True
    if re.search(r"(inv_freq|masked_bias|attn\.bias|attention\.bias)$", name):
        return False
    modules = dict(hf.named_modules())
    lists = [path for path, module in modules.items() if isinstance(module, torch.nn.ModuleList)]
    owner = modules.get(name.rpartition(".")[0])
    beside = owner is not None and any(True for _ in owner.parameters(recurse=False))
    return beside or any(name.startswith(f"{path}.") for path in lists)


def _adapt(
    name: str,
    hf: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    no_tokenizer: str | None = None,
    device: str = "cpu",
) -> LanguageModel:
    model = ADAPTERS.get(hf.config.model_type, AnyDecoder)(name, hf.to(device), tokenizer)
    model.no_tokenizer = no_tokenizer
    return model
