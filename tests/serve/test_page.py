"""The page of a prompt as a browser shows it, asked of models that are really there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.report.pages import EVIL, Watched
from tests.report.test_accessibility import SEEN_AS, faults
from tests.serve.study import A, B, served

from homolog.record.run_folder import RunFolder
from homolog.serve.desk import Desk, Pair
from homolog.serve.partners import Partners
from homolog.serve.server import START_PAGE, Prompt

TEXT = "The president of the United States said in 1921 that the people"


class Asked(Watched):
    """The page of a prompt, which counts what has been answered."""

    def __init__(self, browser: Browser, address: str, prompt: Prompt, **options: object) -> None:
        super().__init__(browser, address + prompt.page, **options)
        self.answered(1)

    def answered(self, n: int) -> None:
        self.wait(f"Number(document.documentElement.dataset.prompt ?? 0) >= {n}")

    @property
    def count(self) -> int:
        return int(self.page.evaluate("document.documentElement.dataset.prompt"))

    def read(self, text: str) -> None:
        """Put a text in the box and have it read."""
        before = self.count
        put = "text => { document.getElementById('text').value = text }"
        self.page.evaluate(put, text)
        self.page.get_by_role("button", name="Read it").click()
        self.answered(before + 1)

    def predictions(self, model: str) -> list[tuple[str, str]]:
        """Token and probability of each row."""
        rows = self.page.locator(f"[aria-label='Predictions of {model}'] li").all()
        return [
            (row.locator(".token").inner_text(), row.locator(".p").inner_text()) for row in rows
        ]


@pytest.fixture
def tab(chromium: Browser, address: str, prompt: Prompt) -> Iterator[Asked]:
    """The page with a text read; it may say nothing on the console and ask nobody else."""
    tab = Asked(chromium, address, prompt)
    tab.read(TEXT)
    yield tab
    assert tab.said == []
    assert all(url.startswith(address + prompt.page) or url == "data:," for url in tab.asked)
    tab.page.close()


def test_both_models_are_shown_at_the_end_of_the_text(tab: Asked, desk: Desk) -> None:
    told = desk.answer("read", {"text": TEXT})
    units = tab.page.locator("#units button")
    assert units.all_text_contents() == [text for text, _ in told["models"][0]["tokens"]]
    assert units.last.get_attribute("aria-pressed") == "true"
    for name, model in zip((A, B), told["models"], strict=True):
        wanted = [(model["names"][i].replace("\n", "↵"), p) for i, p in model["predictions"][-1]]
        shown = tab.predictions(name)
        assert len(shown) == 6
        for (token, said), (text, p) in zip(shown, wanted, strict=False):
            assert token.strip() == text.strip() and said == f"{100 * p:.1f}%"


def test_homologs_are_joined_by_a_line(tab: Asked, desk: Desk) -> None:
    told = desk.answer("read", {"text": TEXT})
    most = max(range(len(told["units"])), key=lambda at: told["units"][at]["n_links"])
    tab.page.locator("#units button").nth(most).click()
    links = told["units"][most]["links"]
    rows = tab.page.locator("#links li:not(.heads)").all()
    assert len(rows) == len(links) > 0
    for row, (a, b, r, x, y) in zip(rows, links, strict=True):
        ends = row.locator(".feature")
        assert [end.get_attribute("data-key") for end in ends.all()] == [a, b]
        assert f"{x:.2f}" in ends.first.inner_text() and f"{y:.2f}" in ends.last.inner_text()
        line = row.locator(".joined")
        assert line.inner_text() == f"r {r:.2f}"
        box, left, right = (each.bounding_box() for each in (line, ends.first, ends.last))
        assert box and left and right
        assert box["x"] <= left["x"] + left["width"] + 1 and box["width"] > 10
        assert box["x"] + box["width"] >= right["x"] - 1
    assert f"{told['units'][most]['n'][0]} fire in {A}" in tab.text("#firing-says")


def test_the_slider_changes_one_model_and_shows_before_and_after(tab: Asked, desk: Desk) -> None:
    before = {name: tab.predictions(name) for name in (A, B)}
    first = tab.page.locator("#others .feature, #links .feature").first
    side, key = (first.get_attribute(f"data-{name}") for name in ("side", "key"))
    assert side is not None and key is not None
    first.click()
    own, other = (A, B) if side == "0" else (B, A)
    layer, feature = map(int, key.split("/"))
    assert tab.text("#changing-title") == f"Layer {layer}, feature {feature} of {own}"
    question = {"text": TEXT, "model": own, "layer": layer, "feature": feature}
    count = tab.count
    tab.page.get_by_role("button", name="Take it out").click()
    tab.answered(count + 1)
    told = desk.answer("change", question | {"times": 0})
    for (token, said), (i, p, q) in zip(
        tab.predictions(own), told["predictions"][-1], strict=False
    ):
        assert token.strip() == told["names"][i].strip()
        assert said == f"{100 * p:.1f}% → {100 * q:.1f}%"
    assert tab.predictions(other) == before[other]
    assert "not changed" in tab.text(f"[aria-label='Predictions of {other}'] h3")
    assert "activation here is now 0.00" in tab.text("#outcome")
    # the slider itself, to a multiple
    count = tab.count
    tab.page.locator("#amount").fill("4")
    tab.answered(count + 1)
    told = desk.answer("change", question | {"times": 4})
    p, q = told["predictions"][-1][0][1:]
    assert tab.predictions(own)[0][1] == f"{100 * p:.1f}% → {100 * q:.1f}%"
    assert tab.text("#amount-says") == "\u00d7 4"
    # chosen again it is left alone
    tab.page.locator(f".feature[data-side='{side}'][data-key='{key}']").first.click()
    assert {name: tab.predictions(name) for name in (A, B)} == before


def test_a_value_can_be_set_at_one_token(tab: Asked, desk: Desk) -> None:
    tab.page.locator("#units button").nth(3).click()
    feature = tab.page.locator("#firing .feature").first
    side, key = (feature.get_attribute(f"data-{name}") for name in ("side", "key"))
    feature.click()
    for choose in ("Set to a value", "only at"):
        count = tab.count
        tab.page.get_by_label(choose).check()
        tab.answered(count + 1)
    value = float(tab.page.locator("#amount").input_value())
    assert value > 0
    question = {"text": TEXT, "model": (A, B)[int(side or 0)], "token": 3, "value": 2 * value}
    layer, number = map(int, (key or "").split("/"))
    count = tab.count
    tab.page.locator("#amount").evaluate(
        "(slider, value) => { slider.max = 99; slider.step = 'any'; slider.value = value;"
        " slider.dispatchEvent(new Event('input', { bubbles: true })) }",
        2 * value,
    )
    tab.answered(count + 1)
    told = desk.answer("change", question | {"layer": layer, "feature": number})
    assert f"is now {told['activations'][3]:.2f}" in tab.text("#outcome")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, EVIL),
        ("a\0b\u0007", "a␀b␇"),
        ("\u202eabc\u2066\u200b", "<202E>abc<2066><200B>"),
        ("half \ud83d of it", "half \ufffd of it"),
        ("one\ntwo\tthree", "one↵two⇥three"),
        ("</textarea></script>'\"&amp;", "</textarea></script>'\"&amp;"),
        ("W" * 200, "W" * 200),
    ],
    ids=range(7),
)
def test_hostile_text_shows_as_text(tab: Asked, text: str, shown: str) -> None:
    tab.read(text)
    assert tab.page.locator("#problem").is_hidden(), tab.text("#problem")
    assert "".join(tab.page.locator("#units button").all_text_contents()) == shown
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("main img").count() == 0
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_refusal_is_said_and_the_page_goes_on(tab: Asked) -> None:
    assert tab.page.locator("#problem").is_hidden()
    tab.read("word " * 350)
    assert "256 are read at most. Shorten it." in tab.text("#problem")
    assert tab.page.locator("#said").is_hidden()  # it is of the text before
    assert [said for said in tab.said if "400" not in said] == []
    tab.said.clear()  # which the browser says of the refusal
    tab.read("a king")
    assert tab.page.locator("#problem").is_hidden()
    assert tab.text("#next-title") == "Next token after  king"


def test_the_report_leads_there_and_back(chromium: Browser, address: str, prompt: Prompt) -> None:
    page = chromium.new_context().new_page()
    page.goto(f"{address}{START_PAGE}")
    assert page.get_by_role("link", name="A prompt to try").count() == 0
    page.goto(f"{address}{START_PAGE}?token={prompt.token}")
    page.get_by_role("link", name="A prompt to try").click()
    page.wait_for_url(f"**{prompt.page}")
    page.get_by_role("link", name="Report").click()
    page.wait_for_url(f"**{START_PAGE}")
    assert page.get_by_role("link", name="A prompt to try").count() == 1
    page.context.close()


def test_pages_from_the_file_system_have_no_link(chromium: Browser, run: RunFolder) -> None:
    page = chromium.new_page()
    page.goto((run.path / START_PAGE[1:]).as_uri())
    assert page.get_by_role("link", name="A prompt to try").count() == 0
    page.close()


def test_two_tokenizers(chromium: Browser, run_of_two: RunFolder, desk_of_two: Desk) -> None:
    prompt, text = Prompt(desk_of_two), "a kïng 😀 of three lands"
    with served(run_of_two.path, prompt) as address:
        tab = Asked(chromium, address, prompt)
        tab.read(text)
        told = desk_of_two.answer("read", {"text": text})
        for side, model in enumerate(told["models"]):
            lines = tab.page.locator(f"#units .model-{side}").all()
            assert len(lines) == len(told["units"])
            for line, unit in zip(lines, told["units"], strict=True):
                first, last = unit["tokens"][2 * side : 2 * side + 2]
                parts = [part for part, _ in model["tokens"][first : last + 1]]
                assert line.locator("i").all_text_contents() == parts
        assert "stretch of text" in tab.text("#read-says")
        assert tab.said == []
        tab.page.close()


def test_one_of_several_pairs_is_chosen(chromium: Browser, run: RunFolder, desk: Desk) -> None:
    (pair,) = desk.pairs
    a, b = pair.partners.sides
    turned = Pair((B, A), Partners((b, a)), pair.one_text)
    prompt = Prompt(replace(desk, pairs=[pair, turned]))
    with served(run.path, prompt) as address:
        tab = Asked(chromium, address, prompt)
        first = {name: tab.predictions(name) for name in (A, B)}
        count = tab.count
        tab.page.locator("[name=pair]").select_option(label=f"{B} and {A}")
        tab.answered(count + 1)
        assert {name: tab.predictions(name) for name in (A, B)} == first
        names = tab.page.locator("#next h3").all_text_contents()
        assert names == [B, A] and tab.said == []
        tab.page.close()


@pytest.mark.parametrize("seen_as", SEEN_AS, ids=["desktop", "phone"])
def test_it_is_accessible_and_fits(
    chromium: Browser, address: str, prompt: Prompt, seen_as: dict
) -> None:
    tab = Asked(chromium, address, prompt, **seen_as)
    assert faults(tab.page) == []
    tab.page.locator("#firing .feature").first.click()
    count = tab.count
    tab.page.get_by_role("button", name="Take it out").click()
    tab.answered(count + 1)
    assert faults(tab.page) == []
    width = seen_as["viewport"]["width"]
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.read("x" * 3000)
    assert tab.page.locator("#problem").is_visible() and faults(tab.page) == []
    tab.page.close()


def test_what_is_missing_is_said(chromium: Browser, run: RunFolder, tmp_path: Path) -> None:
    prompt = Prompt(None, f"models are gone {EVIL}")
    with served(run.path, prompt) as address:
        tab = Watched(chromium, address + prompt.page)
        assert f"models are gone {EVIL}" in tab.text(".verdict")
        assert tab.page.locator("textarea").count() == 0 and faults(tab.page) == []
        assert tab.page.evaluate("window.hacked") is None
        tab.page.get_by_role("link", name="Report").first.click()
        tab.page.wait_for_url(f"**{START_PAGE}")
        tab.page.close()


def test_keys_go_from_token_to_token(tab: Asked) -> None:
    units = tab.page.locator("#units button")
    units.last.focus()
    tab.page.keyboard.press("ArrowLeft")
    pressed = tab.page.locator("#units button[aria-pressed=true]")
    assert pressed.get_attribute("data-unit") == str(units.count() - 2)
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
