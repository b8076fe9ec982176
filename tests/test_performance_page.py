"""The page on performance says what the committed results say, and each part of the measurement runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page(require):
    require("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("page")


def test_tables_are_those_of_the_results(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text


def test_the_first_page_has_the_gains_of_the_results(page):
    text = page.README.read_text(encoding="utf-8")
    assert page.with_gains(text) == text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_shows_the_results(page, theme):
    drawn = ElementTree.parse(ROOT / "docs" / f"jump-{theme}.svg").getroot()
    (description,) = drawn.iter("{http://purl.org/dc/elements/1.1/}description")
    assert json.loads(description.text) == page.points()


@pytest.mark.parametrize(
    ("limit", "measured", "least", "reached"),
    [(0.35, 0.3504, False, True), (0.35, 0.351, False, False), (3.5, 3.497, True, True), (3.5, 3.49, True, False)],
)
def test_a_goal_is_reached_if_the_number_that_is_shown_is_within_it(page, limit, measured, least, reached):
    goal = page.Goal("a jump", limit, " ms", lambda: measured, least)
    assert goal.reached is reached
    assert ("**not reached**" in goal.line()) is not reached


def test_a_table_without_a_place_is_noticed(page):
    with pytest.raises(ValueError, match="0 places for the table"):
        page.filled("# Performance\n")
