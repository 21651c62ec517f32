"""The one function that the rules of a kind call; each engine puts its own in this place."""

from __future__ import annotations

from typing import Any


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b."""
    return a if condition else b
