"""Ensembles: momenta and energy conserved in NVE, stochastic velocity rescaling, and where each is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLengths, FixCom
from ase.md.bussi import Bussi

from fastegnn_md.engines.ase.stepper import FORCE, state_from_atoms
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, JumpError, StateError
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedDynamics,
    LearnedEnsemble,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.integrators.step import GuardedStep
from fastegnn_md.mechanics.conservation import EnergyRescale
from fastegnn_md.mechanics.constraints import Constraints, no_constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.units import BOLTZMANN

PS = 1000 * units.fs
DT = 0.002  # ps
KT = BOLTZMANN * 300


class StandIn(FakePropagator):
    def __init__(self, move, **options):
        super().__init__(move, DT, **options)


class PairSprings(Calculator):
    """k/2 (r - r0)² of every pair, k in eV/Å²: linear and angular momentum are conserved."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, atoms: Atoms, spring: float = 0.5):
        super().__init__()
        self.pairs = np.triu_indices(len(atoms), 1)
        self.lengths, self.spring, self.calls = self.measure(atoms.positions)[1], spring, 0

    def measure(self, positions):
        arms = positions[self.pairs[0]] - positions[self.pairs[1]]
        return arms, np.linalg.norm(arms, axis=1)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        arms, length = self.measure(atoms.positions)
        pull = -(self.spring * (length - self.lengths) / length)[:, None] * arms
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, self.pairs[0], pull)
        np.add.at(forces, self.pairs[1], -pull)
        self.results = {"energy": 0.5 * self.spring * np.square(length - self.lengths).sum(), "forces": forces}


def hot(name: str = "CH3OH", seed: int = 0) -> Atoms:
    """A molecule with springs, thermal momenta, and momenta of the whole."""
    atoms = molecule(name)
    atoms.calc = PairSprings(atoms)
    noise = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(noise * np.sqrt(units.kB * 300 * atoms.get_masses())[:, None])
    return atoms


def leaky(state):
    """Nearly free flight that conserves nothing."""
    kick = 0.5 * torch.sin(37 * state.positions)
    return state.replace(
        positions=state.positions + DT * state.velocities + 1e-3 * kick, velocities=1.01 * state.velocities + kick
    )


def kicked(state):
    """A crude step of classical dynamics that gains energy and momentum."""
    velocities = 1.01 * (state.velocities + DT * state.forces / state.masses[:, None])
    return state.replace(positions=state.positions + DT * velocities, velocities=velocities)


def rest(state):
    return state


def worst(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after - before).max())


# Angular momentum --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("options", [{}, {"thermostat": VelocityRescaling(300, "50 fs")}], ids=["NVE", "rescaling"])
def test_momenta_of_an_isolated_molecule_stay_what_they_were(options, constrained):
    atoms = hot()
    if constrained:
        atoms.set_constraint(FixBondLengths([(0, 2), (1, 3)]))
        atoms.set_momenta(atoms.get_momenta())
    lengths = atoms.get_all_distances()
    linear, angular = atoms.get_momenta().sum(0), atoms.get_angular_momentum()
    dynamics = LearnedDynamics(atoms, StandIn(leaky), rng=1, **options)
    dynamics.run(30)
    assert dynamics.statistics.accepted == 30
    assert worst(linear, atoms.get_momenta().sum(0)) < 1e-12
    assert worst(angular, atoms.get_angular_momentum()) < 1e-12
    if constrained:
        for a, b in ((0, 2), (1, 3)):
            assert atoms.get_distance(a, b) == pytest.approx(lengths[a, b], abs=1e-12)
            bond, apart = atoms.positions[a] - atoms.positions[b], np.diff(atoms.get_velocities()[[b, a]], axis=0)[0]
            assert abs(bond @ apart) < 1e-13
    else:
        assert worst(lengths, atoms.get_all_distances()) > 1e-2


IN_A_FIELD = {"domain": permissive_domain(conserves_momentum=False)}


@pytest.mark.parametrize(
    ("options", "flags", "kept"),
    [
        ({}, {}, True),
        ({"thermostat": VelocityRescaling(300, 10.0 / PS), "rng": 1}, {}, True),
        ({"temperature_K": 300, "friction": 0.0, "rng": 1}, {}, False),
        ({"conserve": Conserve(momentum=False)}, {}, False),
        ({"conserve": Conserve(momentum=False, angular_momentum=True)}, {}, True),
        ({"conserve": Conserve(angular_momentum=False)}, {}, False),
        ({}, IN_A_FIELD, False),
        ({"thermostat": Langevin(300, 0), "rng": 1, "conserve": Conserve(angular_momentum=True)}, {}, True),
    ],
)
def test_where_angular_momentum_is_conserved_by_default(options, flags, kept):
    atoms = hot()
    before = atoms.get_angular_momentum()
    LearnedDynamics(atoms, StandIn(leaky, **flags), **options).run(1)
    assert (worst(before, atoms.get_angular_momentum()) < 1e-12) is kept


