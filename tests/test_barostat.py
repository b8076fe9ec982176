"""Constant pressure by Monte Carlo: known distributions of the volume, restarts, energies asked for, refusals."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths, FixCom
from ase.io import read
from ase.md.andersen import Andersen
from ase.md.langevin import Langevin as ASELangevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md import load
from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, ConstraintError, EngineError, UnitError
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedDynamics,
    LearnedEnsemble,
    MonteCarloBarostat,
    Schedule,
    UnlikeTrainingWarning,
    VelocityRescaling,
)
from fastegnn_md.integrators.ase.volume import AtomsVolume
from fastegnn_md.integrators.barostat import VolumeMoves
from fastegnn_md.propagator.fake import FakePropagator

KELVIN = 300.0
KT = KELVIN * units.kB
BAR = 1e5 * units.Pascal
PS = 1000 * units.fs
DT = 0.02  # ps


class Counting(Calculator):
    """Counts what it has to compute; a subclass says what."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.calls, self.fails_at = 0, math.inf

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        if self.calls >= self.fails_at:
            raise RuntimeError("no energy today")
        energy, forces = self.answer(atoms)
        self.results = {"energy": energy, "forces": forces}

    def answer(self, atoms):
        return 0.0, np.zeros((len(atoms), 3))


class Plain:
    """A calculator that keeps nothing, and costs nothing beside its function of the atoms."""

    def __init__(self, answer):
        self.answer = answer

    def get_potential_energy(self, atoms, **_):
        return self.answer(atoms)[0]

    def get_forces(self, atoms):
        return self.answer(atoms)[1]


