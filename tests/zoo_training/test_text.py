"""The text of the zoo: what is held out is not learnt, and pages become plain text."""

import gzip
import shutil

import numpy as np
import pytest

from homolog.zoo_training.text.gather import cut, divided, without
from homolog.zoo_training.text.readers import manual_page, page_text, whole_files
from homolog.zoo_training.text.sources import SOURCES, Source


def _source(train=100_000, held_out=3_000):
    reader = whole_files("*.txt")
    return Source("words", "prose", "en", ("pypi:words==1",), "MIT", reader, train, held_out)


def _texts(n=40, seed=0):
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghij "))
    return [
        (f"file {i}", "\n".join("".join(rng.choice(letters, 70)) for _ in range(20)))
        for i in range(n)
    ]


def test_whole_files_are_held_out():
    held_out, train = divided(_source(), _texts(), np.random.default_rng(0), set())
    titles = {document["title"] for document in held_out}
    assert titles
    assert not titles & {document["title"] for document in train}
    assert 3_000 <= sum(len(document["text"]) for document in held_out) < 3_000 + 1_500
    assert len(titles) + len({document["title"] for document in train}) == 40


def test_no_more_is_taken_than_asked_for():
    _, train = divided(_source(train=5_000), _texts(), np.random.default_rng(0), set())
    assert 5_000 <= sum(len(document["text"]) for document in train) < 5_000 + 1_500


def test_a_text_that_stands_twice_is_taken_once():
    texts = _texts(3)
    held_out, train = divided(_source(), texts + texts, np.random.default_rng(0), set())
    assert len(held_out) + len(train) == 3


def test_documents_that_hold_a_part_of_what_is_held_out_are_left_out():
    """Two long lines in twenty are a tenth; one is not."""
    held, first, second = (text for _, text in _texts(3))
    lines, held_lines = first.split("\n"), held.split("\n")
    two = {"text": "\n".join(held_lines[:2] + lines[2:])}
    one = {"text": "\n".join(held_lines[:1] + lines[1:])}
    none = {"text": second}
    assert without([two, one, none], {line.strip() for line in held_lines}) == [one, none]


def test_pieces_are_whole_lines_and_give_the_text_again():
    text = "\n".join("x" * n for n in (10, 30, 5, 50, 20))
    pieces = list(cut(text, longest=40))
    assert "\n".join(pieces) == text
    assert [len(piece) for piece in pieces] == [10, 36, 50, 20]


def test_pages_lose_navigation_and_keep_literal_lines():
    page = (
        '<html><head><title>no</title></head><body><div class="navheader">no</div>'
        "<h1>One</h1><p>two\n  three</p><pre>a  b\nc</pre><script>no</script></body></html>"
    )
    assert page_text(page) == "One\ntwo three\na  b\nc"


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs Debian's mandoc")
def test_manual_pages_are_set_without_header_and_footer(tmp_path):
    path = tmp_path / "x.1.gz"
    source = ".TH X 1 2020 Y Z\n.SH NAME\nx \\- crosses \\fBrivers\\fR\n"
    path.write_bytes(gzip.compress(source.encode()))
    assert manual_page(path).split() == ["NAME", "x", "-", "crosses", "rivers"]


def test_only_text_that_may_be_passed_on_is_held_out():
    kept = {source.licence.split(" ")[0] for source in SOURCES if source.held_out}
    assert kept == {"works", "public", "PSF-2.0", "MIT", "Artistic", "PostgreSQL", "CC"}
