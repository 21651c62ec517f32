"""Addresses of pages."""

from __future__ import annotations

import re

from homolog.charts.links import pair_pages


def test_names_of_pages_are_safe_and_differ() -> None:
    names = pair_pages([("../a", "..-a"), ("../a", "b c"), ("..-a", "b c")])
    assert names == ["pair-..-a--..-a", "pair-..-a--b-c", "pair-..-a--b-c-2"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