class Crystal(Counting):
    """A simple cubic lattice of atoms, k/2 |x_j − x_i − b|² of each with its neighbour along each axis, b at rest.

    With cell vectors stretched by λ about a lattice, x = λ b + u, sums over u vanish by symmetry and the energy is
    exactly Σ k/2 |b|² (λ − 1)² + Σ k/2 |u_j − u_i|²: the volume and the vibrations, which both are known, are
    independent.
    """

    def __init__(self, repeats: int = 2, springs=(1.0, 1.0, 1.0), rest: float = 2.5):
        super().__init__()
        self.sites = np.array(list(np.ndindex(repeats, repeats, repeats)))
        self.springs, self.rest, self.repeats = np.array(springs), rest, repeats
        place = {tuple(site): k for k, site in enumerate(self.sites)}
        self.pairs, self.wraps = [], []
        for axis in range(3):
            ends = self.sites + np.eye(3, dtype=int)[axis]
            self.pairs.append(np.array([place[tuple(end % repeats)] for end in ends]))
            self.wraps.append(ends // repeats)
        matrix = np.zeros((len(self.sites),) * 2)
        for spring, others in zip(self.springs, self.pairs, strict=True):
            for i, j in enumerate(others):
                matrix[[i, j], [i, j]] += spring
                matrix[i, j] -= spring
                matrix[j, i] -= spring
        self.values, self.vectors = np.linalg.eigh(matrix)

    def answer(self, atoms):
        energy, forces = 0.0, np.zeros((len(atoms), 3))
        for axis, (others, wraps) in enumerate(zip(self.pairs, self.wraps, strict=True)):
            arm = atoms.positions[others] + wraps @ atoms.cell.array - atoms.positions
            arm -= self.rest * np.eye(3)[axis]
            energy += 0.5 * self.springs[axis] * np.vdot(arm, arm)
            forces += self.springs[axis] * arm
            np.add.at(forces, others, -self.springs[axis] * arm)
        return energy, forces

    def build(self) -> Atoms:
        positions, cell = self.rest * self.sites, self.rest * self.repeats * np.eye(3)
        atoms = Atoms(f"Cu{len(self.sites)}", positions, cell=cell, pbc=True)
        atoms.calc = self
        return atoms

    def lattice(self, cell) -> np.ndarray:
        return self.sites @ np.asarray(cell) / self.repeats

    def draw(self, atoms: Atoms, rng: np.random.Generator) -> None:
        """Vibrations of the present volume, without the centre of mass."""
        amplitudes = rng.standard_normal((len(atoms) - 1, 3)) * np.sqrt(KT / self.values[1:, None])
        atoms.positions = self.lattice(atoms.cell) + self.vectors[:, 1:] @ amplitudes

    def exact(self, state, time: float):
        """Positions and velocities after a time (ps): every mode swings by itself."""
        lattice = torch.tensor(self.lattice(state.cell[0].numpy()))
        u, v = (state.positions - lattice).numpy(), state.velocities.numpy() / PS
        mass = state.masses[0].item()
        q, p = self.vectors.T @ u, self.vectors.T @ v
        rate = np.sqrt(np.clip(self.values, 0, None) / mass)[:, None]
        angle = rate * time * PS
        along = np.where(angle > 1e-6, np.sin(angle) / np.where(rate > 0, rate, 1), time * PS)
        q, p = q * np.cos(angle) + p * along, p * np.cos(angle) - q * rate * np.sin(angle)
        return lattice + torch.tensor(self.vectors @ q), torch.tensor(self.vectors @ p * PS)

    def stiffness(self) -> np.ndarray:
        """k Σ |b|² of each axis, eV."""
        return self.springs * len(self.sites) * self.rest**2


def mean_and_error(values) -> tuple[float, float]:
    """Mean and its standard error from blocks, which are longer than correlations."""
    blocks = np.array([one.mean() for one in np.array_split(np.asarray(values), 40)])
    return blocks.mean(), blocks.std(ddof=1) / math.sqrt(len(blocks))


def assert_moments(values, density, low: float, high: float) -> None:
    """Mean and variance of a chain are those of a density that is known but for its norm."""
    grid = np.linspace(low, high, 20001)[1:]
    logs = density(grid)
    weights = np.exp(logs - logs.max())
    expected = np.average(grid, weights=weights)
    variance = np.average((grid - expected) ** 2, weights=weights)
    for found, known in ((values, expected), ((np.asarray(values) - expected) ** 2, variance)):
        mean, error = mean_and_error(found)
        assert error < 0.12 * known, "too short to say anything"
        assert abs(mean - known) < 4 * error, (mean, known, error)


def gas(size: int = 10) -> Atoms:
    positions = np.random.default_rng(3).uniform(0, 15, (size, 3))
    atoms = Atoms(f"Ar{size}", positions, cell=[[15, 0, 0], [2, 15, 0], [0, 1, 15]], pbc=True)
    atoms.calc = Counting()
    return atoms


def assert_ideal(volumes, ideal: float, size: int) -> None:
    """P(V) ∝ V^N exp(−P V / kT): mean (N + 1) kT / P, variance (N + 1) (kT / P)²; ``ideal`` is kT / P."""
    assert_moments(volumes, lambda v: size * np.log(v) - v / ideal, 0, 6 * (size + 1) * ideal)
    mean, error = mean_and_error(volumes)
    assert abs(mean - (size + 1) * ideal) < 4 * error


@pytest.mark.parametrize("anisotropic", [False, True])
def test_an_ideal_gas_has_its_volume(anisotropic):
    moves = VolumeMoves(MonteCarloBarostat("100 bar", anisotropic=anisotropic, step=0.5, adapt=0))
    rng, size, ideal, found = np.random.default_rng(5), 10, KT / (100 * BAR), [3000.0]
    for _ in range(15_000):
        kind, change, factors = moves.propose(rng)
        assert factors.prod() == pytest.approx(math.exp(change), rel=1e-12)
        accepted = moves.accept(kind, change, 0.0, volume=found[-1], atoms=size, kelvin=KELVIN, rng=rng)
        found.append(found[-1] * math.exp(change) if accepted else found[-1])
    assert_ideal(found[300:], ideal, size)
    for wrong in (size - 1, size + 1):  # a test of the test
        with pytest.raises(AssertionError):
            assert_ideal(found[300:], ideal, wrong)


@pytest.mark.parametrize("anisotropic", [False, True])
def test_atoms_without_forces_have_the_volume_of_an_ideal_gas(anisotropic):
    atoms, rng, found = gas(), np.random.default_rng(6), []
    atoms.calc = Plain(lambda atoms: (0.0, None))
    volume = AtomsVolume(atoms, MonteCarloBarostat("100 bar", anisotropic=anisotropic, step=0.5, adapt=0))
    for _ in range(3000):
        volume.attempt(KELVIN, rng)
        found.append(atoms.get_volume())
    assert_ideal(found[100:], KT / (100 * BAR), len(atoms))


def test_a_crystal_fluctuates_as_its_bulk_modulus_says():
    """P(V) ∝ V exp(−[S (λ − 1)² / 2 + P V] / kT), λ³ = V / V₀, S = Σ k |b|² = 9 B V₀."""
    crystal, rng = Crystal(springs=(0.2, 0.2, 0.2)), np.random.default_rng(8)
    atoms = crystal.build()
    atoms.calc = Plain(crystal.answer)
    rest, stiff, pressure = atoms.get_volume(), crystal.stiffness().sum(), 2e3  # bar
    volume, found = AtomsVolume(atoms, MonteCarloBarostat(f"{pressure} bar", adapt=200)), []
    for _ in range(5000):
        crystal.draw(atoms, rng)
        volume.attempt(KELVIN, rng)
        found.append(atoms.get_volume())

    def density(v, power=1):
        return power * np.log(v) - (0.5 * stiff * ((v / rest) ** (1 / 3) - 1) ** 2 + pressure * BAR * v) / KT

    assert_moments(found[300:], density, 0.2 * rest, 2 * rest)
    with pytest.raises(AssertionError):  # a test of the test: what vibrations would add, were they not scaled
        assert_moments(found[300:], functools.partial(density, power=len(atoms)), 0.2 * rest, 2 * rest)
    modulus = stiff / (9 * rest)  # U = B V₀ (V / V₀ − 1)² / 2, but for the anharmonicity that (λ − 1)² has in V
    assert np.var(found[300:]) == pytest.approx(KT * rest / modulus, rel=0.25)


@pytest.mark.slow
def test_axes_of_different_stiffness_fluctuate_each_as_it_should():
    """P(L) ∝ L exp(−S (L / L₀ − 1)² / 2 kT) for each axis at no pressure."""
    crystal, rng = Crystal(springs=(0.3, 1.0, 3.0)), np.random.default_rng(9)
    atoms = crystal.build()
    atoms.calc = Plain(crystal.answer)
    volume, found = AtomsVolume(atoms, MonteCarloBarostat("0 bar", anisotropic=True, adapt=150)), []
    for _ in range(12_000):
        crystal.draw(atoms, rng)
        volume.attempt(KELVIN, rng)
        found.append(atoms.cell.lengths())
    rest = crystal.rest * crystal.repeats
    for lengths, stiff in zip(np.array(found[600:]).T, crystal.stiffness(), strict=True):
        assert_moments(
            lengths, lambda x, k=stiff: np.log(x) - 0.5 * k * (x / rest - 1) ** 2 / KT, 0.5 * rest, 1.5 * rest
        )
    assert volume.moves.steps[0] > volume.moves.steps[1] > volume.moves.steps[2]
    assert atoms.cell.angles() == pytest.approx([90, 90, 90])


@pytest.mark.slow
def test_jumps_and_moves_together_sample_volume_and_temperature():
    """Exact jumps, Langevin, and a move after each step."""
    crystal = Crystal(springs=(0.5, 0.5, 0.5))
    atoms = crystal.build()
    rest, stiff, found, kinetic = atoms.get_volume(), crystal.stiffness().sum(), [], []
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    dynamics = LearnedDynamics(
        atoms,
        FakePropagator(functools.partial(crystal.exact, time=DT), DT),
        thermostat=Langevin(KELVIN, "20/ps"),
        barostat=MonteCarloBarostat("1 kbar", every=1, adapt=200),
        rng=4,
    )
    dynamics.run(300)
    for _ in dynamics.irun(2500):
        found.append(atoms.get_volume())
        kinetic.append(atoms.get_kinetic_energy())

    def density(v):
        return np.log(v) - (0.5 * stiff * ((v / rest) ** (1 / 3) - 1) ** 2 + 1000 * BAR * v) / KT

    assert_moments(found, density, 0.3 * rest, 1.7 * rest)
    mean, error = mean_and_error(kinetic)
    assert abs(mean - 1.5 * len(atoms) * KT) < 4 * error
    assert dynamics.statistics.volume_moves == 2800
    assert dynamics.statistics.volume_accepted == sum(dynamics.volume.moves.accepted)


def test_the_step_is_adapted_and_then_fixed():
    crystal, rng = Crystal(), np.random.default_rng(2)
    atoms = crystal.build()
    volume = AtomsVolume(atoms, MonteCarloBarostat("1 bar", step=1e-4, adapt=150))
    steps = []
    for _ in range(900):
        crystal.draw(atoms, rng)
        volume.attempt(KELVIN, rng)
        steps.append(volume.moves.steps[0])
    assert len(set(steps[:150])) == 150
    assert len(set(steps[149:])) == 1
    assert steps[-1] > 1e-3
    assert 0.35 < volume.moves.accepted[0] / volume.moves.tried[0] < 0.65


def test_scaling_keeps_fractional_coordinates_momenta_and_the_centre_of_mass():
    atoms = gas()
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    before = atoms.copy()
    volume, rng = (
        AtomsVolume(atoms, MonteCarloBarostat("100 bar", anisotropic=True, step=0.5)),
        np.random.default_rng(3),
    )
    while volume.attempt(KELVIN, rng) is None:
        pass
    assert atoms.get_volume() != pytest.approx(before.get_volume(), rel=1e-3)
    np.testing.assert_allclose(atoms.cell.angles(), before.cell.angles())
    shift = atoms.get_scaled_positions(wrap=False) - before.get_scaled_positions(wrap=False)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-12)
    np.testing.assert_allclose(atoms.get_center_of_mass(), before.get_center_of_mass())
    assert np.array_equal(atoms.get_momenta(), before.get_momenta())


