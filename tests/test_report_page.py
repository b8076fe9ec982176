"""The one look of all reports: a frame for phones and dark rooms, explained figures, warnings that are seen."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from browser import look

from fastegnn_md.report.page import Picture, Section, Table, new_figure, write_report
from fastegnn_md.validation import CHECKS, Report
from fastegnn_md.validation.readings import READINGS
from fastegnn_md.validation.rows import Map, Plot, Row


@pytest.fixture
def picture(require) -> Picture:
    require("jinja2")
    require("matplotlib")
    figure, (axes,) = new_figure()
    axes.plot([0, 1], [1, 2])
    return Picture.of(figure, "The line should rise.")


def written(folder: Path, *sections: Section) -> str:
    write_report(folder / "page.html", "A <title>", "A summary.", sections)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_a_figure_has_its_explanation_below_it_and_for_those_who_do_not_see_it(picture, tmp_path):
    text = written(tmp_path, Section("One", figures=[picture]))
    assert "<figcaption>The line should rise.</figcaption>" in text
    assert 'alt="The line should rise."' in text


def test_warnings_stand_apart_and_nothing_is_taken_for_markup(picture, tmp_path):
    text = written(tmp_path, Section("One", ["WARNING: learning has not ended.", "1 < 2"]))
    assert '<p class="warning">WARNING: learning has not ended.</p>' in text
    assert "<p>1 &lt; 2</p>" in text
    assert "<h1>A &lt;title&gt;</h1>" in text


def test_a_table_without_names_of_columns_has_no_empty_head(picture, tmp_path):
    text = written(tmp_path, Section("One", tables=[Table([], [["atoms", 22]]), Table(["", "K"], [["H", 301.23456]])]))
    assert text.count("<thead>") == 1
    assert "<td>301.2</td>" in text


def test_large_numbers_are_written_out(picture, tmp_path):
    text = written(tmp_path, Section("One", tables=[Table(["", "s"], [["jumps", 12500], ["a nanosecond", 18840.4]])]))
    assert "<td>12,500</td>" in text
    assert "<td>18,840</td>" in text


def test_long_reports_have_contents_whose_links_lead_somewhere(picture, tmp_path):
    assert "<nav>" not in written(tmp_path, *(Section(str(k)) for k in range(4)))
    text = written(tmp_path, *(Section(str(k)) for k in range(5)))
    links = re.findall(r'href="#([^"]+)"', text)
    assert len(links) == 5
    assert all(f'id="{link}"' in text for link in links)


def test_every_row_of_a_validation_says_how_it_is_read():
    assert set(READINGS) == {check.name for check in CHECKS}
    assert all(text.endswith(".") and len(text.split()) < 40 for text in READINGS.values())


def judged() -> Report:
    """A report with everything that is drawn, and long words."""
    x = np.linspace(0, 1, 50)
    lines = {"reference": np.sin(x), "learned": np.cos(x)}
    rows = [
        Row("g(r)", "Radial distributions", "outside", 0.1, plots=(Plot(x, lines, "r, Å", "g(r)", {}),)),
        Row(
            "map", "φ and ψ", "within", 0.1, plots=(Map({"reference": np.eye(5), "learned": np.eye(5)}, "φ", "ψ", "F"),)
        ),
        Row("vdos", "Spectrum", "not measured", note="there are no velocities"),
    ]
    wide = Table([f"column {k}" for k in range(20)], [[float(k) for k in range(20)]])
    rows[0] = dataclasses.replace(rows[0], tables=(wide,))
    return Report("Validation", rows, {"training data": 8 * "666b0976f9c53de6", "atoms": 22})


def test_a_validation_says_how_its_rows_are_read_where_they_were_measured(picture, tmp_path):
    _, page = judged().write(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert READINGS["g(r)"] in text
    assert READINGS["vdos"] not in text
    assert "<td>vdos</td><td>Spectrum</td><td>There are no velocities.</td>" in text
    assert '<td class="outside">outside</td>' in text
    assert "<td>training data</td>" in text


@pytest.mark.slow
def test_reports_in_a_browser_are_no_wider_than_a_phone(picture, tmp_path):
    judged().write(tmp_path)
    code, said = look(tmp_path)
    assert code == 0, said
    (tmp_path / "report.html").write_text('<!DOCTYPE html><div style="width:900px">wide</div><img src="no.png">')
    code, said = look(tmp_path)
    assert code == 1
    assert "pixels wide: <div style=" in said
    assert "broken picture" in said