def test_frozen_atoms_and_boxes_have_no_angular_momentum_to_conserve():
    def changed(prepare) -> float:
        atoms = hot()
        prepare(atoms)
        before = atoms.get_angular_momentum()
        LearnedDynamics(atoms, StandIn(leaky)).run(1)
        return worst(before, atoms.get_angular_momentum())

    def box(atoms, pbc=True):
        atoms.set_cell([9, 9, 9])
        atoms.set_pbc(pbc)

    def freeze(atoms):
        atoms.set_constraint(FixAtoms([0]))

    for prepare in (box, freeze, lambda atoms: box(atoms, [False, False, True])):
        assert changed(prepare) > 1e-3
    for prepare, error, words in (
        (box, CompatibilityError, "needs an isolated system, this one is periodic"),
        (lambda atoms: box(atoms, [True, False, False]), CompatibilityError, "this one is periodic"),
        (freeze, ConstraintError, r"angular_momentum=True\) needs atoms that are free to move"),
    ):
        atoms = hot()
        prepare(atoms)
        with pytest.raises(error, match=words):
            LearnedDynamics(atoms, StandIn(leaky), conserve=Conserve(angular_momentum=True))
    redraws = StandIn(leaky, kind="position")
    with pytest.raises(ConfigError, match="redraws velocities: neither"):
        LearnedDynamics(hot(), redraws, temperature_K=300, conserve=Conserve(angular_momentum=True))


def test_a_fixed_centre_of_mass_goes_with_angular_momentum():
    atoms = hot()
    atoms.set_constraint(FixCom())
    atoms.set_momenta(atoms.get_momenta())
    before, centre = atoms.get_angular_momentum(), atoms.get_center_of_mass()
    LearnedDynamics(atoms, StandIn(leaky)).run(5)
    assert worst(before, atoms.get_angular_momentum()) < 1e-12
    assert worst(centre, atoms.get_center_of_mass()) < 1e-12


def test_a_molecule_that_would_have_to_spin_too_fast_is_refused():
    """It is bent and turns about its long axis, and is predicted nearly straight: the guard of speeds sees the spin."""
    atoms = Atoms("OCO", positions=[[-1.1, 0.3, 0], [0, 0, 0], [1.1, 0.3, 0]])
    atoms.set_momenta([[0, 0, 1.0], [0, 0, -2.0], [0, 0, 1.0]])

    def straighten(state):
        return state.replace(positions=state.positions * torch.tensor([1.0, 1e-3, 1.0]), velocities=state.velocities)

    limits = JumpLimits({6: 1.0, 8: 1.0}, {}, {6: 100.0, 8: 100.0})
    with pytest.raises(JumpError, match="the speed guard refused"):
        LearnedDynamics(atoms, StandIn(straighten, domain=permissive_domain(limits=limits))).run(1)


def test_replicas_conserve_their_own():
    propagator = StandIn(leaky)
    replicas = [LearnedDynamics(hot(name, k), propagator) for k, name in enumerate(("CH3OH", "H2O", "CO2"))]
    before = [one.atoms.get_angular_momentum() for one in replicas]
    LearnedEnsemble(replicas).run(3)
    for one, wanted in zip(replicas, before, strict=True):
        assert worst(wanted, one.atoms.get_angular_momentum()) < 1e-12


# Energy ------------------------------------------------------------------------------------------------------------


def rescaled(rescale: EnergyRescale, state, potential: float, freedom: Freedom):
    ended = rescale(state, potential, freedom)
    return ended, kinetic_energy(ended.velocities, ended.masses) + potential


