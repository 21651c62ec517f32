"""What the documentation names exists, and the page of public names is current.

A message gives file, line and name.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from docs.make_reference import COMMAND, FOLDER, pages

from documentation import (
    CHECKS,
    PAGES,
    ROOT,
    SOURCE,
    Page,
    called_names,
    command_lines,
    links,
    make_targets,
    paths,
    python_names,
    recipes,
    short_names,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_the_pages_name_exists(check: Any) -> None:
    pages = [Page(path, path.read_text(encoding="utf-8")) for path in PAGES]
    wrong = [str(problem) for page in pages for problem in check(page)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(("name", "text"), pages().items(), ids=list(pages()))
def test_the_pages_made_from_the_code_are_current(name: str, text: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == text, f"renew docs/{name}: {COMMAND}"


def test_every_page_and_package_is_in_the_reading_order() -> None:
    order = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in order, (
            f"docs/README.md: no link to {path.name}"
        )
    for path in SOURCE.glob("*/__init__.py"):
        name = path.parent.name
        assert re.search(f"`{name}/?`", order), f"docs/README.md: {name}/ is in no row"


def test_pages_that_the_source_names_exist() -> None:
    for path in [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.j2"), ROOT / "Makefile"]:
        for name in re.findall(r"docs/[\w-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}"


# ---- The checker itself: it sees each kind of mistake, where it is, and lets through what is right

GOOD = """\
# A page, with `matching/pearson.py`

`homolog.max_pearson`, `homolog.matching.layers.merge_layers`, `matching.Best.a_to_b`.
`homolog sae train` with `--k`, `prepare(x)`, `homolog verify RUN`, `RUN/a.json`; a homolog. The
next: `runs/demo/report/index.html`, `tests/test_docs.py`, `models/`, `MODEL/LAYER.json`,
[here](docs/formats.md#run-folder), [up](#a-page-with-matchingpearsonpy).

    OPENAI_API_KEY=... homolog rate runs/demo --llm URL MODEL --features 200     # a comment
    homolog sae train MODEL --kind topk \\
        --k 32

```python
import homolog
from homolog.models import Zero

study = homolog.Study.load("runs/demo")
study.matches.filter(True)
model = homolog.load("zoo:mamba-s0")
model.run(tokens, edits=[Zero("embed")]).logits
```
"""

BAD = {
    "`homolog.max_person`": (python_names, 1, "homolog.max_person"),
    "text\n\n    homolog.matching.nowhere.f(1)": (python_names, 3, "homolog.matching.nowhere.f"),
    "    from homolog.models import Add, Nil": (python_names, 1, "homolog.models.Nil"),
    "```python\nfrom homolog.model import load\n```": (python_names, 2, "homolog.model"),
    "```python\nimport homolog.nil\n```": (python_names, 2, "homolog.nil"),
    "```python\nimport homolog\n\ns = homolog.Study.load(1)\ns.matchs\n```": (
        python_names,
        5,
        "s.matchs",
    ),
    "```python\nimport homolog\nm = homolog.load(1)\nm.run(1).logit\n```": (
        python_names,
        4,
        "m.run(1).logit",
    ),
    "```python\nx = (\n```": (python_names, 2, "python"),
    "`matching.calibrated`": (short_names, 1, "matching.calibrated"),
    "text\n\n    table = prepares(x)": (called_names, 3, "prepares()"),
    "Then\n`prepares(x)`": (called_names, 2, "prepares()"),
    "    homolog compare a b": (command_lines, 1, "homolog compare a b"),
    "x\n\n    homolog report runs/demo --frmat pdf": (
        command_lines,
        3,
        "homolog report runs/demo --frmat pdf",
    ),
    "    homolog sae train m \\\n        --kind tapk": (
        command_lines,
        1,
        "homolog sae train m --kind tapk",
    ),
    "    homolog sae convert a b": (command_lines, 1, "homolog sae convert a b"),
    "Use\n`homolog sae\ntrian`.": (command_lines, 2, "homolog sae trian"),
    "`homolog run --token 3`": (command_lines, 1, "homolog run --token 3"),
    "Say `make demos`": (make_targets, 1, "make demos"),
    "```toml\nmodels = [{ ref = 'a' }]\n```": (recipes, 2, "recipe"),
    "[a](docs/nil.md)": (links, 1, "docs/nil.md"),
    "[a](docs/formats.md#nil)": (links, 1, "docs/formats.md#nil"),
    "See `storage/atomic.py`.": (paths, 1, "storage/atomic.py"),
    "See\n`studies/`.": (paths, 2, "studies/"),
    "See `persons.py`.": (paths, 1, "persons.py"),
    "    python benchmarks/nil.py --quick": (paths, 1, "benchmarks/nil.py"),
}


def test_the_checker_lets_through_what_is_right() -> None:
    page = Page(ROOT / "README.md", GOOD)
    assert [str(problem) for check in CHECKS for problem in check(page)] == []


@pytest.mark.parametrize("text", BAD)
def test_the_checker_names_file_line_and_name(text: str) -> None:
    check, line, name = BAD[text]
    problems = list(check(Page(ROOT / "README.md", text)))
    assert [problem[:3] for problem in problems][:1] == [("README.md", line, name)]
    assert str(problems[0]).startswith(f"README.md:{line}: {name}: ") and problems[0].why
