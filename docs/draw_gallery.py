"""Draw a picture of what each example made: `make gallery` runs the examples, then this file.

    python docs/draw_gallery.py examples-output

reads examples-output/NAME for each examples/NAME.py and writes docs/pictures/NAME.svg, for light and dark pages. Names
may follow, to draw only some.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURES = Path(__file__).parent / "pictures"
ALA2 = str(files("fastegnn_md") / "assets" / "ala2.pdb")
INK, CLASSICAL, LEARNED = "#7d8590", "#e08a1e", "#3b8eea"  # can be read on white and on black


def ase_copper(made: Path, axes: Axes) -> None:
    """Potential energy over time, classical and learned."""
    from ase.io import read

    frames = {name: read(made / f"{name}.traj", ":") for name in ("classical", "learned")}
    times = {"classical": 0.05, "learned": 0.1}  # ps between frames
    for name, colour in (("classical", CLASSICAL), ("learned", LEARNED)):
        energies = [frame.get_potential_energy() for frame in frames[name]]
        axes.plot(times[name] * np.arange(len(energies)), energies, color=colour, label=name)
    axes.set(xlabel="time / ps", ylabel="potential energy / eV")


def openmm_ala2(made: Path, axes: Axes) -> None:
    """Temperature over time."""
    from ase.io import read

    kelvin = [frame.get_temperature() for frame in read(made / "learned.traj", ":")]
    axes.plot(0.008 * np.arange(len(kelvin)), kelvin, color=LEARNED, linewidth=1, label="jumps of 8 fs")
    axes.axhline(300, color=INK, linewidth=1, label="thermostat")
    axes.set(xlabel="time / ps", ylabel="temperature / K")


def openmm_hybrid(made: Path, axes: Axes) -> None:
    """Potential energy over time."""
    _, time, energy, _ = np.loadtxt(made / "state.csv", delimiter=",").T
    axes.plot(time, energy, color=LEARNED, linewidth=1, label="ten classical steps and a jump in turn")
    axes.set(xlabel="time / ps", ylabel="potential energy / kJ/mol")


def openmm_replicas(made: Path, axes: Axes) -> None:
    """Torsions of the classical run and of all replicas."""
    for name, colour, size in (("classical", CLASSICAL, 5), ("replica", LEARNED, 14)):
        angles = [torsions(path) for path in sorted(made.glob(f"{name}*.dcd"))]
        label = "classical" if name == "classical" else f"{len(angles)} replicas"
        axes.scatter(*np.concatenate(angles).T, s=size, color=colour, linewidths=0, label=label)
    axes.set(xlabel="φ / °", ylabel="ψ / °", xlim=(-180, 180), ylim=(-180, 180))


def mdanalysis_rollout(made: Path, axes: Axes) -> None:
    """Radial distributions."""
    from MDAnalysis import Universe
    from MDAnalysis.analysis.rdf import InterRDF

    for name, file, colour in (("classical", "reference.trr", CLASSICAL), ("learned", "rollout.xtc", LEARNED)):
        atoms = Universe(made / "argon.pdb", made / file).atoms
        found = InterRDF(atoms, atoms, nbins=60, range=(2.5, 8.0), exclusion_block=(1, 1)).run().results
        axes.plot(found.bins, found.rdf, color=colour, label=name)
    axes.set(xlabel="distance / Å", ylabel="g(r) of argon")


def position_only(made: Path, axes: Axes) -> None:
    """Distance from the start over time, beside the mean of the trajectory."""
    from MDAnalysis import Merge, Universe
    from MDAnalysis.analysis.rms import rmsd
    from MDAnalysisTests.datafiles import DCD, PSF

    trajectory = Universe(PSF, DCD)
    backbone = trajectory.select_atoms("backbone")
    jumps = Merge(backbone).load_new(str(made / "adk-rollout.dcd"))
    start = jumps.atoms.positions.copy()
    moved = [rmsd(jumps.atoms.positions, start, center=True, superposition=True) for _ in jumps.trajectory]
    # in the trajectory, from every tenth frame on: mean of as many frames later
    apart = np.zeros(len(moved))
    frames = np.array([backbone.positions for _ in trajectory.trajectory])
    for later in range(1, len(moved)):
        firsts = range(0, len(frames) - later, 10)
        apart[later] = np.mean([rmsd(frames[k + later], frames[k], center=True, superposition=True) for k in firsts])
    axes.plot(apart, "o-", color=CLASSICAL, label="trajectory, mean")
    axes.plot(moved, "o-", color=LEARNED, label="jumps")
    axes.set(xlabel="time / ps", ylabel="RMSD from the start / Å")


def learn_while_running(made: Path, axes: Axes) -> None:
    """Error of a jump over the simulated time."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    from fastegnn_md.integrators import LearningDynamics

    atoms = bulk("Cu", cubic=True) * 2
    atoms.calc = EMT()
    dynamics = LearningDynamics.restart(made / "copper.restart", atoms)
    rows = [row for row in dynamics.account.rows if np.isfinite(row.error)]
    time = 0.02 * np.cumsum([row.steps for row in dynamics.account.rows])[-len(rows) :]
    axes.plot(time, [row.error for row in rows], color=LEARNED, label="error of a jump")
    axes.axhline(dynamics.course.learning.target, color=INK, linewidth=1, label="target")
    axes.set(xlabel="time simulated / ps", ylabel="% of the thermal velocity")
    axes.set_ylim(0, None)


def torsions(file: Path) -> np.ndarray:
    """φ and ψ of alanine dipeptide, shape (frames, 2), degrees."""
    from MDAnalysis import Universe
    from MDAnalysis.analysis.dihedrals import Ramachandran

    return Ramachandran(Universe(ALA2, str(file)).select_atoms("resname ALA")).run().results.angles[:, 0]


DRAWN: dict[str, Callable[[Path, Axes], None]] = {
    one.__name__: one
    for one in (
        ase_copper,
        learn_while_running,
        openmm_ala2,
        openmm_hybrid,
        openmm_replicas,
        mdanalysis_rollout,
        position_only,
    )
}


def main(made: Path, names: list[str]) -> None:
    """Draw the pictures of these names, or all of them."""
    matplotlib.rcParams |= {"svg.hashsalt": "gallery", "font.size": 9}  # the same file from the same numbers
    for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        matplotlib.rcParams[name] = INK
    for name in names or DRAWN:
        figure = Figure(figsize=(5.0, 2.8), layout="constrained")
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        DRAWN[name](made / name, axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(PICTURES / f"{name}.svg", transparent=True, metadata={"Date": None, "Creator": None})
        print(PICTURES / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
