"""The files that users of the trials have before they read a page. Run in the environment of the trial."""

from __future__ import annotations

from pathlib import Path

# Butane with the alkane parameters of CHARMM: carbons C1 to C4, then the hydrogens of each.
_CARBONS = ("CT3", "CT2", "CT2", "CT3")
_CHARGES = {"CT3": -0.27, "CT2": -0.18, "HA": 0.09}
_MASSES = {"CT3": 12.011, "CT2": 12.011, "HA": 1.008}
_PARAMETERS = """* alkanes
*

ATOMS
MASS 1 HA 1.008
MASS 2 CT2 12.011
MASS 3 CT3 12.011

BONDS
CT2 CT2 222.5 1.530
CT3 CT2 222.5 1.528
HA CT2 309.0 1.111
HA CT3 322.0 1.111

ANGLES
CT3 CT2 CT2 58.0 115.0 8.0 2.561
HA CT2 HA 35.5 109.0 5.4 1.802
HA CT3 HA 35.5 108.4 5.4 1.802
HA CT2 CT2 26.5 110.1 22.53 2.179
HA CT2 CT3 34.6 110.1 22.53 2.179
HA CT3 CT2 34.6 110.1 22.53 2.179

DIHEDRALS
X CT2 CT2 X 0.19 3 0.0
X CT3 CT2 X 0.16 3 0.0

NONBONDED
HA 0.0 -0.022 1.32
CT2 0.0 -0.055 2.175
CT3 0.0 -0.08 2.06

END
"""


def molecule_of_xyz(folder: Path) -> None:
    """molecule.xyz: methyl formate."""
    from ase.build import molecule

    molecule("HCOOCH3").write(folder / "molecule.xyz")


def structure_of_peptide(folder: Path) -> None:
    """topology.pdb: alanine dipeptide."""
    from importlib.resources import files

    text = files("fastegnn_md").joinpath("assets", "ala2.pdb").read_text(encoding="utf-8")
    (folder / "topology.pdb").write_text(text, encoding="utf-8")


def psf_and_dcd(folder: Path) -> None:
    """topology.psf, md.dcd and parameters.prm: butane at 300 K, a frame every 0.1 ps."""
    from ase.build import molecule
    from openmm import LangevinMiddleIntegrator, app, unit

    atoms = molecule("trans-butane")
    carbons = [atom.index for atom in atoms if atom.symbol == "C"]
    chain = [min(carbons, key=lambda one: -atoms.get_distances(one, carbons).max())]
    while len(chain) < len(carbons):
        chain.append(min(set(carbons) - set(chain), key=lambda one: atoms.get_distance(chain[-1], one)))
    order, bonds = list(chain), [(1, 2), (2, 3), (3, 4)]
    types = list(_CARBONS)
    for hydrogen in (atom.index for atom in atoms if atom.symbol == "H"):
        order.append(hydrogen)
        types.append("HA")
        bonds.append((1 + int(atoms.get_distances(hydrogen, chain).argmin()), len(order)))
    (folder / "topology.psf").write_text(_psf(types, bonds), encoding="utf-8")
    (folder / "parameters.prm").write_text(_PARAMETERS, encoding="utf-8")

    psf = app.CharmmPsfFile(str(folder / "topology.psf"))
    parameters = app.CharmmParameterSet(str(folder / "parameters.prm"))
    system = psf.createSystem(parameters, constraints=app.HBonds)
    integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 2 * unit.femtoseconds)
    simulation = app.Simulation(psf.topology, system, integrator)
    simulation.context.setPositions(atoms.positions[order] * unit.angstrom)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin)
    simulation.reporters.append(app.DCDReporter(str(folder / "md.dcd"), 50))
    simulation.step(2000)


def _psf(types: list[str], bonds: list[tuple[int, int]]) -> str:
    near: dict[int, list[int]] = {}
    for one, other in bonds:
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    angles = [(a, b, c) for b in near for a in near[b] for c in near[b] if a < c]
    dihedrals = [(a, b, c, d) for b, c in bonds for a in near[b] for d in near[c] if c != a != d != b]
    names = [f"{kind[0]}{number}" for number, kind in enumerate(types, start=1)]
    lines = ["PSF", "", "       1 !NTITLE", " REMARKS butane", "", f"{len(types):8d} !NATOM"]
    for number, (name, kind) in enumerate(zip(names, types, strict=True), start=1):
        lines.append(
            f"{number:8d} BUT  1    BUTA {name:<4} {kind:<4} {_CHARGES[kind]:10.6f} {_MASSES[kind]:13.4f}           0"
        )
    sections = (("NBOND: bonds", bonds, 4), ("NTHETA: angles", angles, 3), ("NPHI: dihedrals", dihedrals, 2))
    for title, entries, on_a_line in sections:
        lines += ["", f"{len(entries):8d} !{title}"]
        for start in range(0, len(entries), on_a_line):
            lines.append("".join(f"{atom:8d}" for entry in entries[start : start + on_a_line] for atom in entry))
    for title in ("NIMPHI: impropers", "NDON: donors", "NACC: acceptors", "NNB"):
        lines += ["", f"{0:8d} !{title}", ""]
    return "\n".join(lines) + "\n"
