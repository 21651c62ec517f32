"""Colours: every one stands out, and has one counterpart in the dark."""

from __future__ import annotations

from homolog.charts import theme
from homolog.record.comparisons import COMPARISONS, SPARE_COLOURS, Comparison, register


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_stands_out_in_light_and_in_dark() -> None:
    own = [comparison.colour for comparison in COMPARISONS if comparison.colour is not None]
    marks = [*own, *SPARE_COLOURS, *theme.MODEL_COLOURS]
    for colours, least in ((marks, 3), ((theme.INK, theme.MUTED), 4.5)):
        for pair in colours:
            for colour, background in zip(pair, theme.BACKGROUND, strict=True):
                assert contrast(colour, background) >= least, pair
    every = [*marks, theme.INK, theme.MUTED, theme.GRID, theme.BACKGROUND]
    lights = [light for light, _ in every]
    assert len(set(lights)) == len(lights)  # each light colour has one dark counterpart
    assert dict(every).items() <= theme.dark_colours().items()


def test_a_comparison_from_elsewhere_has_a_dark_colour_too() -> None:
    colour = ("#123456", "#abcdef")
    new = Comparison("elsewhere", "baseline", "New", "words", lambda models: [], colour)
    register(new)
    try:
        assert theme.comparison_colour("elsewhere") == "#123456"
        assert theme.dark_colours()["#123456"] == "#abcdef"
    finally:
        COMPARISONS.remove(new)