def moving_crystal(**options) -> tuple[LearnedDynamics, Crystal]:
    crystal = Crystal()
    atoms = crystal.build()
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    options = {"thermostat": Langevin(KELVIN, "5/ps"), "barostat": MonteCarloBarostat("1 bar", every=2), **options}
    propagator = FakePropagator(functools.partial(crystal.exact, time=DT), DT)
    return LearnedDynamics(atoms, propagator, rng=7, **options), crystal


def test_a_move_asks_for_two_energies_between_jumps():
    dynamics, crystal = moving_crystal()
    dynamics.run(1)
    assert crystal.calls == 0
    dynamics.run(5)
    assert dynamics.statistics.volume_moves == 3
    assert crystal.calls == 6


@pytest.mark.parametrize("own", [True, False])
def test_a_move_asks_for_one_energy_where_the_calculator_has_the_other(own):
    """After a classical step, which has just asked for forces at the same positions."""
    crystal = Crystal()
    atoms = crystal.build()
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    rng = np.random.default_rng(5)
    langevin = ASELangevin(atoms, 1 * units.fs, temperature_K=KELVIN, friction=0.01 / units.fs, rng=rng, fixcm=False)
    schedule = Schedule(1000, 1, classical="1 fs" if own else langevin)
    options = {"thermostat": Langevin(KELVIN, "10/ps")} if own else {}
    propagator = FakePropagator(functools.partial(crystal.exact, time=DT), DT)

    def calls(**more):
        crystal.calls = 0
        crystal.reset()
        LearnedDynamics(atoms, propagator, schedule=schedule, rng=1, **options, **more).run(6)
        return crystal.calls

    without = calls()
    rejected = calls(barostat=MonteCarloBarostat("100 GPa", every=6, step=1e-6))
    assert rejected == without + 1


