"""Which kind of dictionary, and how sparse?  All kinds, on the models that ship.

    python benchmarks/dictionary_pareto.py [--tokens N] [--kinds relu topk ...] [--out FOLDER]

Trains, of each model, kind and sparsity, dictionaries of two seeds for one layer on the text that
ships, by `dictionaries.train` with its defaults, and measures on tokens that none was trained on:
explained variance, L0, dead features, loss recovered by splicing, and the seed skyline, the mean
best correlation (MPPC, `homolog.max_pearson`) between the two seeds over features that fire at
least 30 times.  Numbers are means of the two seeds.

Prints the table as Markdown.  Writes dictionary-pareto.svg, .png and .csv into FOLDER.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import torch
import vl_convert as vlc
from measuring import busy, machine

import homolog
from homolog.charts import theme
from homolog.corpus import TokenWindows, pack, read_documents
from homolog.dictionaries import (
    KINDS,
    ResidualArrays,
    SparseAutoencoder,
    TrainingConfig,
    parse_config,
    train,
)
from homolog.features import capture
from homolog.features.splicing import clean_loss, full_residuals, measure_on_text
from homolog.pipeline.sae import seed_agreement
from homolog.report.export import PNG_SCALE, svg_of

MODELS = {"zoo:transformer-s0": 2, "zoo:mamba-s0": 4}
"""The layer of each: a middle one."""
SPARSITIES = {
    "relu": (1.5, 2.5, 4.0, 6.0),
    "gated": (1.5, 2.5, 4.0, 6.0),
    "topk": (4, 8, 16, 32),
    "batchtopk": (4, 8, 16, 32),
    "jumprelu": (0.5, 1.0, 2.0, 4.0),
}
CONTEXT = 128
LABELS = ("sae", "seed1")
COLOURS = {
    "relu": "main",
    "gated": "sae-seed",
    "topk": "random-model",
    "batchtopk": "model-seed",
    "jumprelu": "rotated",
}
PANELS = {
    "explained_variance": "explained variance",
    "loss_recovered": "loss recovered",
    "seed_skyline": "agreement of two seeds",
}
NAMES = {
    "relu": "ReLU + L1",
    "gated": "Gated",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "jumprelu": "JumpReLU",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model, a layer, its residuals to train on, and what is held out."""

    model: homolog.LanguageModel
    layer: int
    source: ResidualArrays
    heldout: TokenWindows
    residuals: torch.Tensor
    loss_clean: float

    @property
    def kept(self) -> torch.Tensor:
        """Held-out residuals of tokens that are not special: (token, d_model)."""
        return self.residuals[torch.from_numpy(self.heldout.mask)].float()


