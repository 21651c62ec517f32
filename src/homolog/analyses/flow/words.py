"""What a feature's links say of it, in the words of the table `flow`."""

from __future__ import annotations

FIRST, LAST = "first", "last"
"""It stands in the first, or in the last, kept block."""
COMES = ("born", "changed", "kept")
GOES = ("dies", "changes", "kept")
