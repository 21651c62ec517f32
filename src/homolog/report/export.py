"""Figures as files, and the script that draws them in the page: no browser and no network.

A figure of a run says which one made it, under `usermeta.made` of its specification: an SVG has
that as <metadata>, a PNG as a chunk of text "Source".  A PDF has no place for it.

The renderer hardly compresses the pixels of a PNG; compressed again, they take a third.
"""

from __future__ import annotations

import functools
import html
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert as vlc

from homolog.errors import InputError, require_one_of
from homolog.record.atomic import write_bytes

PNG_SCALE = 2.0  # pixels per CSS pixel
FORMATS = ("svg", "pdf", "png")
_SIGNATURE = 8  # bytes that a PNG begins with


def save_figure(spec: dict[str, Any], folder: Path, name: str) -> None:
    """Write NAME.svg, NAME.png (twice the screen's resolution) and NAME.vl.json into `folder`."""
    svg = svg_of(json.dumps(spec, ensure_ascii=False, sort_keys=True))
    (folder / f"{name}.svg").write_text(svg, "utf-8")
    (folder / f"{name}.png").write_bytes(_png(svg, PNG_SCALE))
    (folder / f"{name}.vl.json").write_text(
        json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8"
    )


@dataclass(frozen=True)
class InlineFigure:
    """A figure's Vega-Lite specification, as Jupyter draws it: interactive, or else as SVG."""

    spec: dict[str, Any]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        svg = svg_of(self.spec)
        return {"application/vnd.vegalite.v5+json": self.spec, "image/svg+xml": svg}


def figure_specs(report: Path) -> dict[str, Path]:
    """The Vega-Lite files of a report's figures by name, for a pair of several "pair-A--B/NAME"."""
    folder = report / "figures"
    specs = {
        file.relative_to(folder).as_posix().removesuffix(".vl.json"): file
        for file in folder.rglob("*.vl.json")
    }
    if not specs:
        remedy = "Finish the run, or write its report: homolog report RUN."
        raise InputError("run folder", str(report.parent), "it has no report with figures", remedy)
    return dict(sorted(specs.items()))


def export_figures(
    report: Path,
    out: Path,
    formats: Sequence[str] = FORMATS,
    names: Sequence[str] = (),
    scale: float = PNG_SCALE,
) -> list[Path]:
    """Draw figures of a report into the folder `out`; returns the files.

    names: of the figures, all where none are given.  formats: of `FORMATS`.  scale: pixels of a PNG
    per CSS pixel.  InputError names an unknown figure or format.
    """
    known = figure_specs(report)
    for field, asked, allowed in (("figure", names, known), ("format", formats, FORMATS)):
        for name in asked:
            require_one_of(field, name, allowed)
    files = []
    for name in names or known:
        svg = svg_of(known[name].read_text("utf-8"))
        files += [write_bytes(out / f"{name}.{form}", _drawn(svg, form, scale)) for form in formats]
    return files


def _drawn(svg: str, form: str, scale: float) -> bytes:
    """A figure in one of `FORMATS`."""
    if form == "svg":
        return svg.encode()
    return vlc.svg_to_pdf(svg) if form == "pdf" else _png(svg, scale)


def _png(svg: str, scale: float) -> bytes:
    """An SVG as PNG, its pixels compressed well, with its metadata as a chunk of text."""
    image = vlc.svg_to_png(svg, scale=scale)
    header, *parts = _chunks(image)
    pixels = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    chunks = [header, *(part for part in parts if part[0] not in (b"IDAT", b"IEND"))]
    if made := re.search("<metadata>(.*?)</metadata>", svg, re.DOTALL):
        chunks.append((b"iTXt", b"Source\0\0\0\0\0" + html.unescape(made[1]).encode()))
    chunks += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return image[:_SIGNATURE] + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG: what each is, and what is in it."""
    at = _SIGNATURE
    while at < len(image):
        length, kind = struct.unpack_from(">I4s", image, at)
        yield kind, image[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def svg_of(spec: dict[str, Any] | str) -> str:
    """A Vega-Lite specification, or its JSON, as SVG: the same bytes whatever was drawn before."""
    text = spec if isinstance(spec, str) else json.dumps(spec)
    svg = stable_ids(vlc.vegalite_to_svg(text))
    made = json.loads(text).get("usermeta", {}).get("made")
    if not made or not svg:
        return svg
    opening, rest = svg.split(">", 1)
    return f"{opening}><metadata>{html.escape(made)}</metadata>{rest}"


def stable_ids(svg: str) -> str:
    """Number clip paths and gradients from 0 in each file; the renderer counts on over charts."""
    identifiers = dict.fromkeys(re.findall(r'id="((?:clip|gradient_|linear|p_)\d+)"', svg))
    for place, identifier in enumerate(identifiers):
        svg = re.sub(rf'(id="|url\(#|href="#){identifier}(?=["\)])', rf"\g<1>h{place}", svg)
    return svg


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of 0.9 MB that sets `window.vegaEmbed`."""
    bundle = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return "(() => {" + bundle.replace("</script", "<\\/script") + "\n})();\n"
