"""How soon the explorer shows its list, and how much it loads for that, with many features.

    python benchmarks/explorer.py [--features 100000 300000] [--repeats 5] [--keep FOLDER]

Two models of 12 layers share the features, with generated statistics, matches and contexts, 16
contexts of 24 tokens each, cut from a text of a million tokens of 50,000 words.  Chromium opens the
page from the file system, each time in a new context; the time runs from the start of navigation
until the list, the page of a feature or the result of a search is painted, and bytes are those of
all files asked for until then.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import polars as pl
from measuring import busy, machine, peak_beyond, timed
from playwright.sync_api import Browser, sync_playwright

from homolog.report.explorer import Source, write_explorer

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
MODELS, LAYERS = ("pythia", "mamba"), 12
SHARES = "82 15 28 43 127 22 20 61 70 2 8 40 24 67 75 19 1 60 63 91 28 10 24 2 20 1"  # a to z
VOCABULARY, CONTEXTS, LENGTH = 50_000, 16, 24
MATCH_TOKENS, WINDOW = 1_000_000, 128
PAGES = {
    "the list": "",
    "cards": "#from=pythia&to=mamba&view=cards",
    "a feature": "#from=pythia&to=mamba&feature=5/100",
    "a search": "#from=pythia&to=mamba&text=tea",
    "two letters": "#from=pythia&to=mamba&text=te",
}

PAINTED = """new Promise((resolve) => {
    const look = () => {
        const [mark] = performance.getEntriesByName("explorer-shown");
        if (mark) resolve(mark.startTime); else setTimeout(look, 5);
    };
    look();
})"""


@dataclass(frozen=True)
class View:
    seconds: float
    size: int
    files: int


def vocabulary(rng: np.random.Generator) -> list[str]:
    """Words of 2 to 9 letters, these as frequent as in English, most with a space before."""
    share = np.array(SHARES.split(), float)
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (VOCABULARY, 9), p=share / share.sum())
    lengths, spaced = rng.integers(2, 10, VOCABULARY), rng.random(VOCABULARY) < 0.7
    return [
        " " * bool(space) + "".join(row[:length])
        for row, length, space in zip(letters, lengths, spaced, strict=True)
    ]


def tokens(rng: np.random.Generator, n: int) -> np.ndarray:
    """Token ids as frequent as the inverse of their rank."""
    return (VOCABULARY ** rng.random(n)).astype(np.int64) - 1


@cache
def text() -> np.ndarray:
    """The token ids of its windows."""
    windows = MATCH_TOKENS // WINDOW
    return tokens(np.random.default_rng(1), windows * WINDOW).reshape(windows, WINDOW)


def features_of(
    model: str, per_layer: int, words: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    n = LAYERS * per_layer
    n_active = np.exp(rng.normal(6, 2, n)).astype(np.int64)
    lists = [words[tokens(rng, 8 * n)].reshape(n, 8).tolist() for _ in range(3)]
    return pl.DataFrame(
        {
            "model": [model] * n,
            "layer": np.repeat(np.arange(LAYERS, dtype=np.int32), per_layer),
            "feature": np.tile(np.arange(per_layer, dtype=np.int32), LAYERS),
            "n_active": n_active,
            "freq": n_active / MATCH_TOKENS,
            "mean_active": rng.gamma(2, 1, n),
            "max": rng.gamma(9, 1, n),
            "token_entropy": rng.gamma(3, 1, n),
            "token_r2": rng.random(n),
            "context_tokens": rng.gamma(2, 4, n),
            "consistency": rng.random(n),
            "top_tokens": lists[0],
            "promoted": lists[1],
            "suppressed": lists[2],
            "near_feature": rng.integers(0, per_layer, (n, 5)).tolist(),
            "near_cosine": rng.random((n, 5)).tolist(),
        }
    )


def matches_of(model: str, target: str, per_layer: int, rng: np.random.Generator) -> pl.DataFrame:
    n = LAYERS * per_layer
    r = rng.beta(2, 2, n)
    place = {
        f"{name}_{what}": rng.integers(0, most, n)
        for name in ("best", "runner_up", "partner")
        for what, most in (("layer", LAYERS), ("feature", per_layer))
    }
    return pl.DataFrame(
        {
            "comparison": ["main"] * n,
            "model": [model] * n,
            "layer": np.repeat(np.arange(LAYERS, dtype=np.int32), per_layer),
            "feature": np.tile(np.arange(per_layer, dtype=np.int32), LAYERS),
            "best_model": [target] * n,
            "r": r,
            "runner_up_r": r * 0.9,
            "partner_r": r,
            "null_r": np.full(n, 0.1),
            "excess": r - 0.1 + rng.normal(0, 0.01, n),
            "homolog": r > 0.5,
            "mutual": rng.random(n) < 0.3,
            **place,
        }
    )


def contexts_of(model: str, layer: int, per_layer: int) -> pl.DataFrame:
    rng = np.random.default_rng([len(model), layer])
    n = per_layer * CONTEXTS
    values = np.where(rng.random((n, LENGTH)) < 0.1, rng.gamma(2, 1, (n, LENGTH)), 0).astype(
        np.float32
    )
    values[:, LENGTH // 2] = 1 + rng.gamma(3, 1, n)
    window = rng.integers(0, len(text()), n)
    start = rng.integers(0, WINDOW - LENGTH + 1, n)
    shown = text()[window[:, None], start[:, None] + np.arange(LENGTH)].astype(np.int32)
    return pl.DataFrame(
        {
            "feature": np.repeat(np.arange(per_layer, dtype=np.int32), CONTEXTS),
            "quantile": np.tile(np.repeat([1.0, 0.75, 0.5, 0.25], CONTEXTS // 4), per_layer),
            "value": values[:, LENGTH // 2],
            "document": (window // 8).astype(np.int32),
            "window": window.astype(np.int32),
            "position": (start + LENGTH // 2).astype(np.int16),
            "start": start.astype(np.int16),
            "tokens": pl.Series(shown).arr.to_list(),
            "values": pl.Series(values).arr.to_list(),
        }
    )


def built(folder: Path, n_features: int) -> Callable[[], Path]:
    """A call that writes the explorer of so many features, both models together."""
    per_layer = n_features // (2 * LAYERS)
    rng = np.random.default_rng(0)
    words = vocabulary(rng)
    features = pl.concat([features_of(model, per_layer, np.array(words), rng) for model in MODELS])
    matches = pl.concat(
        [
            matches_of(model, other, per_layer, rng)
            for model in MODELS
            for other in MODELS
            if other != model
        ]
    )
    source = Source(
        features,
        matches.lazy(),
        lambda model, layer: contexts_of(model, layer, per_layer),
        words,
        dict.fromkeys(MODELS, LAYERS),
        name=f"{n_features} generated features",
    )
    return lambda: write_explorer(folder, source)


def view(browser: Browser, address: str) -> View:
    """Open the page once in a new context."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    files: list[Path] = []
    page.on("request", lambda request: files.append(Path(unquote(urlparse(request.url).path))))
    page.goto(address)
    page.wait_for_selector("html[data-explorer]", state="attached", timeout=120_000)
    shown = page.evaluate(PAINTED)
    if not page.locator("#problem").is_hidden():
        raise RuntimeError(page.locator("#problem").text_content())
    context.close()
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return View(shown / 1000, sum(sizes), len(sizes))


