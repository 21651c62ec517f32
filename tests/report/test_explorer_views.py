"""Reasons, cards, both activations on one text, and the map, as a browser shows them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser
from tests.report.pages import Tab
from tests.report.planted_features import (
    A,
    B,
    C,
    contexts_of,
    matches_of,
    planted,
    witnesses_of,
)

from homolog.record.tables import MATCHES


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features from 40 on fail by a test each, homologs are the further beyond controls the later.

    What controls explain of 41, 42 and 45 is 0.64, of which the token explains all, half and half,
    the partner's untrained twin 0.36, 0.36 and 0.61; another model's twin would explain 0.81.
    """
    fails = {40: "chance", 41: "controls, rival", 42: "controls", 43: "documents", 44: "rare"}
    fails |= {45: "controls"}
    feature = pl.col("feature")
    explained = pl.when(feature == 41).then(0.64).otherwise(0.32)
    matches = matches_of().with_columns(
        beyond=(feature / 1000).cast(pl.Float32),
        fails=pl.when("homolog")
        .then(pl.lit(""))
        .otherwise(feature.replace_strict(fails, default="rival")),
        token_r2=explained.cast(pl.Float32),
        control_r=pl.lit(0.8, pl.Float32),
    )
    of_b = pl.when(feature == 45).then(0.78).otherwise(0.6).cast(pl.Float32)
    untrained = [
        MATCHES.frame(matches.filter(comparison="rotated", model=A, best_model=B)).with_columns(
            comparison=pl.lit("random-model"), best_model=pl.lit(twin), r=r
        )
        for twin, r in (("mamba-random", of_b), ("rwkv-random", pl.lit(0.9, pl.Float32)))
    ]
    return planted(
        tmp_path_factory.mktemp("judged") / "explorer",
        matches=pl.concat([*untrained, matches]),
        controls={B: ["mamba-random", "mamba-s1"], C: ["rwkv-random"]},
    )


def test_it_opens_on_what_controls_explain_least_and_says_why_others_are_none(
    chromium: Browser, judged: Path
) -> None:
    tab = Tab(chromium, judged)
    first = tab.page.locator("#cards .card h2 a").all_text_contents()[:2]
    assert tab.text("#count") == "44 of 136 features" and first == ["0 / 39", "0 / 38"]
    tab.page.get_by_label("Rows").check()
    tab.wait("document.querySelectorAll('#features tbody tr').length > 0")
    assert tab.rows()[:2] == ["0 / 39", "0 / 38"]
    homolog = tab.page.get_by_role("combobox", name="Homolog", exact=True)
    for reason, row, words in (
        ("chance", "0 / 40", "no more than chance"),
        ("token", "0 / 41", "follows a token"),
        ("controls", "0 / 42", "controls explain it"),
        ("documents", "0 / 43", "other documents may differ"),
        ("rare", "0 / 44", "in too few documents"),
        ("untrained", "0 / 45", "an untrained model has it too"),
    ):
        homolog.select_option(reason)
        tab.wait("document.querySelector('#count').textContent === '1 of 136 features'")
        assert tab.rows() == [row] and f"homolog={reason}" in tab.hash
        cell = tab.page.locator("#features tbody td:last-child")
        assert cell.text_content() == words
        assert cell.get_attribute("title") == (
            "and has a nearer rival" if reason == "token" else None
        )
    homolog.select_option("rival")
    tab.wait("document.querySelector('#count').textContent === '85 of 136 features'")
    homolog.select_option("no")
    tab.wait("document.querySelector('#count').textContent === '90 of 136 features'")
    tab.page.get_by_role("button", name="Clear filters").click()
    tab.wait("document.querySelector('#count').textContent === '136 of 136 features'")
    for feature, words in (
        (41, "follows a token: r 0.800 with that alone, against r 0.795; its partner resembles"),
        (42, "controls explain it: r 0.800 with all of them, against r 0.790"),
        (45, "an untrained model has it too, r 0.780 against r 0.775"),
    ):
        tab.go(f"from={A}&to={B}&feature=0/{feature}")
        facts = tab.page.locator(".match dd").all_text_contents()
        assert any(fact.startswith(words) for fact in facts), facts
    assert tab.said == []
    tab.page.close()


