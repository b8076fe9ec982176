"""Fixtures every test file may use, and components that are missing: failures in CI, lines at the end elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import locale
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from fastegnn_md._extras import how_to_get
from fastegnn_md.nn.compiler import find_compiler, has_headers
from fastegnn_md.nn.messages import cpu as cpu_kernel

# Deterministic examples and no time limit per example: a busy machine must not fail a test.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]
# Ours, and pytest.importorskip's.
MISSING = ("Skipped: missing:", "Skipped: could not import")
# "missing: WHAT (HOW)"; "elsewhere: WHAT (HOW)" is what has an environment of its own, and CI does without it here.
_NAMED = re.compile(r"(?:missing|elsewhere): (?P<what>.+?)(?: \((?P<how>.+)\))?$")
_NOT_IMPORTED = re.compile(r"could not import '(?P<what>\w+)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-missing",
        action="store_true",
        default=os.environ.get("CI", "").lower() == "true",
        help="a test skipped for a missing component is a failure (the default where CI=true)",
    )


def _forbid_missing(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    if config.getoption("no_missing") and reason.startswith(MISSING):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason} (not allowed with CI=true or --no-missing)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _forbid_missing(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _forbid_missing(report, collector.config)
    return report


def _left_out(reason: str) -> tuple[str, str] | None:
    """What a test was skipped for, and the command that brings it; None where nothing is missing."""
    found = _NAMED.search(reason)
    if found:
        return found["what"], found["how"] or ""
    found = _NOT_IMPORTED.search(reason)
    return (found["what"], how_to_get(found["what"])) if found else None


# Around pytest's own summary, so that these are the last lines.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    result = yield
    reports = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    counts = Counter(filter(None, (_left_out(longrepr[-1]) for longrepr in reports)))
    lines = [(what, f"{number} skipped", how) for (what, how), number in sorted(counts.items())]
    if "not slow" in (config.getoption("markexpr") or ""):
        lines.append(("slow tests", "deselected", "make test"))
    if lines:
        terminalreporter.section("left out, and how to get it")
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            row = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            terminalreporter.write_line(row.rstrip())
    return result


def _skip(component: str) -> None:
    """Skip a test for a component, in the form that the summary reads."""
    how = how_to_get(component)
    pytest.skip(f"missing: {component}" + (f" ({how})" if how else ""))


@pytest.fixture(scope="session")
def require() -> Callable[[str], ModuleType]:
    """``require("openmm.app")``: that module, or a skip where the component is not installed.

    Only an absent component skips; one that is there and fails to import is an error.
    """

    def _require(name: str) -> ModuleType:
        component = name.partition(".")[0]
        if importlib.util.find_spec(component) is None:
            _skip(component)
        return importlib.import_module(name)

    return _require


@pytest.fixture(scope="session")
def cxx(require: Callable[[str], ModuleType]) -> None:
    """What the C++ kernel is compiled with, or a skip."""
    if find_compiler() is None:
        _skip("C++ compiler")
    require("ninja")


@pytest.fixture(scope="session")
def inductor(cxx: None) -> None:
    """What ``torch.compile`` needs for the CPU, or a skip."""
    if not has_headers():
        _skip("headers of Python")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` beside the checkout, or a skip (a failure in CI) where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("missing: ../shared (reference data that the developers have beside the checkout)")
    return folder


@pytest.fixture(autouse=True)
def _locale_is_kept() -> Iterator[None]:
    """OpenCL on POCL sets the locale of the process to C, in which torch cannot read its own files."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    if locale.setlocale(locale.LC_ALL) != before:
        locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(autouse=True)
def _kernel_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that compiles the C++ kernel must not change how the next ones round."""
    monkeypatch.setattr(cpu_kernel, "_loaded", cpu_kernel._loaded)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and jumps by torch, as where there is no compiler."""
    monkeypatch.setattr("fastegnn_md.nn.native.network._plan", lambda shape, dtype: None)