@pytest.mark.parametrize("conserved", [{}, {"momentum": True}, {"momentum": True, "angular_momentum": True}])
def test_scaling_takes_the_excess_from_the_motion_that_is_free(conserved):
    atoms = hot()
    state = state_from_atoms(atoms)
    freedom = Freedom(no_constraints(state.masses), **conserved)
    rigid = freedom.conserved(state)
    free = state.velocities if rigid is None else state.velocities - rigid
    kinetic, total = kinetic_energy(free, state.masses), kinetic_energy(state.velocities, state.masses)
    for share in (0.1, -0.1):
        ended, energy = rescaled(EnergyRescale(total + 7.0 - share * kinetic), state, 7.0, freedom)
        assert energy == pytest.approx(total + 7.0 - share * kinetic, rel=1e-13)
        expected = math.sqrt(1 - share) * free + (0 if rigid is None else rigid)
        torch.testing.assert_close(ended.velocities, expected, rtol=1e-13, atol=1e-13)
        atoms.set_velocities(ended.velocities.numpy() / PS)
        for name in conserved:
            get = {"momentum": lambda a: a.get_momenta().sum(0), "angular_momentum": Atoms.get_angular_momentum}[name]
            assert worst(get(hot()), get(atoms)) < 1e-13


@pytest.mark.parametrize("share", [0.5, 3.0, 1e300, math.inf, -0.5, -1e300, -math.inf])
def test_the_factor_is_clipped_and_what_is_left_is_taken_by_the_next_jumps(share):
    """Also where the excess is more than the kinetic energy, and the argument of the root negative."""
    state = state_from_atoms(hot())
    freedom = Freedom(no_constraints(state.masses))
    kinetic = kinetic_energy(state.velocities, state.masses)
    rescale = EnergyRescale(kinetic)
    ended = rescale(state, share * kinetic, freedom)
    torch.testing.assert_close(ended.velocities, (0.9 if share > 0 else 1.1) * state.velocities)
    if abs(share) < 0.9:
        energies = []
        for _ in range(6):
            state, energy = rescaled(rescale, state, share * kinetic, freedom)
            energies.append(abs(energy - kinetic) / kinetic)
        assert energies == sorted(energies, reverse=True)
        assert energies[-1] < 1e-12


def test_atoms_at_rest_are_left_at_rest():
    state = state_from_atoms(hot())
    state = state.replace(velocities=torch.zeros_like(state.velocities))
    for potential in (0.0, 1e9, -1e9):
        ended = EnergyRescale(3.0)(state, potential, Freedom(no_constraints(state.masses)))
        assert not ended.velocities.any()


def test_total_energy_is_that_of_the_first_step():
    def run(**options):
        atoms = hot()
        energies = [atoms.get_total_energy()]
        linear, angular, calls = atoms.get_momenta().sum(0), atoms.get_angular_momentum(), atoms.calc.calls
        dynamics = LearnedDynamics(atoms, StandIn(kicked, kind="force-start"), **options)
        dynamics.run(50)
        asked = atoms.calc.calls - calls
        energies.append(atoms.get_total_energy())
        assert worst(linear, atoms.get_momenta().sum(0)) < 1e-12
        assert worst(angular, atoms.get_angular_momentum()) < 1e-12
        return abs(energies[1] / energies[0] - 1), asked

    drift, calls = run()
    assert drift > 0.5
    assert calls == 49  # forces at the start were known
    drift, calls = run(conserve=Conserve(energy=True))
    assert drift < 1e-9
    assert calls == 50  # one per jump: the calculator knows the forces of the next one as well


def test_a_jump_that_adds_too_much_is_put_right_over_several():
    atoms = hot()
    energy = atoms.get_total_energy()
    calls = []

    def once(state):
        calls.append(1)
        return state.replace(velocities=2 * state.velocities) if len(calls) == 1 else state

    dynamics = LearnedDynamics(atoms, StandIn(once), conserve=Conserve(energy=True))
    excess = []
    for _ in range(9):
        dynamics.run(1)
        excess.append(atoms.get_total_energy() - energy)
    assert excess[0] > energy
    assert np.all(np.diff(excess[:6]) < 0)
    assert abs(excess[-1]) < 1e-9 * energy


def test_energy_is_conserved_with_constraints_and_across_refused_jumps():
    def sometimes(state):
        if float(state.positions[0, 0] * 1e8) % 1 < 0.4:
            return state.replace(positions=state.positions * torch.nan)
        return kicked(state)

    atoms = hot()
    atoms.set_constraint(FixBondLengths([(0, 2), (1, 3)]))
    atoms.set_momenta(atoms.get_momenta())
    energy = atoms.get_total_energy()
    propagator = StandIn(kicked, kind="force-start")
    dynamics = LearnedDynamics(atoms, propagator, schedule=Schedule(classical="0.1 fs"), conserve=Conserve(energy=True))
    dynamics.run(1)
    propagator.move = sometimes
    dynamics.run(20)
    assert 3 < dynamics.statistics.rejected["finite"] < 17
    propagator.move = rest
    dynamics.run(1)
    assert atoms.get_total_energy() == pytest.approx(energy, rel=1e-9)


