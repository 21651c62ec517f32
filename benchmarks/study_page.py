"""Parts of a page about a study (docs/demo.md, docs/case-study.md) from its finished run.

    python -m benchmarks.study_page RUN > parts.md

Shared features are pairs with a homolog both ways, the best first, at most two for one token that
a feature follows: those in which a person sees more than that come before the others.  Each is
shown by the text up to where it fires most, in both models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from homolog.pipeline.study import Study
from homolog.record.comparisons import MAIN

SHOWN = 20
CONTEXT = 60
"""Characters of the text before the token on which a feature fires."""
CLOSE = 0.7
"""Correlation from which a match counts as close."""
BY_TOKEN = 0.5
"""Share of variance from which a feature counts as one that follows its token."""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def verdicts(study: Study) -> str:
    """Both directions, with ceiling and what is withheld."""
    rows = [
        [
            row["model"],
            row["best_model"],
            row["n_alive"],
            f"{percent(row['share'])} ({percent(row['lo'])} to {percent(row['hi'])})",
            percent(row["ceiling"]),
            f"{row['mean_r']:.2f}",
        ]
        for row in study.shared.to_dicts()
    ]
    head = ["features of", "in", "alive", "with a homolog", "ceiling", "mean best r"]
    return table(head, rows)


def depths(study: Study) -> str:
    """Features with a homolog in the other model, by the block of their dictionary."""
    own = study.matches.filter(comparison=MAIN.name, label="sae")
    counts = own.group_by("model", "layer").agg(pl.col("homolog").sum(), pl.len())
    return table(["model", "block", "with a homolog", "of"], counts.sort("model", "layer").rows())


def comparisons(study: Study) -> str:
    """Mean of the best correlations of every comparison."""
    summary = study.summary.filter(stratum="all")
    rows = summary.select("comparison", "model", "best_model", pl.col("mean").round(3)).rows()
    return table(["comparison", "features of", "in", "mean best r"], rows)


def told(study: Study) -> str:
    """What the analyses say in words."""
    record = study.folder.record
    entries = [entry for notes in record.values() if isinstance(notes, list) for entry in notes]
    words = [entry["words"] for entry in entries if isinstance(entry, dict) and "words" in entry]
    return "\n".join(f"- {said}" for said in words)


def effects(study: Study) -> str:
    """Do close matches do the same, and does the partner undo what taking a feature out does?"""
    close = (pl.col("above_r") - CLOSE).abs() < 1e-9, pl.col("to_r") > 0.99
    agreed = study.causal_auc.filter(*close).to_dicts()
    undone = study.loss_recovered.filter(*close).to_dicts()
    rows = [
        [row["model"], row["kind"], row["where"], row["n"]]
        + [_with_interval(row, name) for name in ("auc", "mean", "control_mean")]
        for row in agreed
    ]
    first = ["features of", "edit", "where", "pairs", "agree more than controls", "mean", "control"]
    second = ["features of", "pairs", "undone by partners", "by random features"]
    others = [
        [
            row["model"],
            row["n"],
            _with_interval(row, "kl_recovered"),
            _with_interval(row, "kl_random"),
        ]
        for row in undone
    ]
    return table(first, rows) + "\n\n" + table(second, others)


def _with_interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} ({row[f'{name}_lo']:.2f} to {row[f'{name}_hi']:.2f})"


def by_correlation(study: Study) -> str:
    """Where close partners lie, and how far the current token explains features, by their r."""
    own = study.matches.filter(comparison=MAIN.name, label="sae", best_label="sae")
    found = own.filter(pl.col("r").is_finite(), pl.col("r") >= 0.2)
    tokens = found.with_columns(r_bin=(pl.col("r") * 10).floor().cast(pl.Int8))
    shares = tokens.group_by("model", "r_bin").agg(
        pl.len(), pl.col("token_r2").fill_nan(None).median().round(2)
    )
    ordered = shares.sort("model", "r_bin").rows()
    near = found.filter(pl.col("r") > CLOSE).group_by("model", "layer")
    depths = near.agg(pl.len(), pl.col("best_layer").mean().round(2)).sort("model", "layer")
    return (
        table(
            ["features of", "r from", "features", "R² of the token"],
            [[name, f"{tenths / 10:.1f}", n, f"{r2:.2f}"] for name, tenths, n, r2 in ordered],
        )
        + "\n\n"
        + table(
            ["features of", "block", f"with r > {CLOSE}", "mean block of partners"], depths.rows()
        )
    )


def stages(study: Study) -> str:
    """Minutes and peak of memory of the stages, those of one kind together."""
    kinds: dict[str, list[float]] = {}
    for name, stage in study.folder.record["stages"].items():
        kind = kinds.setdefault(name.split()[0], [0.0, 0.0])
        kind[0] += stage.get("seconds", 0.0) / 60
        kind[1] = max(kind[1], stage.get("peak_bytes", 0) / 2**30)
    rows = [[name, f"{minutes:.1f}", f"{peak:.1f}"] for name, (minutes, peak) in kinds.items()]
    return table(["stage", "minutes", "peak, GiB"], rows)


def dictionaries(study: Study) -> str:
    rows = [
        [
            row["model"],
            row["label"],
            row["layer"],
            f"{row['l0']:.1f}",
            f"{row['explained_variance']:.2f}",
            "" if row["loss_recovered"] is None else f"{row['loss_recovered']:.2f}",
            percent(row["dead_share"]),
            row["reason"],
        ]
        for row in study.saes.sort("model", "label", "layer").to_dicts()
    ]
    head = ["model", "dictionary", "block", "L0", "explained", "loss recovered", "dead", "gates"]
    return table(head, rows)


def shared_features(study: Study) -> str:
    """The twenty pairs."""
    first, second = study.shared["model"][0], study.shared["best_model"][0]
    features = study.features.select("model", "layer", "feature", "token_r2", "n_active")
    pairs = (
        study.matches.filter(
            (pl.col("model") == first)
            & (pl.col("best_model") == second)
            & (pl.col("label") == "sae")
            & (pl.col("best_label") == "sae")
            & pl.col("homolog")
            & pl.col("mutual")
        )
        .drop("token_r2", "n_active", strict=False)
        .join(features, on=["model", "layer", "feature"], how="left")
    )
    followed = pl.col("token_r2").fill_nan(1.0).fill_null(1.0) > BY_TOKEN
    ordered = pairs.sort(followed, -pl.col("r"), maintain_order=True)
    rows = []
    taken: dict[str, int] = {}
    for pair in ordered.to_dicts():
        ours = shown(study, first, pair["layer"], pair["feature"])
        theirs = shown(study, second, pair["best_layer"], pair["best_feature"])
        token = ours[0].rpartition("**")[0].rpartition("**")[2].strip().lower() if ours else ""
        if not ours or not theirs or taken.get(token, 0) >= 2:
            continue
        taken[token] = taken.get(token, 0) + 1
        place = (
            f"{pair['layer']}/{pair['feature']}",
            f"{pair['best_layer']}/{pair['best_feature']}",
        )
        rows.append([f"{pair['r']:.2f}", *place, "<br>".join(ours), "<br>".join(theirs)])
        if len(rows) == SHOWN:
            break
    head = ["r", f"{first}, block/feature", second, f"where {first} fires", f"where {second} does"]
    return table(head, rows)


def shown(study: Study, model: str, layer: int, feature: int) -> list[str]:
    """Up to two contexts of a feature, its token in bold."""
    contexts = study.contexts(model, layer).filter(
        (pl.col("feature") == feature) & (pl.col("quantile") == 1)
    )
    words = vocabulary(study, model)
    return list(dict.fromkeys(_texts(contexts.sort("rank").head(6), words)))[:2]


def _texts(contexts: pl.DataFrame, words: list[str]) -> Iterator[str]:
    for row in contexts.to_dicts():
        place = row["position"] - row["start"]
        before = "".join(words[token] for token in row["tokens"][:place])[-CONTEXT:]
        own = words[row["tokens"][place]]
        yield f"{_plain(before)}**{_plain(own).strip() or '_'}**"


def _plain(text: str) -> str:
    one_line = " ".join(text.split("\n"))
    return "".join("\\" + c if c in "|*_`<[" else c for c in one_line)


def vocabulary(study: Study, model: str) -> list[str]:
    """What each token id of a model stands for."""
    texts = study.folder.token_texts(study.folder.text_of(model))
    return [text if isinstance(text, str) else "\N{REPLACEMENT CHARACTER}" for text in texts]


def parts(run: str) -> None:
    study = Study.load(Path(run))
    for title, part in (
        ("Verdicts", verdicts(study)),
        ("Depths", depths(study)),
        ("Comparisons", comparisons(study)),
        ("What the analyses say", told(study)),
        ("Effects", effects(study)),
        ("By correlation", by_correlation(study)),
        ("Dictionaries", dictionaries(study)),
        ("Shared features", shared_features(study)),
        ("Stages", stages(study)),
    ):
        print(f"## {title}\n\n{part}\n")


if __name__ == "__main__":
    parts(sys.argv[1])