@pytest.mark.parametrize("energy", [False, True])
def test_a_run_goes_on_bit_for_bit(tmp_path, energy):
    conserve = Conserve(energy=energy)
    whole, _ = moving_crystal(conserve=conserve, trajectory=str(tmp_path / "whole.traj"))
    whole.run(31)
    part, _ = moving_crystal(conserve=conserve, trajectory=str(tmp_path / "part.traj"))
    part.run(13)
    part.save_restart(tmp_path / "restart")
    part.run(4)  # frames that the restarted run takes back
    part.close()
    crystal = Crystal()
    propagator = FakePropagator(functools.partial(crystal.exact, time=DT), DT)
    again = LearnedDynamics.restart(
        tmp_path / "restart", crystal.build(), propagator, trajectory=str(tmp_path / "part.traj")
    )
    assert again.barostat == whole.barostat
    again.run(18)
    for name in ("positions", "momenta"):
        assert np.array_equal(again.atoms.arrays[name], whole.atoms.arrays[name])
    assert np.array_equal(again.atoms.cell, whole.atoms.cell)
    assert again.volume.moves == whole.volume.moves
    assert again.statistics == whole.statistics
    assert again.statistics.volume_accepted > 2
    again.close()
    whole.close()
    frames = [read(tmp_path / f"{name}.traj", ":") for name in ("whole", "part")]
    assert len(frames[0]) == len(frames[1]) == 32
    assert all(np.array_equal(a.cell, b.cell) for a, b in zip(*frames, strict=True))
    assert len({frame.get_volume() for frame in frames[0]}) > 3


