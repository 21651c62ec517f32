"""Names of models as names of folders."""

from __future__ import annotations

import re


def folder_name(model: str) -> str:
    """A model's name as one folder name: no "zoo:", "/" as "--", anything unusual as "-"."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.removeprefix("zoo:").strip("/").replace("/", "--"))
    return name.lstrip(".") or "model"
