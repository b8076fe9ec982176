"""What the newcomer trials share: an empty environment, and the commands of the pages, as they stand there.

A trial installs the package as a page says into an environment that has nothing, with an empty home, and then does what
the page says, in a folder with the user's own files. Only sizes are made smaller. Options of each trial:

    --here    the environment that runs the trial, instead of a new one
    --show    print what would be done, and do nothing
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What is large on the pages.
SMALLER = (
    (r"--updates \d+", "--updates 60"),
    (r"--steps \d+", "--steps 50"),
    (r"\.step\(100000\)", ".step(1000)"),
    (r"\.step\(25000\)", ".step(50)"),
    (r'"md\.dcd", 500', '"md.dcd", 50'),
    (r'"learned\.dcd", 125', '"learned.dcd", 25'),
    (r'--budget "\d+ calls"', '--budget "500 calls"'),
    (r"--target [\d.]+", "--target 1"),
)
_KEPT = re.compile(r"(PIP_.*|(https?|no|all)_proxy|SSL_CERT_.*|REQUESTS_CA_BUNDLE)", re.IGNORECASE)


class Newcomer:
    """A user with an empty home, who reads pages and types what they say.

    Attributes
    ----------
    folder : Path
        Where the user works, with the user's own files.
    """

    def __init__(self, folder: Path, *, here: bool, show: bool):
        self.folder, self.show = folder / "work", show
        home, self.clone = folder / "home", folder / "fastegnn_md"
        for new in (self.folder, home):
            new.mkdir()
        scripts = Path(sys.executable).parent
        self.environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
        self.environment |= {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENMM_DEFAULT_PLATFORM": "CPU",
        }
        self.installs = not (here or show)
        if self.installs:
            subprocess.run(["git", "clone", "-q", ROOT, self.clone], check=True)
            # the tested versions; a user may have newer ones
            self.environment["PIP_CONSTRAINT"] = str(self.clone / "constraints.txt")
            scripts = folder / "environment" / "bin"
            base = getattr(sys, "_base_executable", sys.executable)
            made = subprocess.run([base, "-m", "venv", scripts.parent], capture_output=True, check=False)
            if made.returncode:  # Debian's Python has pip and no ensurepip
                subprocess.run([base, "-m", "venv", "--clear", "--without-pip", scripts.parent], check=True)
                pip = [base, "-m", "pip", "-q", "--python", scripts / "python", "install", "pip"]
                subprocess.run(pip, check=True, env=self.environment | {"PATH": os.environ["PATH"]})
        self.environment["PATH"] = os.pathsep.join((str(scripts), "/usr/local/bin", "/usr/bin", "/bin"))

    def install(self, page: str) -> None:
        """What README and a page say of the installation: torch, and the extras that the page needs."""
        torch = block("README.md", "console", "pip install torch").splitlines()[0]
        for line in (torch, block(page, "console", "pip install -e")):
            if self.installs or self.show:
                self._run(line, self.clone)

    def types(self, page: str, containing: str) -> None:
        """Run the block of commands of a page that has these words."""
        for line in block(page, "console", containing).replace("\\\n", " ").splitlines():
            self._run(line, self.folder)

    def saves(self, page: str, containing: str, file: str) -> None:
        """Save the Python block of a page that has these words as a file."""
        code = block(page, "python", containing)
        if self.show:
            print(f"# {file}\n{textwrap.indent(code, '    ')}")
        else:
            (self.folder / file).write_text(code, encoding="utf-8")

    def runs(self, file: str) -> None:
        """Run a Python file in the user's folder."""
        self._run(f"python {file}", self.folder)

    def makes(self, what: Callable[[Path], None]) -> None:
        """Files that the user has before reading anything; the function runs in the new environment."""
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
        program += f"import own_files; own_files.{what.__name__}(Path('.'))"
        if not self.show:
            subprocess.run(["python", "-c", program], cwd=self.folder, env=self.environment, check=True)

    def expects(self, *files: str) -> None:
        """Stop unless these files have come into being."""
        missing = [file for file in files if not (self.show or (self.folder / file).is_file())]
        if missing:
            sys.exit(f"not made: {', '.join(missing)}")

    def _run(self, line: str, folder: Path) -> None:
        print(f"$ {' '.join(line.split())}", flush=True)
        if not self.show:
            done = subprocess.run(["bash", "-c", line], cwd=folder, env=self.environment, check=False, timeout=1800)
            # 3: the run is done, and is not to be trusted: models of a minute's training are not
            if done.returncode not in (0, 3):
                sys.exit(f"exit code {done.returncode}")


def block(page: str, language: str, containing: str, smaller: Iterable[tuple[str, str]] = SMALLER) -> str:
    """The one block of a page in a language that has these words, with smaller numbers.

    Raises
    ------
    LookupError
        If not exactly one block has them.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    found = [textwrap.dedent(code) for code in found if containing in code]
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} {language} blocks with {containing!r}")
    for pattern, replacement in smaller:
        found = [re.sub(pattern, replacement, code) for code in found]
    return found[0]


def main(trial: Callable[[Newcomer], None]) -> None:
    """Run a trial from the command line."""
    parser = argparse.ArgumentParser(description=trial.__doc__)
    parser.add_argument("--here", action="store_true", help="in the environment of this Python")
    parser.add_argument("--show", action="store_true", help="print what would be done")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trial(Newcomer(Path(folder), here=given.here, show=given.show))
    if not given.show:
        print(f"done in {time.monotonic() - begun:.0f} s")
