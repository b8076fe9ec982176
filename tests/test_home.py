"""A system is compared with what a propagator was trained on, when the two are brought together."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths
from ase.io import read
from ase.md.velocitydistribution import thermalize_momenta

import fastegnn_md
from fastegnn_md import State
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.engines.ase.atoms import state_from_atoms
from fastegnn_md.errors import CompatibilityError, JumpError
from fastegnn_md.integrators import DriftedApartWarning, LearnedDynamics, Schedule
from fastegnn_md.integrators.home import UnlikeTrainingWarning
from fastegnn_md.propagator import FakePropagator
from fastegnn_md.propagator.provenance import HeldDistances, Provenance, SystemKind

FRICTION = 0.01 / units.fs


def copper(a=3.61, temperature=1200.0):
    return started(bulk("Cu", a=a, cubic=True) * (3, 3, 3), temperature)


def started(atoms, temperature):
    atoms.calc = EMT()
    thermalize_momenta(atoms, temperature, rng=np.random.default_rng(0))
    return atoms


def dynamics(atoms, model, temperature=600.0, **options):
    return LearnedDynamics(
        atoms, fastegnn_md.load(model), temperature_K=temperature, friction=FRICTION, rng=1, **options
    )


@pytest.fixture(scope="module")
def ala2():
    from importlib.resources import as_file, files

    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        atoms = read(path)
    bonds = guess_bonds(atoms)
    return atoms, bonds, bonds[(atoms.numbers[bonds] == 1).any(axis=1)]


class TestMeasured:
    def pairs(self, held, temperature=300.0, count=40):
        """Pairs of ethanol whose bonds to hydrogen turn and whose other bonds stretch."""
        atoms, rng = molecule("CH3CH2OH"), np.random.default_rng(0)
        bonds, starts, ends = guess_bonds(atoms), [], []
        atoms.set_constraint(FixBondLengths(bonds[(atoms.numbers[bonds] == 1).any(axis=1)]) if held else None)
        for _ in range(count):
            thermalize_momenta(atoms, temperature, rng=rng)
            starts.append(state_from_atoms(atoms, bonds=bonds))
            moved = atoms.copy()
            moved.set_positions(atoms.positions + 0.03 * rng.normal(size=(9, 3)))
            ends.append(state_from_atoms(moved, bonds=bonds))
        return State.concatenate(starts), State.concatenate(ends)

    @pytest.mark.parametrize("held", [True, False])
    def test_held_bonds_are_found_in_the_data_themselves(self, held):
        found = {(one.elements, one.apart): one.share for one in Provenance.measure(*self.pairs(held)).held_distances}
        for kind in ((1, 6), (1, 8)):
            assert found[kind, 1] == (1.0 if held else pytest.approx(0.0, abs=0.05))
        assert found[(6, 6), 1] < 0.05
        assert found[(1, 1), 2] < 0.05

    def test_systems_and_sources(self):
        sources = [{"engine": "ASE", "theory": "EMT", "charge": 1.0, "temperature": t} for t in (300, 500)]
        found = Provenance.measure(*self.pairs(False), sources, "0.1")
        assert [one.formula for one in found.systems] == ["C2H6O"]
        assert (found.engine, found.theory, found.charge, found.temperature_K) == ("ASE", "EMT", 1.0, (300.0, 500.0))
        assert not found.held_atoms

    def test_the_temperature_is_not_widened_by_chance(self):
        low, high = Provenance.measure(*self.pairs(False, 400.0, 400)).temperature_K
        assert 370 < low <= high < 430
        cold, hot = self.pairs(False, 300.0, 200), self.pairs(False, 600.0, 200)
        both = [State.concatenate([*pair]) for pair in zip(cold, hot, strict=True)]
        low, high = Provenance.measure(*both).temperature_K
        assert 240 < low < 360
        assert 540 < high < 720

    def test_many_molecules_are_no_list(self):
        names = ["H2O", "CH4", "NH3", "CH3OH", "C2H6", "C2H4", "C2H2", "CO2", "HCN"]
        states = [state_from_atoms(molecule(name), bonds=guess_bonds(molecule(name))) for name in names]
        together = State.concatenate(states)
        assert Provenance.measure(together, together).systems == ()

    def test_a_graph_is_told_by_its_bonds_and_not_by_the_order_of_atoms(self):
        atoms, rng = molecule("CH3CH2OH"), np.random.default_rng(0)
        order = rng.permutation(9)
        one = state_from_atoms(atoms, bonds=guess_bonds(atoms))
        other = state_from_atoms(atoms[order], bonds=guess_bonds(atoms[order]))
        ether = molecule("CH3OCH3")
        assert SystemKind.of(one) == SystemKind.of(other)
        assert SystemKind.of(one) != SystemKind.of(state_from_atoms(ether, bonds=guess_bonds(ether)))


class TestAtoms:
    def test_what_fits_is_met_without_a_word(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run = dynamics(copper(), "copper-emt")
            run.run(20)
        assert run.statistics.rejected == {}

    def test_a_slab_stays_a_slab(self):
        slab = fcc111("Cu", (3, 3, 4), a=3.61, vacuum=8)
        slab.pbc = True
        slab = started(slab, 1200)
        with pytest.warns(UnlikeTrainingWarning, match=r"Å³ per atom"):
            run = dynamics(slab, "copper-emt")
        run.run(3)
        assert run.statistics.rejected == {"surroundings": 3}
        assert run.statistics.fallback_steps > 0
        assert np.ptp(slab.positions[:, 2]) < 9

    def test_without_an_engine_the_atom_is_named(self):
        with pytest.warns(UnlikeTrainingWarning, match="per atom"):
            run = dynamics(copper(1.1 * 3.61), "copper-emt")
        run.atoms.calc = None
        before = run.atoms.positions.copy()
        with pytest.raises(JumpError, match=r"surroundings guard refused the jump at atom \d+ \(Cu\).*Nothing was"):
            run.run(5)
        assert run.statistics.accepted < 5
        assert np.isfinite(before).all()

    def test_frozen_atoms(self):
        atoms = copper()
        atoms.set_constraint(FixAtoms(range(54)))
        with pytest.raises(CompatibilityError, match=r"54 atoms are frozen.*schedule=Schedule"):
            dynamics(atoms, "copper-emt")
        dynamics(atoms, "copper-emt", schedule=Schedule(2, 1, classical="5 fs")).run(3)
        with pytest.warns(UnlikeTrainingWarning, match="54 atoms are frozen"):
            dynamics(atoms, "copper-emt", guard=False)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("CH3OCH3", "with other bonds"),
            ("CH3OH", "the system is CH4O, this propagator has seen C2H6O only"),
            ("CH3CH2O", "C2H5O"),
        ],
    )
    def test_another_molecule(self, name, words):
        atoms = molecule(name)
        with pytest.raises(CompatibilityError, match=words):
            dynamics(atoms, "ethanol-xtb", bonds=guess_bonds(atoms))

    def test_another_molecule_is_named_before_its_constraints(self):
        ethanol = molecule("CH3CH2OH")  # its bonds to hydrogen are free, those of training were held
        with pytest.raises(CompatibilityError, match="the system is C2H6O, this propagator has seen C6H12N2O2 only"):
            dynamics(ethanol, "ala2-vacuum", 300.0, bonds=guess_bonds(ethanol))

    def test_another_charge_and_another_theory(self):
        atoms = molecule("CH3CH2OH")
        atoms.calc = EMT()
        atoms.calc.parameters["charge"] = 1
        with pytest.raises(CompatibilityError, match="a charge of 1 e, the training data had 0"):
            dynamics(atoms, "ethanol-xtb", bonds=guess_bonds(atoms))
        atoms.calc = EMT()
        with pytest.warns(UnlikeTrainingWarning, match=r"forces come from EMT here.*TBLite \(method=GFN2-xTB\)"):
            dynamics(atoms, "ethanol-xtb", bonds=guess_bonds(atoms))

    def test_a_hotter_run(self):
        with pytest.warns(UnlikeTrainingWarning, match="the temperature is 1500 K, the training data had 600 to 800"):
            dynamics(copper(), "copper-emt", 1500.0)

    @pytest.mark.parametrize("kelvin", [290.0, 310.0])
    def test_drawn_jumps_at_another_temperature(self, ala2, kelvin):
        atoms, bonds, hydrogens = ala2
        atoms.calc = EMT()
        atoms.set_constraint(FixBondLengths(hydrogens))
        options = {"temperature_K": kelvin, "rng": 1, "bonds": bonds}
        with pytest.warns(UnlikeTrainingWarning, match=f"is {kelvin:g} K, jumps are drawn from what .* at 300 K, wh"):
            LearnedDynamics(atoms, fastegnn_md.load("ala2-obc-10ps"), **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnlikeTrainingWarning)
            LearnedDynamics(atoms, fastegnn_md.load("ala2-obc-10ps"), **options | {"temperature_K": 302.0})

    @pytest.mark.parametrize("model", ["ala2-vacuum", "ala2-gbn2"])
    def test_bonds_that_are_free_or_held_unlike_in_training(self, ala2, model):
        atoms, bonds, hydrogens = ala2
        atoms.set_constraint()
        with pytest.raises(CompatibilityError, match=r"C bonds of fixed length, here 100% of them are free.*HBonds"):
            dynamics(atoms, model, 300.0, bonds=bonds)
        atoms.set_constraint(FixBondLengths(bonds))
        with pytest.raises(CompatibilityError, match=r"free .* bonds, here 100% of them have a fixed length"):
            dynamics(atoms, model, 300.0, bonds=bonds)
        atoms.set_constraint(FixBondLengths(hydrogens[1:]))
        with pytest.raises(CompatibilityError, match="of fixed length, here"):
            dynamics(atoms, model, 300.0, bonds=bonds)
        atoms.set_constraint(FixBondLengths(hydrogens))
        dynamics(atoms, model, 300.0, bonds=bonds)


class TestOpenMMThroughAtoms:
    """The forces of OpenMM for jumps of ASE's Atoms."""

    @pytest.fixture
    def restrained(self, ala2, require):
        require("openmm")
        import openmm
        from openmm import app
        from openmm_cases import peptide_pdb

        from fastegnn_md.engines.openmm import OpenMMCalculator

        pdb = peptide_pdb()
        system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds)
        plain = OpenMMCalculator(system, topology=pdb.topology, platform="Reference")
        restraint = openmm.CustomExternalForce("x^2")
        restraint.addParticle(4, [])
        system.addForce(restraint)
        return plain, OpenMMCalculator(system, platform="Reference"), ala2

    def test_a_restraint_that_jumps_do_not_feel_is_refused(self, restrained):
        plain, held, (atoms, bonds, hydrogens) = restrained
        atoms.set_constraint(FixBondLengths(hydrogens))
        atoms.calc = held
        with pytest.raises(CompatibilityError, match="forces beyond a force field: CustomExternalForce"):
            dynamics(atoms, "ala2-vacuum", 300.0, bonds=bonds)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dynamics(atoms, "ala2-vacuum", 300.0, bonds=bonds, schedule=Schedule(4, 1, classical="2 fs"))
            atoms.calc = plain
            dynamics(atoms, "ala2-vacuum", 300.0, bonds=bonds)


