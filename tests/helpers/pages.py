"""Blocks of the pages of the documentation that tests run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def blocks(page: Path, language: str, smaller: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Blocks of one language from first to last, with what is large in them replaced (regular expressions)."""
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for pattern, replacement in smaller:
        found = [re.sub(pattern, replacement, block) for block in found]
    return found
