"""`Run`: what a forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from homolog.axes import Logits
from homolog.errors import InputError
from homolog.models.sites import Site


@dataclass(frozen=True)
class Run:
    """The result of a forward pass: its logits, and `run[site]` for each captured site.

    logits: None when it stopped early.
    """

    logits: Logits | None
    captured: dict[Site, Tensor]

    def __getitem__(self, site: Site | str) -> Tensor:
        parsed = Site.parse(site)
        if parsed not in self.captured:
            got = ", ".join(map(str, self.captured)) or "nothing"
            requirement = f"this run captured {got}"
            raise InputError("site", str(parsed), requirement, "Name it in `capture`.")
        return self.captured[parsed]