def load_subject(name: str, layer: int, heldout_tokens: int) -> Subject:
    """The model with the residuals of one layer on the text that ships, windows in random order."""
    model = homolog.load(name)
    windows = pack(read_documents("zoo:demo"), model.tokenizer, CONTEXT).shuffled(0)
    heldout, text = windows.split(-(-heldout_tokens // CONTEXT))
    (residuals,) = capture(model, text, [homolog.Site("resid", layer)])
    source = ResidualArrays(residuals[None], seed=0, name=f"{name} {layer}")
    full = full_residuals(model, heldout, [layer])[layer]
    return Subject(model, layer, source, heldout, full, clean_loss(model, heldout))


def measure(subject: Subject, kind: str, sparsity: float, d_sae: int, n_tokens: int) -> Row:
    """Train two seeds and measure them; the means of both."""
    key = KINDS[kind].sparsity
    config = parse_config(
        {"kind": kind, "d_sae": d_sae, key: int(sparsity) if key == "k" else sparsity}
    )
    begun = time.perf_counter()
    trained = train(
        subject.source,
        config,
        TrainingConfig(n_tokens=n_tokens),
        model=f"{subject.model.name} {subject.layer}",
        labels=LABELS,
    )
    seconds = time.perf_counter() - begun
    saes: list[SparseAutoencoder] = [trained[label][0] for label in LABELS]
    qualities = [
        measure_on_text(
            subject.model,
            subject.heldout,
            subject.residuals,
            subject.layer,
            sae,
            loss_clean=subject.loss_clean,
        )
        for sae in saes
    ]
    names = ("explained_variance", "l0", "dead_share", "dense_share", "loss_recovered")
    means = {
        name: float(np.mean([getattr(quality, name) for quality in qualities])) for name in names
    }
    return {
        "model": subject.model.name.removeprefix("zoo:"),
        "layer": subject.layer,
        "kind": kind,
        "setting": key,
        "sparsity": float(sparsity),
        **means,
        "seed_skyline": seed_agreement(*saes, subject.kept),
        "passed": all(quality.passed for quality in qualities),
        "seconds": seconds / len(LABELS),
    }


def markdown(rows: list[Row]) -> str:
    """The table, one part a model."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        part = [row for row in rows if row["model"] == model]
        lines += [
            f"**{model}, layer {part[0]['layer']}**",
            "",
            "| kind | setting | L0 | explained variance | loss recovered | seeds agree | dead | "
            "dense | gates |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {NAMES[row['kind']]} | {row['setting']} {row['sparsity']:g} | {row['l0']:.1f} | "
            f"{row['explained_variance']:.3f} | {row['loss_recovered']:.3f} | "
            f"{row['seed_skyline']:.2f} | "
            f"{row['dead_share']:.0%} | {row['dense_share']:.0%} | "
            f"{'pass' if row['passed'] else 'fail'} |"
            for row in part
        ]
        lines.append("")
    return "\n".join(lines)


def chart(rows: list[Row]) -> dict[str, Any]:
    """L0 against what it buys, a line a kind; a row of panels a model."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(
            domain=[NAMES[k] for k in kinds],
            range=[theme.comparison_colour(COLOURS[k]) for k in kinds],
        ),
        legend=alt.Legend(title=None, symbolType="stroke", symbolSize=420),
    )
    marks = ["circle", "square", "triangle-up", "diamond", "cross"]
    shape = alt.Shape(
        "name:N",
        legend=None,
        scale=alt.Scale(domain=[NAMES[k] for k in kinds], range=marks[: len(kinds)]),
    )
    values = [{**row, "name": NAMES[row["kind"]]} for row in rows]
    grid = []
    for model in dict.fromkeys(row["model"] for row in rows):
        part = [row for row in values if row["model"] == model]
        panels = []
        for column, title in PANELS.items():
            base = alt.Chart(alt.Data(values=part)).encode(
                alt.X(
                    "l0:Q", title="L0, features a token", scale=alt.Scale(type="log", nice=False)
                ),
                alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False)),
                colour,
                alt.Order("l0:Q"),
            )
            layers = alt.layer(
                base.mark_line(strokeWidth=2.2), base.mark_point(size=52, filled=True).encode(shape)
            )
            heading = f"{model}, layer {part[0]['layer']}" if not panels else " "
            title_ = alt.TitleParams(
                heading, anchor="start", fontSize=13.5, fontWeight=600, offset=12
            )
            panels.append(layers.properties(width=230, height=210, title=title_))
        grid.append(alt.hconcat(*panels, spacing=30))
    spec = alt.vconcat(*grid, spacing=26).to_dict()
    spec["config"] = theme.config()
    return spec


def save(rows: list[Row], folder: Path) -> None:
    """The figure and the numbers behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = svg_of(chart(rows))
    (folder / "dictionary-pareto.svg").write_text(svg, "utf-8")
    (folder / "dictionary-pareto.png").write_bytes(vlc.svg_to_png(svg, scale=PNG_SCALE))
    pl.DataFrame(rows).drop("seconds").write_csv(
        folder / "dictionary-pareto.csv", float_precision=4
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=list(SPARSITIES), choices=list(KINDS))
    parser.add_argument("--points", type=int, default=4, help="sparsities of each kind")
    parser.add_argument(
        "--tokens", type=int, default=1_048_576, help="tokens every dictionary sees"
    )
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument(
        "--heldout", type=int, default=65_536, help="tokens on which all is measured"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images"), help="where the figure and its numbers go"
    )
    options = parser.parse_args()
    begun, rows = time.perf_counter(), []
    for name in options.models:
        subject = load_subject(name, MODELS[name], options.heldout)
        for kind in options.kinds:
            for sparsity in SPARSITIES[kind][: options.points]:
                rows.append(measure(subject, kind, sparsity, options.features, options.tokens))
                row = rows[-1]
                print(
                    f"# {row['model']} {kind} {row['setting']} {sparsity:g}: L0 {row['l0']:.1f}, "
                    "explained "
                    f"{row['explained_variance']:.3f}, seeds {row['seed_skyline']:.2f}, "
                    f"{row['seconds']:.1f} s each",
                    flush=True,
                )
    save(rows, options.out)
    print(
        f"\n{options.features} features, {options.tokens} tokens, {len(LABELS)} seeds, "
        f"{options.heldout} held out"
    )
    print(markdown(rows))
    print(f"{time.perf_counter() - begun:.0f} s on {machine()}. {busy()}")


if __name__ == "__main__":
    main()