def test_a_damaged_place_of_the_barostat_is_named(tmp_path):
    dynamics, _ = moving_crystal()
    for place in (None, {"steps": [0.1, 0.1], "tried": [1], "accepted": [1]}, {"steps": ["a"]}):
        with pytest.raises(CheckpointError, match="damaged"):
            dynamics.volume.moves.take(place)


def test_the_energy_to_conserve_follows_the_volume():
    crystal = Crystal()
    atoms = crystal.build()
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(1))
    dynamics = LearnedDynamics(
        atoms,
        FakePropagator(functools.partial(crystal.exact, time=DT), DT),
        thermostat=VelocityRescaling(KELVIN, "0.1 ps"),
        conserve=Conserve(energy=True),
        barostat=MonteCarloBarostat("1 bar", every=1),
        rng=7,
    )
    dynamics.run(50)
    assert dynamics.statistics.volume_accepted > 5
    total = (atoms.get_potential_energy() + atoms.get_kinetic_energy()) * PS**2
    assert dynamics.guarded.energy.target == pytest.approx(total, rel=1e-9)


def test_a_calculator_that_fails_leaves_everything_as_it_was():
    dynamics, crystal = moving_crystal()
    dynamics.run(3)
    crystal.fails_at = crystal.calls + 2  # the energy of the new volume
    before, place = dynamics.atoms.copy(), dynamics.volume.moves.place()
    drawn = dynamics.rng.bit_generator.state
    with pytest.raises(EngineError, match="no energy today"):
        dynamics.run(1)
    assert dynamics.rng.bit_generator.state == drawn
    assert np.array_equal(before.positions, dynamics.atoms.positions)
    assert np.array_equal(before.cell, dynamics.atoms.cell)
    assert dynamics.volume.moves.place() == place
    assert dynamics.statistics.volume_moves == 1