def test_an_energy_that_is_not_finite_refuses_the_jump():
    class Broken(PairSprings):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.calls == 3:
                self.results["energy"] = math.nan

    atoms = hot()
    atoms.calc = Broken(molecule("CH3OH"))
    dynamics = LearnedDynamics(atoms, StandIn(leaky), conserve=Conserve(energy=True))
    dynamics.run(3)
    assert dynamics.statistics.rejected == {"energy": 1}
    assert math.isfinite(atoms.get_total_energy())


@pytest.mark.parametrize(
    "thermostat",
    [{"temperature_K": 300, "friction": 0.1}, {"thermostat": VelocityRescaling(300, 10.0 / PS)}],
    ids=["friction", "rescaling"],
)
def test_a_thermostat_adds_its_heat_to_what_is_conserved(thermostat, monkeypatch):
    """The total energy changes by what the half steps of the thermostat change the kinetic energy, and nothing else."""
    heat = 0.0
    thermalise = GuardedStep._thermalise

    def counted(self, state, *arguments):
        nonlocal heat
        after = thermalise(self, state, *arguments)
        heat += kinetic_energy(after.velocities, after.masses) - kinetic_energy(state.velocities, state.masses)
        return after

    monkeypatch.setattr(GuardedStep, "_thermalise", counted)
    for scaled in (True, False):
        atoms, heat = hot(), 0.0
        dynamics = LearnedDynamics(
            atoms, StandIn(kicked, kind="force-start"), rng=3, conserve=Conserve(energy=scaled), **thermostat
        )
        before = atoms.get_total_energy()
        dynamics.run(20)
        leak = abs(atoms.get_total_energy() - before - heat / FORCE)
        assert abs(heat / FORCE) > 1e-3
        assert leak < 1e-9 * before if scaled else leak > 1e-2 * before


def test_a_step_that_fails_takes_back_the_heat_of_its_thermostat():
    atoms = hot()
    propagator = StandIn(kicked, kind="force-start")
    dynamics = LearnedDynamics(
        atoms,
        propagator,
        temperature_K=300,
        friction=0.1,
        rng=3,
        schedule=Schedule(fallback="stop"),
        conserve=Conserve(energy=True),
    )
    dynamics.run(2)
    target, drawn = dynamics.guarded.energy.target, dynamics.rng.bit_generator.state
    propagator.move = lambda state: state.replace(positions=state.positions * torch.nan)
    with pytest.raises(JumpError):
        dynamics.run(1)
    assert dynamics.guarded.energy.target == target
    assert dynamics.rng.bit_generator.state == drawn


def test_energy_needs_a_calculator_and_velocities():
    atoms = hot()
    dynamics = LearnedDynamics(atoms, StandIn(leaky), conserve=Conserve(energy=True))
    dynamics.run(1)
    atoms.calc = None
    before = atoms.get_positions()
    with pytest.raises(CompatibilityError, match=r"Conserve\(energy=True\): needs the engine; attach"):
        dynamics.run(1)
    np.testing.assert_array_equal(atoms.positions, before)
    with pytest.raises(CompatibilityError, match=r"Conserve\(energy=True\): needs the engine; attach"):
        LearnedDynamics(atoms, StandIn(leaky), conserve=Conserve(energy=True))
    with pytest.raises(ConfigError, match="redraws velocities: neither"):
        LearnedDynamics(hot(), StandIn(leaky, kind="position"), temperature_K=300, conserve=Conserve(energy=True))


# Stochastic velocity rescaling -------------------------------------------------------------------------------------


def test_one_step_is_that_of_ase_with_the_same_random_numbers():
    atoms = hot()
    state = state_from_atoms(atoms)
    # ASE's constants are those of 2014: the same kT in its units.
    kelvin = KT / PS**2 / units.kB
    for seed, tau in enumerate((0.001, 0.05, 0.8)):
        atoms.set_momenta(hot().get_momenta())
        bussi = Bussi(atoms, 0.5 * DT * PS, kelvin, tau * PS, rng=np.random.default_rng(seed))
        bussi.scale_velocities()
        half = VelocityRescaling(300.0, tau)
        found = half.rescale(state.velocities, state.masses, 0.5 * DT, np.random.default_rng(seed), bussi.ndof)
        np.testing.assert_allclose(found / PS, atoms.get_velocities(), rtol=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 9])
