"""Small studies that are really trained, of two architectures and of two tokenizers, and served."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipeline.outcome import RECIPE, beside_the_zoo, leave_undrawn
from tests.pipeline.test_two_tokenizers import save_model

from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.serve import make_server
from homolog.serve.desk import Desk
from homolog.serve.partners import Partner, Partners
from homolog.serve.server import Prompt

A, B = "transformer-s0", "mamba-s0"
LAYERS = {A: [1, 3], B: [2, 5]}
CLOSE = 0.3
"""Of r.  Features of dictionaries this small have no homologs: close matches are taken for some."""


def two_architectures() -> Recipe:
    """A Transformer and a Mamba of one tokenizer, some blocks of each."""
    values = tomllib.loads(RECIPE)
    values["models"] = [{"ref": f"zoo:{name}", "layers": own} for name, own in LAYERS.items()]
    values["corpus"] |= {"train_tokens": 8192, "match_tokens": 4096}
    values["controls"] |= {"sae_seed": False, "neurons": False}
    return parse_recipe(values, "prompt.toml")


def two_tokenizers(folder: Path) -> Recipe:
    """The Transformer that ships, and a model that cuts text in another way."""
    return beside_the_zoo(save_model(folder / "other"), {"layers": [0]}, 1.0)


def made(recipe: Recipe, folder: Path) -> RunFolder:
    """The run of a recipe, with its windows and without images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "drop_cache", lambda self: None)
        leave_undrawn(patch.setattr)
        run_study(recipe, folder / "run", SilentProgress())
    return RunFolder(folder / "run")


def with_homologs(desk: Desk) -> Desk:
    """The desk with every close match taken for a homolog."""

    def close(partner: Partner) -> Partner:
        return partner._replace(homolog=partner.r > CLOSE)

    def planted(partners: Partners) -> Partners:
        a, b = ({at: close(own) for at, own in side.items()} for side in partners.sides)
        return Partners((a, b))

    return replace(
        desk, pairs=[replace(pair, partners=planted(pair.partners)) for pair in desk.pairs]
    )


@contextmanager
def served(run: Path, prompt: Prompt | None) -> Iterator[str]:
    """The address of a server of the run."""
    with make_server(run, prompt=prompt) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