class TestContext:
    @pytest.fixture
    def bind(self, require):
        require("openmm")
        import openmm
        from openmm import app
        from openmm_cases import peptide_pdb

        from fastegnn_md.integrators import Langevin, LearnedIntegrator, LearnedSimulation

        pdb = peptide_pdb()

        def make(constraints=app.HBonds, massless=(), schedule=None):
            system = app.ForceField("amber14-all.xml").createSystem(
                pdb.topology, constraints=constraints, removeCMMotion=False
            )
            for particle in massless:
                system.setParticleMass(particle, 0)
            heat = Langevin(300, "10/ps")
            integrator = LearnedIntegrator(fastegnn_md.load("ala2-vacuum"), heat, schedule=schedule, seed=1)
            simulation = LearnedSimulation(
                pdb.topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
            )
            simulation.context.setPositions(pdb.positions)
            return simulation

        return make

    def test_constraints_of_the_training_are_asked_for(self, bind):
        from openmm import app

        with pytest.raises(CompatibilityError, match=r"here 100% of them are free.*constraints=app\.HBonds"):
            bind(None)
        with pytest.raises(CompatibilityError, match=r"free .* have a fixed length.*constraints=app\.HBonds"):
            bind(app.AllBonds)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bind(app.HBonds).step(2)

    def test_massless_particles(self, bind):
        from openmm import app

        with pytest.raises(CompatibilityError, match="2 atoms are frozen"):
            bind(app.HBonds, (4, 5))  # of a carbonyl group, which has no constraints
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bind(app.HBonds, (4, 5), Schedule(2, 1, classical="2 fs")).step(3)


