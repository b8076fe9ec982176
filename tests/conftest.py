"""Fixtures every test file may use, and the rule that in CI nothing is skipped for a missing component."""

from __future__ import annotations

import importlib
import importlib.util
import locale
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from fastegnn_md._extras import EXTRA_OF
from fastegnn_md.nn.messages import cpu as cpu_kernel

# Deterministic examples and no time limit per example: a busy machine must not fail a test.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]
# Ours, and pytest.importorskip's.
MISSING = ("Skipped: missing:", "Skipped: could not import")


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


@pytest.fixture(scope="session")
def require() -> Callable[[str], ModuleType]:
    """``require("openmm.app")``: that module, or a skip where the component is not installed.

    Only an absent component skips; one that is there and fails to import is an error.
    """

    def _require(name: str) -> ModuleType:
        component = name.partition(".")[0]
        if importlib.util.find_spec(component) is None:
            extra = EXTRA_OF.get(component)
            pytest.skip(f"missing: {component}" + (f" (pip install 'fastegnn-md[{extra}]')" if extra else ""))
        return importlib.import_module(name)

    return _require


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` beside the checkout, or a skip (a failure in CI) where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"missing: {folder} (reference data beside the checkout)")
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