@pytest.mark.parametrize("tau", [0.0, 0.002, 0.05])
def test_mean_and_variance_of_the_kinetic_energy_after_a_half_step(degrees, tau):
    """c K + (1 - c) K̄, and 2 ((1 - c) K̄)² / f + 4 c (1 - c) K K̄ / f; within 3.5 σ."""
    half, rng, n = VelocityRescaling(300.0, tau), np.random.default_rng(degrees), 4000
    v, m = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 30.0]]).double(), torch.tensor([2.0, 3.0]).double()
    kinetic, target = kinetic_energy(v, m), 0.5 * degrees * KT
    found = np.array([kinetic_energy(half.rescale(v, m, 0.5 * DT, rng, degrees), m) for _ in range(n)])
    c = math.exp(-0.5 * DT / tau) if tau else 0.0
    variance = 2 * ((1 - c) * target) ** 2 / degrees + 4 * c * (1 - c) * kinetic * target / degrees
    assert abs(found.mean() - c * kinetic - (1 - c) * target) < 3.5 * math.sqrt(variance / n)
    fourth = np.mean((found - found.mean()) ** 4)
    assert abs(found.var() - variance) < 3.5 * math.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize(
    ("name", "bonds", "conserve", "degrees"),
    [("CH3OH", [(0, 2), (1, 3)], None, 10), ("CH3OH", [], False, 18), ("N2", [], None, 1)],
    ids=["isolated, constrained", "nothing conserved", "a diatomic molecule"],
)
def test_the_kinetic_energy_has_the_canonical_distribution(name, bonds, conserve, degrees, require):
    """Of the motion that is free: that of f degrees of freedom, by Kolmogorov and Smirnov and by its moments."""
    require("physical_validation")
    import physical_validation as validation

    atoms = hot(name)
    if bonds:
        atoms.set_constraint(FixBondLengths(bonds))
        atoms.set_momenta(atoms.get_momenta())
    dynamics = LearnedDynamics(
        atoms,
        StandIn(rest),
        rng=5,
        guard=False,
        thermostat=VelocityRescaling(300, 0.15 * DT),
        conserve=Conserve(momentum=conserve),
    )
    rigid = dynamics.guarded.freedom(state_from_atoms(atoms), dynamics.jump._read_constraints())
    kinetic = []
    for _ in range(250):
        dynamics.run(1)  # e^(-Δt / τ), one part in 800, is left of the sample before
        state = state_from_atoms(atoms)
        assert rigid.degrees(state) == degrees
        held = rigid.conserved(state)
        kinetic.append(kinetic_energy(state.velocities - (0 if held is None else held), state.masses))
    assert abs(np.mean(kinetic) / (0.5 * degrees * KT) - 1) < 3 * math.sqrt(2 / degrees / 250)
    assert dynamics.get_temperature() == pytest.approx(2 * kinetic[-1] / degrees / BOLTZMANN)
    data = validation.data.SimulationData(
        units=validation.data.UnitData(
            kb=BOLTZMANN, energy_conversion=0.01, length_conversion=0.1, volume_conversion=1e-3,
            temperature_conversion=1.0, pressure_conversion=1.0, time_conversion=1.0,
        ),
        ensemble=validation.data.EnsembleData("NVT", natoms=len(atoms), volume=1.0, temperature=300.0),
        system=validation.data.SystemData(
            natoms=len(atoms), nconstraints=3 * len(atoms) - degrees, ndof_reduction_tra=0, ndof_reduction_rot=0
        ),
        observables=validation.data.ObservableData(kinetic_energy=np.array(kinetic)),
    )  # fmt: skip
    probability = validation.kinetic_energy.distribution(data, strict=True, verbosity=0, data_is_uncorrelated=True)
    assert probability > 0.01


def test_without_degrees_of_freedom_nothing_is_scaled_or_drawn():
    half, rng = VelocityRescaling(300.0, 0.1), np.random.default_rng(0)
    drawn = rng.bit_generator.state
    v = torch.ones(2, 3).double()
    assert half.rescale(v, torch.ones(2).double(), 0.5 * DT, rng, 0) is v
    assert rng.bit_generator.state == drawn
    atoms = Atoms("Ar", momenta=[[1, 2, 3]])
    LearnedDynamics(atoms, StandIn(rest), rng=1, thermostat=VelocityRescaling(300, 1.0 / PS)).run(3)
    np.testing.assert_allclose(atoms.get_momenta(), [[1, 2, 3]], rtol=1e-12)


