"""A frozen run of ``learn.py`` beside classical dynamics of ``reference.py``: rows of ``fastegnn_md.validation``.

    python benchmarks/learning/judge.py silicon RUNS

The reference is cut into thirds that stand for independent runs; a row is within if the distance of the learned run to
all of the reference is no larger than 1.5 times the mean distance of a third to the other two. Prints the rows, and
writes RUNS/silicon-judgement.json (and .html).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ase.io import read, write
from MDAnalysis import AtomGroup
from systems import SYSTEMS

from fastegnn_md import load
from fastegnn_md.data import load_universe
from fastegnn_md.validation import CHECKS, validate

_ROWS = ("temperature", "equipartition", "g(r)", "h(r)", "vdos", "vdos-dx", "msd")
_PIECES = 3


def atoms_of(path: Path, spacing: float) -> AtomGroup:
    """The atoms of an ASE trajectory with frames ``spacing`` fs apart."""
    return load_universe(path, path, dt=1e-3 * spacing).atoms


def thirds(path: Path, spacing: float) -> list[AtomGroup]:
    """Pieces of a trajectory, each as a file beside it."""
    frames = read(path, index=":")
    length, pieces = len(frames) // _PIECES, []
    for k in range(_PIECES):
        piece = path.with_name(f"{path.stem}-third-{k}.traj")
        write(piece, frames[k * length : (k + 1) * length])
        pieces.append(atoms_of(piece, spacing))
    return pieces


def main() -> None:
    """Judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", default="learned", help="RUNS/SYSTEM-NAME.traj and .safetensors are judged")
    options = parser.parse_args()
    system = SYSTEMS[options.system]
    base = options.runs / f"{options.system}-{options.name}"
    report = validate(
        load(base.with_suffix(".safetensors")),
        thirds(options.runs / f"{options.system}-classical.traj", system.saved),
        [atoms_of(base.with_suffix(".traj"), system.lag)],
        temperature=system.temperature,
        classical_timestep=1e-3 * system.timestep,
        checks=[check for check in CHECKS if check.name in _ROWS],
    )
    print(report.to_text())
    page = base.with_name(f"{base.name}-judgement")
    report.write(page)
    rows = {row.name: row.to_dict() for row in report.rows if row.verdict != "not measured"}
    page.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
