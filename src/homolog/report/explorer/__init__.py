"""The explorer: every feature of a run to search, filter and look at beside its partner.

    folder.py     what an explorer is made of, and its folder: what is written in which order
    rows.py       the row of a feature, by which all files know it; ordered pairs of models
    reasons.py    why a match is no homolog
    witnesses.py  what several methods say of a feature
    columns.py    data/columns/: what the list sorts and filters by
    contexts.py   the contexts of a layer, and what their tokens show
    sheets.py     data/text/: the text of all contexts, each window once
    details.py    data/features/: what the page of a feature shows
    overlays.py   data/overlay/: what both do on the same text
    places.py     data/map/: where each feature stands on the map
    flows.py      data/flow/: how each feature goes on through the layers
    words.py      data/words/: the text index
    packing.py    a data file, and columns of numbers in one
    links.py      addresses of its pages, for the rest of the report

The page itself is `templates/explorer*`: explorer-data.js reads the files that this package writes.
"""

from homolog.charts.links import address
from homolog.report.explorer.folder import Source, explore, write_explorer

__all__ = ["Source", "address", "explore", "write_explorer"]
