"""Look at the pages of a folder in headless Chromium: `make docs-look`, or `python docs/look.py FOLDER` for reports.

Each page is opened at 400 and 1,400 pixels, light and dark. A page fails if it is wider than its window, if a picture
does not load, or if a script of it fails. In the documentation site, the search must also find what it is asked for.
With ``--pictures FOLDER`` each view is kept as a PNG, to be looked at by a person.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

WIDTHS = (400, 1400)
SCHEMES = {"light": 1, "dark": 0}  # as Blink numbers them
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUERY = "audit"

# Pages are looked at inside a frame: a window of Chromium is never narrower than 500 pixels, a frame is.
_LOOKER = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="found">[]</pre><script>
const sleep = ms => new Promise(done => setTimeout(done, ms));
async function look(page) {
  const frame = document.createElement("iframe"), errors = [];
  frame.style = "border:0;height:900px;width:" + WIDTH + "px";
  await new Promise(done => { frame.onload = done; frame.src = page; document.body.append(frame);
                              frame.contentWindow.addEventListener("error", e => errors.push(e.message)); });
  const inside = frame.contentDocument, root = inside.documentElement;
  for (const image of inside.images) image.loading = "eager";
  for (let wait = 0; wait < 40; wait++) {
    const searching = page.includes("search.html?") && !inside.querySelector("ul.search li");
    if (!searching && [...inside.images].every(image => image.complete)) break;
    await sleep(50);
  }
  if (root.scrollWidth > frame.contentWindow.innerWidth) {
    const wide = [...inside.body.querySelectorAll("*")].filter(
      part => part.getBoundingClientRect().right > root.clientWidth + 1 && part.getBoundingClientRect().width);
    const last = wide.at(-1);
    errors.push("is " + root.scrollWidth + " pixels wide" + (last ? ": " + last.outerHTML.slice(0, 120) : ""));
  }
  for (const image of inside.images)
    if (!image.naturalWidth && getComputedStyle(image).display != "none") errors.push("broken picture " + image.src);
  if (page.includes("search.html?") && !inside.querySelector("ul.search li")) errors.push("the search finds nothing");
  const dark = frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches;
  if (dark != DARK) errors.push("the browser does not show the colours asked for");
  frame.remove();
  return errors;
}
(async () => {
  const found = [];
  for (const page of PAGES) for (const error of await look(page)) found.push([page, error]);
  document.getElementById("found").textContent = JSON.stringify(found);
  document.title = "done";
})();
</script>"""
_FRAME = (
    '<!DOCTYPE html><body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px">'
)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a server of a folder, on this machine only."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def browse(browser: str, scheme: str, *arguments: str) -> str:
    """What Chromium prints for these arguments."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--hide-scrollbars", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout


def main() -> int:
    """Look at a folder; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(
            f"no browser: one of {', '.join(BROWSERS)} must be on the PATH (`apt-get install chromium`)",
            file=sys.stderr,
        )
        return 2
    pages = sorted(page.relative_to(given.folder).as_posix() for page in given.folder.rglob("*.html"))
    if not pages:
        print(f"{given.folder} has no page", file=sys.stderr)
        return 2
    asked = [quote(page) for page in pages] + ([f"search.html?q={QUERY}"] if "search.html" in pages else [])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "site").symlink_to(given.folder.resolve())
        with served(root) as address:
            for scheme in SCHEMES:
                for width in WIDTHS:
                    settings = {"PAGES": [f"site/{page}" for page in asked], "WIDTH": width, "DARK": scheme == "dark"}
                    lines = "".join(f"const {name} = {json.dumps(value)};" for name, value in settings.items())
                    looker = _LOOKER.replace("<script>", f"<script>{lines}")
                    (root / "looker.html").write_text(looker, encoding="utf-8")
                    text = browse(
                        browser, scheme, "--virtual-time-budget=600000", "--dump-dom", f"{address}/looker.html"
                    )
                    done = re.search(r"<title>done</title>", text)
                    answer = re.search(r'<pre id="found">(.*?)</pre>', text, re.DOTALL)
                    if not (done and answer):
                        raise RuntimeError(f"the browser did not come to the end: {text[:500]}")
                    found += [(scheme, width, *each) for each in json.loads(html.unescape(answer[1]))]
                    for page in asked if given.pictures else ():
                        picture = given.pictures / f"{re.sub(r'[^a-z0-9]+', '-', page)}-{width}-{scheme}.png"
                        picture.parent.mkdir(parents=True, exist_ok=True)
                        (root / "frame.html").write_text(_FRAME.format(page=f"site/{page}", width=width, height=2400))
                        size = f"--window-size={max(width, 500)},2400"
                        browse(browser, scheme, size, f"--screenshot={picture}", f"{address}/frame.html")
    for scheme, width, page, error in found:
        print(f"{page.removeprefix('site/')}, {width} pixels, {scheme}: {error}")
    print(f"{len(asked)} pages, {len(WIDTHS)} widths, light and dark: {len(found)} faults")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
