"""Names, as tables, folders, pages and sentences have them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

TOKEN_NAME = "current-token"
"""Name of what stands for a model in a comparison with the token itself."""


def listed(items: Sequence[str]) -> str:
    """Items as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def folder_name(model: str) -> str:
    """A model's name as one folder name: no "zoo:", "/" as "--", anything unusual as "-"."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.removeprefix("zoo:").strip("/").replace("/", "--"))
    return name.lstrip(".") or "model"


def model_name(ref: str) -> str:
    """The name of a model that is given none: "mamba-s0" of "zoo:mamba-s0".

    A zoo name or a Hub id as one folder name; of a folder or GGUF file that is there, the last part
    of its path, with what is done to the model ("#noise=0.1").
    """
    place, mark, change = ref.rpartition("#") if "#" in ref else (ref, "", "")
    path = os.path.expanduser(place)
    if ref.startswith("zoo:") or not os.path.exists(path):
        return folder_name(ref)
    last = re.sub(r"\.gguf$", "", os.path.basename(os.path.abspath(path)), flags=re.IGNORECASE)
    return folder_name(last + mark + change)
