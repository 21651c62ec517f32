"""Figures as SVG and PNG files, and the script that draws them in the page: no browser and no network."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import vl_convert as vlc

PNG_SCALE = 2.0  # pixels per CSS pixel


def save_figure(spec: dict[str, Any], folder: Path, name: str) -> None:
    """Write NAME.svg, NAME.png (twice the screen's resolution) and NAME.vl.json into `folder`."""
    text = json.dumps(spec, ensure_ascii=False, sort_keys=True)
    svg = stable_ids(vlc.vegalite_to_svg(text))
    (folder / f"{name}.svg").write_text(svg, "utf-8")
    (folder / f"{name}.png").write_bytes(vlc.svg_to_png(svg, scale=PNG_SCALE))
    (folder / f"{name}.vl.json").write_text(json.dumps(spec, ensure_ascii=False, indent=1) + "\n", "utf-8")


def stable_ids(svg: str) -> str:
    """Number clip paths and gradients from 0 in each file: the renderer counts on from chart to chart."""
    found = dict.fromkeys(re.findall(r'id="((?:clip|gradient_|linear|p_)\d+)"', svg))
    for place, identifier in enumerate(found):
        svg = re.sub(rf'(id="|url\(#|href="#){identifier}(?=["\)])', rf"\g<1>h{place}", svg)
    return svg


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one classic script that sets `window.vegaEmbed`; about 0.9 MB."""
    bundle = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return "(() => {" + bundle.replace("</script", "<\\/script") + "\n})();\n"