def test_a_model_that_does_not_say_compares_nothing():
    propagator = fastegnn_md.load("copper-emt")
    propagator.provenance = propagator.surroundings = None
    atoms = copper()
    atoms.set_constraint(FixAtoms(range(54)))
    LearnedDynamics(atoms, propagator, temperature_K=600, friction=FRICTION, rng=1)


def test_a_provenance_reads_itself():
    one = Provenance(
        systems=(SystemKind(formula="Cu"),),
        held_distances=(HeldDistances(elements=(1, 6), apart=1, share=1.0),),
        temperature_K=(300.0, 400.0),
    )
    assert Provenance.model_validate_json(one.model_dump_json()) == one


def methanol(copies: int = 1) -> Atoms:
    atoms = molecule("CH3OH")
    for number in range(1, copies):
        other = molecule("CH3OH")
        other.translate([5.0 * number, 0, 0])
        atoms += other
    return atoms


def small_molecules(**known: Any) -> FakePropagator:
    """Free flight that says it was trained on many small molecules."""

    def move(state: State) -> tuple[torch.Tensor, torch.Tensor]:
        return state.positions + 0.004 * state.velocities, state.velocities

    propagator = FakePropagator(move, 0.004, cutoff=4.5)
    told = {"charge": 0.0, "multiplicity": 1, "atoms": (4, 12), "molecules": 1}
    propagator.provenance = Provenance(**(told | known))
    return propagator