def test_velocities_that_constraints_forbid_have_no_temperature():
    """Set by hand: a frozen atom that moves, a fixed bond that stretches."""
    state = state_from_atoms(hot())
    bonds, frozen = torch.tensor([[0, 2]]), torch.tensor([False, True, False, False, False, False])
    lengths = (state.positions[bonds[:, 0]] - state.positions[bonds[:, 1]]).norm(dim=1)
    freedom = Freedom(Constraints(state.masses, bonds, lengths, frozen))
    half = VelocityRescaling(300.0, 0.1)
    found = half.half_step(state, freedom, DT, np.random.default_rng(1))
    torch.testing.assert_close(freedom.project(state, found), found)
    allowed = freedom.project(state, state.velocities)
    torch.testing.assert_close(found, half.rescale(allowed, state.masses, 0.5 * DT, np.random.default_rng(1), 14))


def test_atoms_that_do_not_move_cannot_be_scaled():
    atoms = hot()
    atoms.set_momenta(np.zeros((6, 3)))
    dynamics = LearnedDynamics(atoms, StandIn(rest), rng=1, thermostat=VelocityRescaling(300, 1.0 / PS))
    with pytest.raises(StateError, match="the atoms do not move"):
        dynamics.run(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thermostat": VelocityRescaling(300, 0.1), "friction": 0.1}, "a thermostat brings its temperature"),
        ({"thermostat": VelocityRescaling(300, 0.1), "temperature_K": 300}, "a thermostat brings its temperature"),
        ({"friction": 0.1}, "friction without a temperature"),
        ({"temperature_K": 300}, "a temperature without a thermostat"),
    ],
)
def test_thermostats_that_do_not_go_together(options, words):
    with pytest.raises(ConfigError, match=words):
        LearnedDynamics(hot(), StandIn(leaky), **options)
    with pytest.raises(ConfigError, match="leave friction and thermostat out"):
        LearnedDynamics(hot(), StandIn(leaky, kind="position"), thermostat=VelocityRescaling(300, 1.0 / PS))


def test_it_is_the_temperature_of_the_free_motion_that_is_told():
    atoms = hot()
    dynamics = LearnedDynamics(atoms, StandIn(rest))
    state = state_from_atoms(atoms)
    free = Freedom(no_constraints(state.masses), momentum=True, angular_momentum=True)
    assert dynamics.get_temperature() == pytest.approx(free.temperature(state))
    assert dynamics.get_temperature() != pytest.approx(atoms.get_temperature(), rel=1e-3)
    atoms.set_velocities(atoms.get_velocities() + 1.0)
    assert dynamics.get_temperature() == pytest.approx(free.temperature(state))


# Restart -----------------------------------------------------------------------------------------------------------

OPTIONS = [
    {"conserve": Conserve(energy=True)},
    {"conserve": Conserve(energy=True, angular_momentum=False)},
    {"thermostat": VelocityRescaling(300, 0.05)},
    {"temperature_K": 300, "friction": 5 / PS, "conserve": Conserve(energy=True)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["energy", "energy, linear momentum", "rescaling", "Langevin, energy"])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_run_continues_bit_for_bit(options, steps, tmp_path):
    """Also in the middle of taking out an excess of energy that was too large for one jump."""

    def faster(state):
        return leaky(state).replace(velocities=1.06 * state.velocities)

    whole = LearnedDynamics(hot(), StandIn(faster), rng=3, **options)
    whole.run(9)
    first = LearnedDynamics(hot(), StandIn(faster), rng=3, **options)
    first.run(steps)
    first.save_restart(tmp_path / "restart")
    second = LearnedDynamics.restart(tmp_path / "restart", hot(seed=8), StandIn(faster))
    assert second.todict() == first.todict()
    second.run(9 - steps)
    np.testing.assert_array_equal(second.atoms.positions, whole.atoms.positions)
    np.testing.assert_array_equal(second.atoms.get_momenta(), whole.atoms.get_momenta())
    if "conserve" in options:
        assert second.guarded.energy.target == whole.guarded.energy.target


def test_the_description_names_what_is_conserved():
    about = LearnedDynamics(hot(), StandIn(leaky), conserve=Conserve(angular_momentum=False, energy=True)).todict()
    assert about["thermostat"] is None
    assert about["conserve"] == {"momentum": None, "angular_momentum": False, "energy": True}
