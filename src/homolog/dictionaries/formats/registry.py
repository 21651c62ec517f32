"""Which format a folder has, and one way to load, save and convert for all of them.

A format is recognised by the name of the configuration file and keys in it, never by trying.  One
from outside this package joins the list by `register`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats import dictionary_learning, hub, llamascopium, sae_lens, sparsify
from homolog.dictionaries.formats.reading import Config, Folder, Format
from homolog.dictionaries.quality import Quality
from homolog.errors import InputError

OWN = sae_lens.FORMAT.name
FORMATS: dict[str, Format] = {
    OWN: sae_lens.FORMAT,
    "sparsify": sparsify.FORMAT,
    "dictionary_learning": dictionary_learning.FORMAT,
    "llamascopium": llamascopium.FORMAT,
    "sae_lens": sae_lens.FORMAT,
}
"""By name; "homolog" and "sae_lens" are one layout."""


def register(form: Format) -> Format:
    """Make a format known, for this process.  InputError where another one has its name."""
    name = _key(form.name)
    if FORMATS.get(name, form) is not form:
        raise InputError("format", form.name, "another format has this name", "Give it its own.")
    FORMATS[name] = form
    return form


def load(source: Path | str) -> SparseAutoencoder:
    """A dictionary of any format, in our form: takes raw residuals, nothing left to normalise.

    source: a folder, or "hf:OWNER/NAME[@REVISION][/FOLDER]" on the Hugging Face Hub.  Of other
    libraries' files `metadata` says model, layer and hook as far as they do, and under `origin`
    where they came from with their SHA-256. Raises InputError, naming the file, for what has no
    such form, is damaged, or is not there.
    """
    folder = _open(str(source))
    form, config = _recognise(folder)
    if folder.origin is not None:
        hub.fetch(folder.ref, [*form.weights(config), *form.beside], at=folder.origin)
    sae = form.read(folder, config)
    if form.name == OWN and "homolog" in (config.get("metadata") or {}):
        return sae
    origin = {"ref": folder.ref, "format": form.library, "files": dict(sorted(folder.used.items()))}
    if folder.origin is not None:
        origin["commit"] = folder.origin.commit
    kept = {name: value for name, value in sae.metadata.items() if value is not None}
    return replace(sae, metadata={"origin": origin} | kept)


def save(
    sae: SparseAutoencoder, folder: Path | str, quality: Quality | None = None, *, format: str = OWN
) -> list[Path]:
    """Write the dictionary to `folder` in a format of `FORMATS`; returns the files written.

    The folder is made if missing.  Only our own layout, which SAELens loads, keeps `quality`.
    Raises InputError where the format has no such kind, and for metadata or a quality that are no
    JSON values: infinity is none, and NaN stands for null in a quality alone.
    """
    form, metadata = _format(format), dict(sae.metadata)
    measured = {} if quality is None else quality.as_row()
    row = {name: None if value != value else value for name, value in measured.items()}
    for field, values in (("metadata", metadata), ("quality", row)):
        try:
            json.dumps(values, allow_nan=False, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            requirement = f"it is written as such ({error})"
            remedy = "Use plain, finite values."
            raise InputError(field, "not JSON", requirement, remedy) from error
    if form.name == OWN and row:
        sae = replace(sae, metadata={**metadata, "kind": sae.kind, "quality": row})
    return form.write(sae, Path(folder))


def convert(source: Path | str, target: Path | str, to: str) -> list[Path]:
    """Write the dictionary `source` (see `load`) to the folder `target`; returns the files.

    to: a format of `FORMATS`.
    """
    _format(to)
    target = Path(target)
    if any((target / name).exists() for name in _configs()):
        requirement = "it must not hold a dictionary already"
        raise InputError("target", str(target), requirement, "Name another folder.")
    return save(load(source), target, format=to)


def commit_of(ref: str) -> str:
    """The commit that a dictionary of the Hub is read at now; errors as `load`.

    ref: hf:OWNER/NAME[@REVISION][/FOLDER].
    """
    return hub.fetch(ref, _configs())[1].commit


def _key(name: str) -> str:
    return name.replace("-", "_")


def _distinct() -> list[Format]:
    return list(dict.fromkeys(FORMATS.values()))


def _configs() -> list[str]:
    """Names of the configuration files of all formats."""
    return list(dict.fromkeys(name for form in _distinct() for name in form.configs))


def _format(name: str) -> Format:
    if (known := _key(name)) not in FORMATS:
        requirement = f"it must be one of {', '.join(FORMATS)}"
        raise InputError("format", name, requirement, "Name one of these.")
    return FORMATS[known]


def _open(source: str) -> Folder:
    if source.startswith(hub.PREFIX):
        path, origin = hub.fetch(source, _configs())
        return Folder(path, source, origin)
    path = Path(source).expanduser()
    if not path.is_dir():
        remedy = (
            "Name the folder that holds its configuration; one on the Hub is hf:OWNER/NAME/FOLDER."
        )
        raise InputError("dictionary", source, "there is no such folder", remedy)
    return Folder(path, source)


def _recognise(folder: Folder) -> tuple[Format, Config]:
    """The format whose configuration the folder holds; InputError where it is not just one."""
    matching: list[tuple[Format, Config, str]] = []
    for name in _configs():
        if (folder.path / name).is_file():
            config = folder.json(name)
            forms = [form for form in _distinct() if name in form.configs]
            matching += [(form, config, name) for form in forms if form.recognises(config)]
    if len(matching) > 1:
        both = ", ".join(f"{name} of {form.library}" for form, _, name in matching)
        requirement = f"it must be of one format, and holds {both}"
        raise InputError("dictionary folder", folder.ref, requirement, "Part them.")
    if matching:
        form, config, name = matching[0]
        for other in set(folder.used) - {name}:
            del folder.used[other]
        return form, config
    inside = sorted(p.parent.name for name in _configs() for p in folder.path.glob(f"*/{name}"))
    libraries = ", ".join(form.library for form in _distinct())
    requirement = (
        f"none of {', '.join(_configs())} in it is the configuration of a dictionary as "
        f"{libraries} write it"
    )
    remedy = "Name the folder of one dictionary."
    if inside:
        remedy = f"Name one of the folders in it, such as {inside[0]}."
    raise InputError("dictionary folder", folder.ref, requirement, remedy)
