"""What pages name outside docs/: files of the repository become downloads, README and its like pages of the site.

The pages stand on their own in the repository, where their links lead to files; here the links are turned into those of
the site before MyST reads them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# Files of the root that are pages here. The text of those but README comes from the file.
HOMES = {
    "README.md": "index",
    "CONTRIBUTING.md": "project/contributing",
    "CHANGELOG.md": "project/changelog",
    "SECURITY.md": "project/security",
}
_LINK = re.compile(r"\]\((?!https?://|mailto:|path:|#)([^)#\s]+)(#[^)\s]*)?\)")
_PICTURE = re.compile(
    r'<picture>.*?srcset="(?P<dark>[^"]+)".*?alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)".*?</picture>', re.DOTALL
)


def _target(found: re.Match[str], written_in: Path, page_in: Path) -> str:
    path, anchor = (written_in / found[1]).resolve(), found[2] or ""
    home = HOMES.get(os.path.relpath(path, ROOT))
    if home:
        return f"]({os.path.relpath(DOCS / home, page_in)}.md{anchor})"
    if path.is_relative_to(DOCS):
        return f"]({os.path.relpath(path, page_in)}{anchor})"
    return f"](path:{os.path.relpath(path, page_in)})"


def _pictures(found: re.Match[str]) -> str:
    shown = ((found["light"], "only-light"), (found["dark"], "only-dark"))
    return "\n\n".join(f"```{{image}} {file}\n:alt: {found['alt']}\n:class: {when}\n```" for file, when in shown)


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    page_in = written_in = (DOCS / page).parent
    if Path(app.env.doc2path(page)).suffix != ".md":
        return
    taken = {home: file for file, home in HOMES.items() if home != "index"}.get(page)
    if taken:
        source[0], written_in = (ROOT / taken).read_text(encoding="utf-8"), ROOT
        app.env.note_dependency(str(ROOT / taken))
    text = _LINK.sub(lambda found: _target(found, written_in, page_in), source[0])
    source[0] = _PICTURE.sub(_pictures, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Extension of Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