def test_an_energy_that_is_not_finite_is_a_rejection_and_none_to_start_from():
    class Wall(Counting):
        def answer(self, atoms):
            return (0.0 if atoms.get_volume() == self.known else math.nan), np.zeros((len(atoms), 3))

    atoms = gas()
    atoms.calc = Wall()
    atoms.calc.known = atoms.get_volume()
    volume, rng = AtomsVolume(atoms, MonteCarloBarostat("1 bar")), np.random.default_rng(1)
    assert all(volume.attempt(KELVIN, rng) is None for _ in range(5))
    atoms.set_cell(atoms.cell * 1.01)
    with pytest.raises(EngineError, match="nan"):
        volume.attempt(KELVIN, rng)


def test_the_log_has_the_volume(tmp_path):
    dynamics, _ = moving_crystal(logfile=tmp_path / "run.log")
    dynamics.run(3)
    dynamics.close()
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert lines[0].split()[-1] == "V[A^3]"
    assert float(lines[-1].split()[-1]) == pytest.approx(dynamics.atoms.get_volume(), abs=1e-3)


def copper() -> Atoms:
    atoms = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3)
    atoms.calc = EMT()
    thermalize_momenta(atoms, 600, rng=np.random.default_rng(1))
    return atoms


def copper_run(seed: int, propagator) -> LearnedDynamics:
    """Moves after each step that change the volume so that neighbours are others."""
    barostat = MonteCarloBarostat("0 bar", every=1, step=0.02)
    dynamics = LearnedDynamics(copper(), propagator, thermostat=Langevin(600, "10/ps"), barostat=barostat, rng=seed)
    dynamics.guarded.audits = None  # they go by the clock
    return dynamics


def test_replicas_have_volumes_of_their_own():
    alone = [copper_run(seed, load("copper-emt")) for seed in range(2)]
    propagator = load("copper-emt")
    together = [copper_run(seed, propagator) for seed in range(2)]
    for one in alone:
        one.run(3)
    LearnedEnsemble(together).run(3)
    for one, other in zip(alone, together, strict=True):
        assert other.atoms.get_volume() == pytest.approx(one.atoms.get_volume(), rel=1e-6)
        assert other.statistics.volume_moves == 3
    assert together[0].atoms.get_volume() != together[1].atoms.get_volume()