class TestMolecules:
    """Charge, spin, size and number of molecules, for models that are for many molecules."""

    def test_a_molecule_like_those_of_training_is_met_without_a_word(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LearnedDynamics(methanol(), small_molecules())

    def test_charge_of_the_atoms(self):
        for say in (
            lambda atoms: atoms.info.update(charge=1),
            lambda atoms: atoms.set_initial_charges([1, 0, 0, 0, 0, 0]),
        ):
            atoms = methanol()
            say(atoms)
            with pytest.raises(CompatibilityError, match=r"a charge of 1 e, the training data had 0: train"):
                LearnedDynamics(atoms, small_molecules())
        atoms.set_initial_charges([0.3, -0.3, 0, 0, 0, 0])  # partial charges of a neutral molecule
        LearnedDynamics(atoms, small_molecules())

    def test_spin_of_the_atoms(self):
        for say in (
            lambda atoms: atoms.info.update(spin=3),
            lambda atoms: atoms.info.update(multiplicity=3),
            lambda atoms: atoms.set_initial_magnetic_moments([2, 0, 0, 0, 0, 0]),
        ):
            atoms = methanol()
            say(atoms)
            with pytest.raises(CompatibilityError, match=r"spin multiplicity 3, the training data had 1: add"):
                LearnedDynamics(atoms, small_molecules())
        LearnedDynamics(atoms, small_molecules(multiplicity=None))

    def test_ions_and_radicals_that_do_not_say_so(self):
        atoms = methanol()
        del atoms[-1]
        with pytest.raises(CompatibilityError, match=r"17 electrons with a charge of 0 e.*add the missing atom"):
            LearnedDynamics(atoms, small_molecules())
        with pytest.warns(UnlikeTrainingWarning, match="17 electrons"):
            LearnedDynamics(atoms, small_molecules(), guard=False)

    def test_a_far_larger_molecule_is_told_of_once(self):
        with pytest.warns(UnlikeTrainingWarning, match=r"14 atoms, the training data had 4 to 8: .*adapt") as found:
            LearnedDynamics(molecule("trans-butane"), small_molecules(atoms=(4, 8)))
        assert len(found) == 1

    def test_several_molecules_where_training_had_one(self):
        with pytest.warns(UnlikeTrainingWarning, match=r"2 molecules \(of 6, 6 atoms\).*one by one"):
            LearnedDynamics(methanol(2), small_molecules())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LearnedDynamics(methanol(2), small_molecules(molecules=2))

    def test_molecules_that_drift_apart_are_told_of_once(self):
        atoms = methanol(2)
        atoms.set_velocities([[0, 0, 0]] * 6 + [[0.02 / units.fs, 0, 0]] * 6)
        run = LearnedDynamics(atoms, small_molecules(molecules=2))
        with pytest.warns(DriftedApartWarning, match=r"fallen into 2 parts \(of 6, 6 atoms\).*no force acts") as found:
            run.run(210)
        assert len(found) == 1

    @pytest.mark.parametrize("name", ["organic-xtb-4fs", "organic-xtb", "organic-xtb-8fs-heavy"])
    def test_shipped_models_of_organic_molecules(self, name):
        def met(atoms: Atoms) -> None:
            if name.endswith("heavy"):
                atoms.set_masses(np.where(atoms.numbers == 1, 4.0, atoms.get_masses()))
            atoms.calc = EMT()
            dynamics(atoms, name, temperature=350)

        ammonium = molecule("NH3")
        ammonium += Atoms("H", [[0.0, 0.0, 1.2]])
        with pytest.raises(CompatibilityError, match="11 electrons with a charge of 0 e"):
            met(ammonium)
        ammonium.info["charge"] = 1
        with pytest.raises(CompatibilityError, match="a charge of 1 e, the training data had 0"):
            met(ammonium)
        oxygen = molecule("O2")
        with pytest.raises(CompatibilityError, match="spin multiplicity 3"):  # ASE knows its magnetic moments
            met(oxygen)
        boxed = methanol()
        boxed.cell, boxed.pbc = [20, 20, 20], True
        with pytest.warns(UnlikeTrainingWarning), pytest.raises(CompatibilityError, match=r"is periodic .*pbc = False"):
            met(boxed)
        unknown = pytest.raises(CompatibilityError, match=r"atomic number 14.*or train one")
        with unknown, pytest.warns(UnlikeTrainingWarning):
            met(molecule("SiH4"))
        with pytest.warns(UnlikeTrainingWarning) as found:
            met(methanol(2))
        assert any("2 molecules" in str(one.message) for one in found)

    def test_what_training_data_say(self):
        states = [state_from_atoms(methanol(1)), state_from_atoms(molecule("trans-butane"))]
        together = State.concatenate(states)
        known = Provenance.measure(together, together, [{"charge": 0, "multiplicity": 1}] * 2)
        assert (known.charge, known.multiplicity, known.atoms, known.molecules) == (0.0, 1, (6, 14), 1)
        pair = state_from_atoms(methanol(2))
        assert Provenance.measure(pair, pair).molecules == 2
        assert Provenance.measure(pair, pair).multiplicity is None
        metal = state_from_atoms(copper())
        assert (Provenance.measure(metal, metal).atoms, Provenance.measure(metal, metal).molecules) == (None, None)
