"""Which place of a model a name means, and that a dictionary is only used at its own."""

from __future__ import annotations

import pytest
import torch

from homolog.dictionaries import SparseAutoencoder, load, save
from homolog.dictionaries.formats import is_of, said_at, site_of


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.3.hook_resid_post", "resid.3"),
        ("blocks.3.hook_resid_pre", "resid.2"),
        ("blocks.0.hook_resid_pre", "resid_pre.0"),
        ("resid_pre.3", "resid.2"),
        ("blocks.3.hook_mlp_out", "mlp_out.3"),
        ("blocks.3.hook_resid_mid", "resid_mid.3"),
        ("mlp_out_layer_3", "mlp_out.3"),
        ("model.layers.3.mlp", "mlp_out.3"),
        ("gpt_neox.layers.3.attention", "attn_out.3"),
        ("transformer.h.3.attn", "attn_out.3"),
        ("backbone.layers.3.mixer", "mixer_out.3"),
        ("mixer_out.3", "mixer_out.3"),
        ("blocks.3.attn.hook_z", None),
        ("h.3.ln_1", None),
        ("something", None),
        (None, None),
    ],
)
def test_names_of_places(hook: str | None, site: str | None) -> None:
    assert site_of(hook) == site


def dictionary(**said: object) -> SparseAutoencoder:
    W = torch.eye(4)
    metadata = {"model": "m", **said}
    return SparseAutoencoder(W, torch.zeros(4), W.clone(), torch.zeros(4), metadata=metadata)


@pytest.mark.parametrize(
    ("said", "at", "elsewhere"),
    [
        ({"layer": 3}, ["resid.3", "resid_pre.4"], ["resid.2", "mlp_out.3", "mixer_out.3"]),
        ({"hook": "blocks.3.hook_mlp_out"}, ["mlp_out.3"], ["mlp_out.2", "resid.3"]),
        ({"hook": "mixer_out.3", "layer": 3}, ["mixer_out.3"], ["resid.3", "mixer_in.3"]),
        ({"hook": "blocks.3.attn.hook_z"}, [], ["resid.3", "attn_out.3"]),
        ({}, ["resid.3", "mlp_out.1"], []),
    ],
)
def test_a_dictionary_is_of_the_place_that_its_file_says(said, at, elsewhere) -> None:
    assert all(is_of(dictionary(**said), site) for site in at)
    assert not any(is_of(dictionary(**said), site) for site in elsewhere)


@pytest.mark.parametrize(
    "site", ["resid.1", "mlp_out.1", "mixer_out.1", "resid_pre.1", "attn_out.1"]
)
def test_a_place_is_in_the_file(site: str, tmp_path) -> None:
    save(said_at(dictionary(layer=1), site), tmp_path)
    read = load(tmp_path)
    assert is_of(read, site) and not is_of(read, "mlp_in.1")
    assert ("hook" in read.metadata) == (site != "resid.1")
