"""Pages are looked at in headless Chromium, as `make docs-look` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = Path(__file__).resolve().parents[2] / "docs" / "look.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def look(folder: Path) -> tuple[int, str]:
    """Exit code of docs/look.py for the pages of a folder, and what it says; skips without a browser."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no browser")
    done = subprocess.run([sys.executable, LOOK, folder], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def assert_looks_right(page: Path, folder: Path) -> None:
    """A page is no wider than its window, at two widths, light and dark, and its pictures load; copied to a folder."""
    folder.mkdir()
    shutil.copy(page, folder)
    code, said = look(folder)
    assert code == 0, said
