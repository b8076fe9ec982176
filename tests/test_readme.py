"""The first page: its commands, and that its numbers and its picture are those of the committed results."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What the first column of a row says, and the system.
ROWS = {
    "108 atoms": ("copper-emt", 108),
    "2,048 atoms": ("copper-emt", 2048),
    "GFN2-xTB": ("ethanol-xtb", 9),
    "GB": ("ala2-gbn2", 22),
    "vacuum": ("ala2-vacuum", 22),
}


@pytest.fixture(scope="module")
def picture(require):
    require("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("picture")


def test_both_commands_stand_on_the_first_screen():
    first = README.split("\n## ")[0]
    assert "make demo" in first
    assert "make test" in first


def test_every_page_of_the_docs_is_linked():
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} - {"docs/index.md"}  # the front page of the site
    assert pages <= set(re.findall(r"\((docs/[^)#]+)", README))


def test_gains_are_those_of_the_results(picture):
    gains = {(point.model, point.atoms): f"{point.gain:.2g} ×" for point in picture.points()}
    shown = {}
    for line in README.splitlines():
        for words, system in ROWS.items():
            if line.startswith("|") and words in line.split("|")[1]:
                shown[system] = line.split("|")[3].strip().strip("*")
    assert shown == gains


def test_the_gain_of_learning_from_nothing_is_that_of_the_results():
    costs = json.loads((ROOT / "benchmarks/results/learning_silicon.json").read_text(encoding="utf-8"))["costs"]
    gains = [float(f"{costs[f'{time} ps, extrapolated']['gain']:.2g}") for time in (50, 1000)]
    (row,) = [line for line in README.splitlines() if line.startswith("| CHGNet")]
    assert f"50 ps: {gains[0]:g} ×, 1 ns: {gains[1]:g} ×" in row


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_show_the_results(picture, theme):
    for name, kind, expected in (("gain", picture.Point, picture.points()), ("sampled", picture.Line, picture.lines())):
        drawn = ElementTree.parse(ROOT / "docs" / f"{name}-{theme}.svg").getroot()
        (description,) = drawn.iter("{http://purl.org/dc/elements/1.1/}description")
        assert [kind(**one) for one in json.loads(description.text)] == expected


def test_a_model_of_ones_own_pays_after_its_preparation(picture):
    trained, classical = picture.lines()[2:]
    assert trained.begins * classical.ns_per_minute == pytest.approx(picture.PREPARATION)
    page = (ROOT / "docs/generative.md").read_text(encoding="utf-8")
    assert f"cost as much as {picture.PREPARATION:.0f} ns of classical steps" in page


def test_no_label_of_the_picture_covers_another_or_a_point(picture):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = picture.draw(picture.points(), "light")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    renderer = canvas.get_renderer()
    marks = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts]
    marks += [("point", line.get_window_extent(renderer)) for line in axes.lines if line.get_marker() == "o"]
    marks += [("1 ×", line.get_window_extent(renderer)) for line in axes.lines if line.get_marker() != "o"]
    assert len(marks) == 19
    for text, box in marks[: len(axes.texts)]:
        assert axes.bbox.contains(box.x0, box.y0), text
        assert axes.bbox.contains(box.x1, box.y1), text
    touching = {(a, b) for i, (a, one) in enumerate(marks) for b, two in marks[:i] if one.overlaps(two)}
    assert touching <= {("1 ×", "point")}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "fastegnn_md"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all("name" in author or {"family-names", "given-names"} <= set(author) for author in work["authors"])