class TestRefusals:
    def dynamics(self, atoms=None, **options):
        atoms = gas() if atoms is None else atoms
        options = {"thermostat": Langevin(KELVIN, "5/ps"), "barostat": MonteCarloBarostat("1 bar"), **options}
        return LearnedDynamics(atoms, FakePropagator(lambda state: state, DT), **options)

    @pytest.mark.parametrize("pressure", [1, 1.0, None, "1", "1 fs", "a lot", True])
    def test_pressures_have_units(self, pressure):
        with pytest.raises(UnitError, match="pressure"):
            MonteCarloBarostat(pressure)

    @pytest.mark.parametrize(
        "options",
        [{"every": 0}, {"every": 1.5}, {"adapt": -1}, {"step": 0}, {"step": 2}, {"step": "1"}, {"anisotropic": "x"}],
    )
    def test_numbers_out_of_range(self, options):
        with pytest.raises(ConfigError, match=next(iter(options))):
            MonteCarloBarostat("1 bar", **options)

    @pytest.mark.parametrize(("text", "bar"), [("1 bar", 1), ("1 GPa", 1e4), ("1 atm", 1.01325), ("-2 kbar", -2e3)])
    def test_pressures_are_in_bar(self, text, bar):
        assert MonteCarloBarostat(text).pressure == pytest.approx(bar)

    def test_quantities_of_openmm_are_pressures(self, require):
        require("openmm")
        from openmm import unit

        assert MonteCarloBarostat(2 * unit.atmosphere).pressure == pytest.approx(2.0265)

    def test_what_is_no_barostat(self):
        with pytest.raises(ConfigError, match=re.escape("MonteCarloBarostat('1 bar')")):
            self.dynamics(barostat="1 bar")

    def test_no_thermostat(self):
        with pytest.raises(ConfigError, match="needs a thermostat"):
            self.dynamics(thermostat=None)
        with pytest.raises(ConfigError, match="above zero"):
            self.dynamics(thermostat=Langevin(0, "5/ps"))

    def test_no_calculator(self):
        atoms = gas()
        atoms.calc = None
        with pytest.raises(CompatibilityError, match="attach a calculator"):
            self.dynamics(atoms)

    @pytest.mark.parametrize("pbc", [False, [True, True, False]])
    def test_not_periodic(self, pbc):
        atoms = gas()
        atoms.pbc = pbc
        with pytest.raises(CompatibilityError, match="periodic in all directions"):
            self.dynamics(atoms)

    @pytest.mark.parametrize("constraint", [FixAtoms([0]), FixBondLengths([[0, 1]])])
    def test_constraints(self, constraint):
        atoms = gas()
        atoms.set_constraint(constraint)
        with pytest.raises(ConstraintError, match=type(constraint).__name__):
            self.dynamics(atoms)

    def test_constraints_that_come_later(self):
        dynamics = self.dynamics(barostat=MonteCarloBarostat("1 bar", every=1))
        dynamics.run(1)
        dynamics.atoms.set_constraint(FixAtoms([0]))
        with pytest.raises(ConstraintError, match="FixAtoms"):
            dynamics.run(1)

    def test_another_barostat_in_the_classical_steps(self):
        atoms = gas()
        options = {"temperature_K": KELVIN, "pressure_au": BAR, "compressibility_au": 1.0}
        classical = NPTBerendsen(atoms, 1 * units.fs, **options)
        with pytest.raises(ConfigError, match="NPTBerendsen changes the volume itself"):
            self.dynamics(atoms, thermostat=None, schedule=Schedule(1, 20, classical=classical))

    def test_classical_steps_whose_temperature_nobody_knows(self):
        atoms = gas()
        classical = Andersen(atoms, 1 * units.fs, temperature_K=KELVIN, andersen_prob=0.1)
        with pytest.raises(ConfigError, match="needs a thermostat"):
            self.dynamics(atoms, thermostat=None, schedule=Schedule(1, 20, classical=classical))

    def test_it_is_not_assigned(self):
        with pytest.raises(ConfigError, match="barostat cannot be assigned"):
            self.dynamics().barostat = MonteCarloBarostat("2 bar")


def test_a_trained_propagator_sees_the_cell_as_it_is(tmp_path):
    """Neighbours, limits and whatever else is kept from jump to jump are those of the present cell."""
    dynamics = copper_run(3, load("copper-emt"))
    while dynamics.statistics.volume_accepted < 3:
        dynamics.run(1)
    assert dynamics.statistics.accepted == dynamics.statistics.tried
    dynamics.save_restart(tmp_path / "restart")
    fresh = LearnedDynamics.restart(tmp_path / "restart", copper(), load("copper-emt"))
    fresh.guarded.audits = None
    dynamics.run(3)
    fresh.run(3)
    assert np.array_equal(fresh.atoms.cell, dynamics.atoms.cell)
    np.testing.assert_allclose(fresh.atoms.positions, dynamics.atoms.positions, atol=1e-5)


def test_volumes_far_from_those_of_training_are_warned_of_once():
    atoms = copper()
    options = {"thermostat": Langevin(600, "10/ps"), "barostat": MonteCarloBarostat("20 GPa", every=1, step=0.1)}
    dynamics = LearnedDynamics(atoms, load("copper-emt"), rng=3, **options)
    with pytest.warns(UnlikeTrainingWarning, match="per atom") as found:
        dynamics.run(12)
    assert len(found) == 1