def test_features_on_which_witnesses_disagree_are_listed(chromium: Browser, tmp_path: Path) -> None:
    index = planted(tmp_path, witnesses=witnesses_of())
    tab = Tab(chromium, index, f"#from={A}&to={B}&sort=feature&witnesses=verdict-weights")
    assert tab.rows() == ["0 / 1"]
    witnesses = tab.page.get_by_role("combobox", name="Witnesses")
    assert witnesses.locator("option").all_text_contents() == [
        "any",
        "all agree",
        "disagree",
        "verdict yes, weights no",
        "weights yes, verdict no",
        "words yes, verdict no",
    ]
    for asked, rows in (
        ("weights-verdict", ["0 / 3"]),
        ("disagree", ["0 / 1", "0 / 3"]),
        ("agree", ["0 / 0"]),  # of two or more: who speaks alone agrees with nobody
    ):
        witnesses.select_option(asked)
        tab.wait(f"document.querySelector('#count').textContent.startsWith('{len(rows)} of')")
        assert tab.rows() == rows and f"witnesses={asked}" in tab.hash
    tab.go(f"from={A}&to={B}&feature=0/3")
    facts = tab.page.locator(".match dd").all_text_contents()
    assert "verdict no, weights yes, words yes" in facts
    tab.go(f"from={A}&to={C}&witnesses=disagree")  # of whom nobody says anything
    assert not witnesses.is_visible() and tab.text("#count") == "136 of 136 features"
    assert tab.said == []
    tab.page.close()


def test_cards_say_the_match_and_show_two_contexts(chromium: Browser, judged: Path) -> None:
    tab = Tab(chromium, judged, f"#from={A}&to={B}&homolog=untrained")
    tab.page.get_by_role("radio", name="Cards").check()
    tab.wait("document.querySelectorAll('.card .context').length === 2")
    assert "view=cards" in tab.hash and not tab.page.locator("#features").is_visible()
    card = tab.page.locator(".card")
    assert card.locator("h2").text_content() == "0 / 45  the"
    assert card.locator(".to").text_content() == "→ 0 / 1  cat"
    assert card.locator("dl div").all_text_contents()[0] == "r0.775"
    assert card.locator(".reason").text_content() == (
        "an untrained model has it too, r 0.780 against r 0.775"
    )
    table = contexts_of(A, 0)
    assert table is not None
    strongest = table.filter(feature=45).sort("value", descending=True)
    shown = card.locator("mark.peak .spoken").all_text_contents()
    peaks = [float(text.strip(" ()")) for text in shown]
    wanted = strongest["value"].to_list()[:2]
    assert peaks == pytest.approx(wanted, abs=wanted[0] / 255)
    tab.page.reload()
    tab.wait("document.querySelectorAll('.card .context').length === 2")
    card.locator(".context").first.click()
    tab.wait("document.querySelector('h1').textContent.includes('layer 0, feature 45')")
    assert tab.said == []
    tab.page.close()


def test_cards_are_read_when_they_come_into_sight(chromium: Browser, index: Path) -> None:
    """Features 120 to 129 lie in two files, of which the second is out of sight."""
    sorted_by_place = f"#from={A}&to={B}&sort=feature&view=cards"
    tab = Tab(chromium, index, f"{sorted_by_place}&page=6", viewport={"width": 390, "height": 700})
    cards = [tab.page.locator(".card").nth(i) for i in range(16)]  # then 6 of layer 1
    tab.wait("document.querySelector('.card .context')")
    assert tab.page.locator(".card").count() == 16
    asked = {url.rsplit("/", 1)[1] for url in tab.asked if "/features/" in url}
    assert asked == {"0-0-0.js"}
    assert cards[9].locator(".glimpse").get_attribute("aria-busy") == "true"
    cards[9].scroll_into_view_if_needed()
    tab.wait("document.querySelectorAll('.card')[9].querySelector('.context')")
    assert any(url.endswith("/0-0-1.js") for url in tab.asked)
    assert tab.said == []
    tab.page.close()


