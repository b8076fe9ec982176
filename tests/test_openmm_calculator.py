"""OpenMMCalculator: the numbers of OpenMM, in ASE's units, or a clear refusal."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces

from fastegnn_md.engines.openmm import OpenMMCalculator, reduced_box
from fastegnn_md.errors import CompatibilityError, ConfigError, StateError

KJ_PER_MOL = 96.48533212331  # one eV in kJ/mol, CODATA 2018


@pytest.fixture(scope="module")
def openmm(require):
    return require("openmm")


@pytest.fixture(scope="module")
def peptide(require):
    """Alanine dipeptide: topology, System with constrained hydrogens, Atoms."""
    app, unit = require("openmm.app"), require("openmm.unit")
    import fastegnn_md

    pdb = app.PDBFile(f"{fastegnn_md.__path__[0]}/assets/ala2.pdb")
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds)
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    return pdb.topology, system, Atoms(numbers, positions=pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom))


def argon(openmm, n: int, periodic: bool, seed: int = 0):
    """A Lennard-Jones System and atoms at random places on a loose lattice."""
    system = openmm.System()
    force = openmm.NonbondedForce()
    for _ in range(n):
        system.addParticle(39.948)
        force.addParticle(0.0, 0.34, 0.996)
    if periodic:
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(0.5)
        force.setUseDispersionCorrection(False)
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(0.4)
        force.setReactionFieldDielectric(1.0)
    system.addForce(force)
    return system


def test_energy_and_forces_are_those_of_openmm(openmm, peptide):
    topology, system, atoms = peptide
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=1)
    atoms.calc = OpenMMCalculator(system, topology=topology, platform="Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / 10)
    state = context.getState(energy=True, forces=True)
    assert atoms.get_potential_energy() * KJ_PER_MOL == pytest.approx(state.getPotentialEnergy()._value, rel=1e-7)
    expected = state.getForces(asNumpy=True)._value / 10 / KJ_PER_MOL
    np.testing.assert_allclose(atoms.get_forces(), expected, rtol=1e-7, atol=1e-9)


def test_forces_are_the_derivative_of_the_energy(peptide):
    topology, system, atoms = peptide
    atoms = atoms.copy()
    atoms.rattle(0.03, seed=2)
    atoms.calc = OpenMMCalculator(system, topology=topology, platform="Reference")
    numerical = calculate_numerical_forces(atoms, eps=1e-5, iatoms=[0, 5, 21])
    np.testing.assert_allclose(atoms.get_forces()[[0, 5, 21]], numerical, atol=2e-6)


@pytest.mark.parametrize("left_handed", [False, True])
def test_any_triclinic_cell_is_evaluated_exactly(openmm, left_handed):
    """Against a sum over images, for a cell that OpenMM would refuse as it stands."""
    rng = np.random.default_rng(3)
    cell = 1.5 * rng.normal(size=(3, 3)) + 13 * np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if left_handed != (np.linalg.det(cell) < 0):
        cell[0] *= -1
    cell[2] += cell[0] - 2 * cell[1]
    fractions = (
        np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.2 * rng.random((27, 3))
    ) / 3
    atoms = Atoms("Ar27", positions=fractions @ cell + rng.integers(-2, 3, (27, 3)) @ cell, cell=cell, pbc=True)
    atoms.calc = OpenMMCalculator(argon(openmm, 27, periodic=True), platform="Reference")

    def lennard_jones(positions: np.ndarray) -> float:
        images = np.stack(np.meshgrid(*[range(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
        total = 0.0
        wrapped = (np.linalg.solve(cell.T, positions.T).T % 1) @ cell
        for i in range(27):
            r = np.linalg.norm(wrapped[i] - wrapped[:, None] - images, axis=-1).ravel()
            r = r[(r > 1e-9) & (r < 5.0)]
            s = np.clip((r - 4.0) / 1.0, 0, None)
            switch = 1 - 10 * s**3 + 15 * s**4 - 6 * s**5
            total += 0.5 * np.sum(4 * 0.996 * ((3.4 / r) ** 12 - (3.4 / r) ** 6) * switch)
        return total / KJ_PER_MOL

    assert atoms.get_potential_energy() == pytest.approx(lennard_jones(atoms.positions), rel=1e-8)
    moved = atoms.get_positions()
    direction = rng.normal(size=(27, 3))
    slope = (lennard_jones(moved + 1e-4 * direction) - lennard_jones(moved - 1e-4 * direction)) / 2e-4
    assert -np.vdot(atoms.get_forces(), direction) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    "cell",
    [
        np.diag([4.0, 5.0, 6.0]),
        [[3.0, 0, 0], [-1.5, 3 * np.sqrt(0.75), 0], [0, 0, 5.0]],
        [[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]],
        [[-3.0, 0, 0], [1.0, 4.0, 0], [0.3, 0.2, 5.0]],
    ],
    ids=["orthorhombic", "hexagonal", "fcc", "left-handed"],
)
def test_a_reduced_box_is_the_same_lattice_in_openmms_form(openmm, cell):
    cell = np.array(cell, dtype=float)
    box, turn = reduced_box(cell)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(turn) == pytest.approx(1.0)
    change = box @ turn @ np.linalg.inv(cell)
    np.testing.assert_allclose(change, np.round(change), atol=1e-12)
    assert abs(np.linalg.det(change)) == pytest.approx(1.0)
    system = openmm.System()
    system.addParticle(1.0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPeriodicBoxVectors(*(box / 10))  # raises if it is not in reduced form
    if np.array_equal(cell, np.diag(np.diag(cell))):
        np.testing.assert_array_equal(turn, np.eye(3))
        np.testing.assert_array_equal(box, cell)


def test_the_system_of_the_caller_is_left_alone(openmm):
    system = argon(openmm, 2, periodic=False)
    before = openmm.XmlSerializer.serialize(system)
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])
    atoms.calc = OpenMMCalculator(system, platform="Reference")
    energy = atoms.get_potential_energy()
    system.getForce(0).setParticleParameters(0, 0.0, 0.34, 50.0)
    atoms.positions[1, 0] += 1e-9
    assert atoms.get_potential_energy() == pytest.approx(energy)
    system.getForce(0).setParticleParameters(0, 0.0, 0.34, 0.996)
    assert openmm.XmlSerializer.serialize(system) == before


def test_a_copied_calculator_works_on_its_own(openmm):
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])
    atoms.calc = OpenMMCalculator(argon(openmm, 2, periodic=False), platform="Reference")
    energy = atoms.get_potential_energy()
    twin = copy.deepcopy(atoms)
    twin.calc.reset()
    assert twin.get_potential_energy() == energy
    assert twin.calc.context is not atoms.calc.context


def test_constraints_of_the_system_become_those_of_ase(peptide):
    topology, system, atoms = peptide
    constraint = OpenMMCalculator(system, topology=topology).bond_constraints()
    assert len(constraint.pairs) == 12
    hydrogens = {int(i) for pair in constraint.pairs for i in pair if atoms.numbers[i] == 1}
    assert len(hydrogens) == 12
    assert 0.95 < constraint.bondlengths.min() < constraint.bondlengths.max() < 1.12
    with pytest.raises(CompatibilityError, match="no constraints"):
        OpenMMCalculator(type(system)()).bond_constraints()


class TestRefusals:
    def test_virtual_site(self, openmm):
        system = argon(openmm, 3, periodic=False)
        system.setParticleMass(2, 0.0)
        system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
        with pytest.raises(CompatibilityError, match=r"particle 2 .* virtual site"):
            OpenMMCalculator(system)

    def test_platform_and_property(self, openmm):
        system = argon(openmm, 1, periodic=False)
        with pytest.raises(ConfigError, match=r"no platform 'GPU'.*Reference"):
            OpenMMCalculator(system, platform="GPU")
        with pytest.raises(ConfigError, match="no property 'Cores'"):
            OpenMMCalculator(system, platform="CPU", properties={"Cores": "2"})
        with pytest.raises(ConfigError, match="give platform"):
            OpenMMCalculator(system, properties={"Threads": "1"})

    def test_topology_of_another_size(self, peptide, openmm):
        with pytest.raises(CompatibilityError, match="22 atoms but the System 2"):
            OpenMMCalculator(argon(openmm, 2, periodic=False), topology=peptide[0])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: Atoms("Ar"), "1 atoms but the System has 2"),
            (lambda a: a.set_masses([39.9, 80.0]), "atom 1 has 80.0000 amu but 39.9480"),
            (lambda a: (a.set_cell([9, 9, 9]), a.set_pbc(True)), "not periodic but"),
        ],
    )
    def test_other_atoms(self, openmm, change, message):
        atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])
        changed = change(atoms)
        atoms = changed if isinstance(changed, Atoms) else atoms
        atoms.calc = OpenMMCalculator(argon(openmm, 2, periodic=False), platform="Reference")
        with pytest.raises(CompatibilityError, match=message):
            atoms.get_forces()

    def test_another_order_of_elements(self, peptide):
        topology, system, atoms = peptide
        atoms = atoms[::-1]
        atoms.calc = OpenMMCalculator(system, topology=topology, platform="Reference")
        with pytest.raises(CompatibilityError, match=r"atom 1 is .* keep the order"):
            atoms.get_forces()

    @pytest.mark.parametrize(
        ("cell", "pbc", "error", "message"),
        [
            ([12, 12, 12], (True, True, False), CompatibilityError, "System is periodic but"),
            ([[12, 0, 0], [12, 0, 0], [0, 0, 12]], True, StateError, "no volume"),
            ([8, 8, 8], True, StateError, "OpenMM cannot evaluate"),
        ],
        ids=["mixed", "flat", "cutoff"],
    )
    def test_boxes(self, openmm, cell, pbc, error, message):
        atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]], cell=cell, pbc=pbc)
        atoms.calc = OpenMMCalculator(argon(openmm, 2, periodic=True), platform="Reference")
        with pytest.raises(error, match=message):
            atoms.get_forces()

    def test_a_force_fixed_in_space_is_not_turned(self, openmm):
        system = argon(openmm, 1, periodic=True)
        system.addForce(openmm.CustomExternalForce("x"))
        atoms = Atoms("Ar", cell=[[0, 12, 0], [0, 0, 12], [12, 0, 0]], pbc=True)
        atoms.calc = OpenMMCalculator(system, platform="Reference")
        with pytest.raises(CompatibilityError, match="CustomExternalForce"):
            atoms.get_forces()

    def test_values_that_are_not_finite(self, openmm):
        atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 0]])
        atoms.calc = OpenMMCalculator(argon(openmm, 2, periodic=False), platform="Reference")
        with pytest.raises(StateError, match="lie on each other"):
            atoms.get_potential_energy()
        atoms.positions[1, 2] = np.nan
        with pytest.raises(StateError, match="atom 1 has a position that is not finite"):
            atoms.get_potential_energy()
        atoms.positions[1] = [3.8, 0, 0]
        assert np.isfinite(atoms.get_potential_energy())


def test_without_openmm_the_module_imports_and_the_class_names_the_extra():
    code = (
        "import sys; sys.modules['openmm'] = None\n"
        "from fastegnn_md.engines.openmm import OpenMMCalculator\n"
        "from fastegnn_md.errors import MissingDependencyError\n"
        "try:\n    OpenMMCalculator(None)\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    for name in ("openmm", "ase"):
        script = code.replace("sys.modules['openmm']", f"sys.modules['{name}']")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert f"fastegnn-md[{name}]" in done.stdout
