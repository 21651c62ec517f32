"""Edges between positions knocked out: what the answer loses when the end does not hear a position.

In some mixers the last position hears nothing of one position (`models.mixer_edits.Knockout`); all
that follows is computed again.  So it is the total effect of those edges [Geva 2023], where path
patching holds all other parts.

    change(s) = m(run without the edges s -> T in the mixers asked) - m(run)

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
2023, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from homolog.circuits.replay import Patched, Replay
from homolog.errors import InputError
from homolog.models.mixer_edits import Knockout
from homolog.models.sites import Site


def knockouts_to_logits(
    paths: Replay, parts: Sequence[Site | str], positions: dict[str, Tensor]
) -> Iterator[Patched]:
    """Logits of the clean prompts, whose last position does not hear one position, in all `parts`.

    parts       readouts of mixers: "z.2", "z.2.3" for one head, "y.5"
    positions   label: (prompt,), or (prompt, n) for several that are not heard together
    One sender per label, as `measure_effects` takes them.
    Errors: InputError for no parts, and those of a `Knockout`.
    """
    sites = [Site.parse(part) for part in parts]
    if not sites:
        raise InputError("parts", [], "there must be one", "Name z.LAYER or y.LAYER.")
    model, first = paths.model, min(site.layer or 0 for site in sites)
    start = Site("resid_pre", first)
    clean = model.run(paths.tokens, capture=[start, "embed"], stop_after=start)
    for label, at in positions.items():
        edits = [Knockout(site, query=-1, key=at) for site in sites]
        logits = model.continue_from(first - 1, clean[start], edits, True, clean["embed"])
        yield Patched((label,), logits[None, :, 0])