def test_the_keyboard_goes_over_cards(chromium: Browser, index: Path) -> None:
    tab = Tab(chromium, index, f"#from={A}&to={B}&view=cards")
    page, focused = tab.page, "document.activeElement.textContent"
    tops = page.locator(".card").evaluate_all("cards => cards.map((card) => card.offsetTop)")
    beside = tops.count(tops[0])
    assert beside > 1
    first = page.locator(".card h2 a").all_text_contents()
    for key, at in (
        ("ArrowDown", 0),
        ("ArrowRight", 1),
        ("ArrowDown", 1 + beside),
        ("ArrowLeft", beside),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == first[at]
    page.keyboard.press("Enter")
    tab.wait("document.activeElement.id === 'title'")
    page.keyboard.press("Escape")
    tab.wait(f"{focused} === '{first[beside]}'")
    tab.page.close()


def test_both_activations_stand_over_each_other_on_the_same_text(tab: Tab) -> None:
    tab.go(f"from={A}&to={B}&feature=0/1")
    box = tab.page.locator(".same-text")
    assert box.locator("h4").all_text_contents() == [
        "Where both fire (2)",
        "Where this feature fires and its partner is silent (1)",
        "Where its partner fires and this feature is silent (1)",
    ]
    first = box.locator("li").first
    lines = [first.locator(".line").nth(i) for i in (0, 1)]
    texts = [line.locator(".context").text_content() for line in lines]
    assert texts == [" Paris (6.00) ", " Paris (3.00) "]
    assert [line.locator(".who").text_content() for line in lines] == [
        f"{A}up to 6.00",
        f"{B}up to 3.00",
    ]
    boxes = [line.locator(".context").bounding_box() for line in lines]
    assert boxes[0] and boxes[1]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["y"] < boxes[1]["y"]
    share = "mark => getComputedStyle(mark).getPropertyValue('--share')"
    shares = [float(line.locator("mark").evaluate(share)) for line in lines]
    assert shares == [1.0, 0.5]  # both have 6 for their largest shown
    silent = box.locator("ol").nth(2).locator(".line").first
    assert silent.locator(".who").text_content() == f"{A}silent"
    assert silent.locator("mark").count() == 0
    tab.go(f"from={A}&to={B}&feature=0/3")
    assert tab.page.locator(".same-text").count() == 0
    tab.go(f"from={B}&to={A}&feature=0/1")
    assert tab.page.locator(".same-text").count() == 0


def at_of(tab: Tab, x: float, y: float) -> tuple[float, float]:
    """Where on the map's canvas a point of the unit square stands, with the margin around it."""
    box = tab.page.locator("#map canvas").bounding_box()
    assert box
    inset = [0.02 + 0.96 * share for share in (x, 1 - y)]
    return inset[0] * box["width"], inset[1] * box["height"]


COLOUR_AT = """([x, y]) => {
    const map = document.querySelector('#map canvas'), scale = map.width / map.clientWidth;
    const one = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
    const pixel = one.getContext('2d', { willReadFrequently: true });
    pixel.drawImage(map, x * scale, y * scale, 1, 1, 0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data];
}"""


BOTTOM = (129 - 66) / 2 / 129  # of the planted places in their square


def painted(tab: Tab, address: str) -> None:
    tab.go(address)
    tab.wait("document.querySelector('#map canvas').width > 300")
    tab.page.wait_for_timeout(100)  # for the next frame


def test_points_of_the_map_open_the_features(tab: Tab) -> None:
    """Feature 100 of A in its layer 0, and 30 of B in its layer 2, where the planted places are."""
    painted(tab, f"from={A}&to={B}&view=map")
    assert tab.page.get_by_role("radio", name="Map").is_checked()
    assert not tab.page.locator("#features").is_visible()
    label = tab.page.locator("#map canvas").get_attribute("aria-label") or ""
    assert label.startswith(f"Map of features: 134 of {A} and 98 of {B}.")
    own, other = at_of(tab, 100 / 129, BOTTOM), at_of(tab, 30 / 129, BOTTOM + 66 / 129)
    first, second = (tab.page.evaluate(COLOUR_AT, list(at)) for at in (own, other))
    assert first[2] > first[0] and first[3] > 150  # blue, as theme.MODEL_COLOURS
    assert second[0] > second[2] and second[3] > 150  # orange
    assert tab.page.evaluate(COLOUR_AT, list(at_of(tab, 0.5, 0.95)))[3] == 0
    canvas = tab.page.locator("#map canvas")
    canvas.hover(position={"x": own[0], "y": own[1]})
    assert tab.text("#map .hint") == f"{A} 0 / 100  cat"
    canvas.click(position={"x": other[0], "y": other[1]})
    tab.wait(f"document.querySelector('h1').textContent === '{B}, layer 2, feature 30'")
    tab.page.keyboard.press("Escape")
    tab.wait("!document.querySelector('#map').closest('[hidden]')")
    assert "view=map" in tab.hash


def test_what_the_list_leaves_out_is_pale_on_the_map(tab: Tab) -> None:
    painted(tab, f"from={A}&to={B}&view=map&homolog=yes")  # features below 40
    listed, other = (
        tab.page.evaluate(COLOUR_AT, list(at_of(tab, f / 129, BOTTOM))) for f in (20, 100)
    )
    partner, no_partner = (
        tab.page.evaluate(COLOUR_AT, list(at_of(tab, f / 129, BOTTOM + 64 / 129))) for f in (1, 30)
    )
    assert listed[3] > 150 and 0 < other[3] < 60
    assert partner[3] > 150 and 0 < no_partner[3] < 60
    assert tab.text("#count") == "44 of 136 features"


def test_the_map_goes_closer_and_back(tab: Tab) -> None:
    painted(tab, f"from={A}&to={B}&view=map")
    canvas = tab.page.locator("#map canvas")
    x, y = at_of(tab, 100 / 129, BOTTOM)
    canvas.hover(position={"x": x, "y": y})
    tab.page.mouse.wheel(0, -100)
    tab.page.wait_for_timeout(100)
    canvas.hover(position={"x": x + 1, "y": y})  # what is under the pointer stays there
    assert tab.text("#map .hint") == f"{A} 0 / 100  cat"
    tab.page.get_by_role("button", name="Farther").click()
    tab.page.get_by_role("button", name="Farther").click()
    canvas.hover(position={"x": x, "y": y})
    assert tab.text("#map .hint") == f"{A} 0 / 100  cat"


def test_a_feature_and_its_partner_are_followed_through_their_layers(tab: Tab) -> None:
    """0 / 0 of A goes on as 1 / 5; its partner 0 / 1 in B as 2 / 1, to which it leads."""
    tab.go(f"from={A}&to={B}&feature=0/0")
    box = tab.page.locator(".through")
    lines = box.locator(".line")
    assert lines.locator(".who").all_text_contents() == [A, B]
    texts = [lines.nth(i).locator("li").all_text_contents() for i in (0, 1)]
    assert texts == [["0 / 0", "0.75 →1 / 5"], ["0 / 1", "0.90 →2 / 1"]]
    title = lines.nth(0).locator(".r").get_attribute("title")
    assert title == "r 0.75, cosine of the directions 0.38"
    assert lines.nth(0).locator("[aria-current]").text_content() == "0 / 0"
    lines.nth(0).locator("a").click()
    tab.wait(f"document.querySelector('h1').textContent === '{A}, layer 1, feature 5'")
    assert lines.nth(0).locator("li").all_text_contents() == ["0 / 0", "0.75 →1 / 5"]
    assert lines.nth(0).locator("[aria-current] b").text_content() == "1 / 5"
    assert f"from={A}&to={B}&feature=1/5" in tab.hash


def test_where_a_feature_is_born_or_dies_is_said(tab: Tab) -> None:
    tab.go(f"from={A}&to={B}&feature=1/3")
    own = tab.page.locator(".through .line").first
    assert own.locator("li").all_text_contents() == ["born here", "1 / 3"]
    end = own.locator(".end").get_attribute("title")
    assert end == "the nearest in layer 0 has r 0.10, cosine of the directions 0.05"
    tab.go(f"from={B}&to={A}&feature=0/7")  # r 0.3 is less than the half that counts
    assert own.locator("li").all_text_contents() == ["0 / 7", "dies here"]
    tab.go(f"from={A}&to={B}&feature=0/2")  # it is silent, and has no partner
    lines = tab.page.locator(".through .line")
    assert lines.count() == 1 and own.locator("li").all_text_contents() == ["0 / 2"]


def test_without_a_flow_nothing_is_said_of_layers(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = planted(tmp_path_factory.mktemp("still") / "explorer", flow=None)
    tab = Tab(chromium, index, f"#from={A}&to={B}&feature=0/0")
    assert tab.page.locator(".through").count() == 0 and tab.said == []
    assert not (index.parent / "data" / "flow").exists()
    tab.page.close()