def measure(n_features: int, folder: Path, repeats: int) -> None:
    write = built(folder, n_features)
    peak, (seconds, index) = peak_beyond(lambda: timed(write))
    data = [file.stat().st_size for file in folder.rglob("*.js")]
    print(
        f"{n_features:,} features written in {seconds:.0f} s, {1000 * seconds / n_features:.2f} "
        "ms a feature; "
        f"{sum(data) / 1e6:,.0f} MB in {len(data):,} files, the largest {max(data) / 1e6:.2f} MB; "
        f"memory beyond the tables {peak / 2**20:,.0f} MiB"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, address in PAGES.items():
            view(browser, index.as_uri() + address)  # the first warms up
            views = [view(browser, index.as_uri() + address) for _ in range(repeats)]
            seconds = [each.seconds for each in views]
            print(
                f"  {name:10} median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
                f"{max(seconds):.2f}), "
                f"{views[0].size / 1e6:.2f} MB in {views[0].files} files"
            )
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="write the explorers there and leave them")
    options = parser.parse_args()
    print(f"{machine()}. {busy()}")
    for n_features in options.features:
        with tempfile.TemporaryDirectory() as scratch:
            measure(n_features, (options.keep or Path(scratch)) / str(n_features), options.repeats)


if __name__ == "__main__":
    main()
