"""Types as a user of the installed package has them (``make type``).

Pyright's word on every name without an underscore: its type is written down or known.

A class is left out where its own base has no types, as those of MDAnalysis and OpenMM; its methods and attributes are
names of their own. So are functions of ``integrators.openmm``, whose arguments are such classes.

Mypy's word, as strict as it can be, on a script that uses the package: ``typed_user.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def main() -> int:
    """Names whose type is not known and what mypy says, a line each; 1 if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        # As it is installed: an editable installation is a hook of Python's imports, which Pyright does not call.
        package = Path(folder) / "fastegnn_md"
        shutil.copytree(ROOT / "fastegnn_md", package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
        shutil.copytree(ROOT / "integrators", package / "integrators", ignore=shutil.ignore_patterns("__pycache__"))
        command = [str(BIN / "pyright"), "--verifytypes", "fastegnn_md", "--ignoreexternal", "--outputjson"]
        # It asks the first Python of the path where packages are.
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": folder}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        shutil.copy(ROOT / ".ci/typed_user.py", folder)
        strict = [str(BIN / "mypy"), "--strict", "--follow-imports=silent", "--config-file=", "typed_user.py"]
        script = subprocess.run(strict, cwd=folder, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["typeCompleteness"]
    except (json.JSONDecodeError, KeyError):
        sys.exit(f"pyright gave no answer: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not found["symbols"]:
        sys.exit("pyright saw no names")
    unknown = [
        one
        for one in found["symbols"]
        if one["isExported"]
        and not one["isTypeKnown"]
        and one["category"] != "class"
        and not one["name"].startswith("fastegnn_md.integrators.openmm.")
    ]
    for one in unknown:
        for diagnostic in one["diagnostics"]:
            print(f"{one['name']}: {' '.join(diagnostic['message'].split())}")
    print(f"pyright: {len(found['symbols'])} names, {found['completenessScore']:.1%} of the types complete")
    print(f"mypy --strict on typed_user.py: {script.stdout}{script.stderr}", end="")
    return bool(unknown or script.returncode)


if __name__ == "__main__":
    sys.exit(main())
