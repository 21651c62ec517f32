"""A small study that has several shards and every kind of file, and what two runs of it must have
in common.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import vl_convert as vlc

from homolog.pipeline.recipes import parse_recipe
from homolog.record.recipe import Recipe

RECIPE = """
name = "faults"
[[models]]
ref = "zoo:transformer-s0"
[[models]]
ref = "zoo:transformer-s1"
[corpus]
source = "zoo:demo"
context = 64
train_tokens = 9216
match_tokens = 16384
neuron_tokens = 1024
quality_tokens = 512
[sae]
d_sae = 32
l1 = 1.0
batch = 256
[controls]
rotated = false
stability = false
[matching]
resamples = 4
null_exchanges = 1
space_tokens = 512
[run]
shard_mib = 1
"""


MEANING = """
[interpretation]
top = 2
context_tokens = 256
causal_pairs = 2
listed = 2
"""

WHOLE = (
    RECIPE.replace("quality_tokens = 512", "quality_tokens = 4096")  # of several documents
    + """
[interpretation]
top = 4
per_quantile = 1
context_tokens = 2048
causal_pairs = 4
listed = 4
[crosscoder]
tokens = 2048
epochs = 1
batch = 128
d_sae = 32
k = 4
[alignment_search]
tokens = 512
test_tokens = 256
steps = 1
[circuits]
n_prompts = 4
length = 16
repeat = 4
discovery_prompts = 2
validated_edges = 2
tasks = ["induction", "ioi"]
n_edges = 4
n_subsets = 0
n_random = 1
"""
)
"""`RECIPE` with every analysis."""


def beside_the_zoo(folder: Path, model: Mapping[str, Any], l1: float, **changes: Any) -> Recipe:
    """A small study of a model in a folder and the Transformer that ships.

    model: of the recipe's table of the former, beside its ref.  changes: tables, whole.
    """
    values = {
        "name": "beside the zoo",
        "models": [{"ref": "zoo:transformer-s0"}, {"ref": str(folder)} | dict(model)],
        "corpus": {
            "source": "zoo:demo",
            "context": 64,
            "train_tokens": 4096,
            "match_tokens": 4096,
            "quality_tokens": 1024,
        },
        "sae": {"d_sae": 32, "l1": l1, "epochs": 1, "batch": 512, "seeds": [0, 1]},
        "matching": {"resamples": 20, "space_tokens": 1024},
    }
    return parse_recipe(values | changes, "beside.toml")


_CHANGES = re.compile(
    rb'\b([\d.,]+ (s|ms|min|h|MiB|GiB)\b ?)+|id="spec-stages">.*|<li>Built again: [^<]*</li>|Git '
    rb"commit</dt><dd>[^<]*"
)


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""The smallest image."""


class _Undrawn:
    vegalite_to_svg = staticmethod(lambda spec: "")
    svg_to_png = staticmethod(lambda svg, scale: PIXEL)


def leave_undrawn(put: Callable[[Any, str, Any], None]) -> None:
    """Leave out the images of reports, which are drawn from the data beside them and take longer
    than all else.

    put: `setattr`, or pytest's.
    """
    from homolog.report import export

    put(export, "vlc", _Undrawn)
    put(export, "vega_script", lambda: "")


def told(report: Path) -> str:
    """All pages of a report, one after the other."""
    return "\n".join(path.read_text("utf-8") for path in sorted(report.glob("*.html")))


def drawing(report: Path, figure: str) -> str:
    """The SVG of a figure of a report, drawn from the specification beside the page."""
    return vlc.vegalite_to_svg((report / "figures" / f"{figure}.vl.json").read_text("utf-8"))


def files(out: Path) -> dict[str, bytes]:
    """Contents of all files of a run but its record and lock.

    What pages say of time and memory, of damage that was mended, and of the commit of the code is
    masked.
    """
    found = {
        path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()
    }
    contents = {name: path.read_bytes() for name, path in found.items()}
    for name in [
        ".lock",
        "run.json",
        *(name for name in contents if name.startswith("report/figures/stages.")),
    ]:
        contents.pop(name, None)
    pages = {name: data for name, data in contents.items() if name.endswith(".html")}
    return contents | {name: _CHANGES.sub(b"", data) for name, data in pages.items()}


def record(out: Path) -> dict[str, Any]:
    """run.json without times, memory, and what was rebuilt on the way."""
    found = json.loads((out / "run.json").read_text())
    for name in ("sha256", "rebuilt", "git_commit"):
        found.pop(name, None)
    for stage in found["stages"].values():
        for name in ("started", "seconds", "peak_bytes"):
            del stage[name]
    del found["stages"]["report"]["outputs"]
    return found
