"""The Metropolis test: exact sampling with wrong maps, and ASE dynamics that do it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase import units as ase_units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLengths, FixCom
from ase.io import read
from scipy import integrate

from fastegnn_md import State
from fastegnn_md.engines.ase.atoms import FORCE
from fastegnn_md.engines.ase.stepper import PICOSECOND
from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, ConstraintError, StateError, UnitError
from fastegnn_md.integrators import MetropolizedDynamics
from fastegnn_md.integrators.metropolis import MetropolisStep
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.kick_drift import KickDriftPropagator
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.units import BOLTZMANN

T = 300.0
KT = BOLTZMANN * T  # amu Å²/ps²
MASS = 12.011
STIFF = 1000.0  # amu/ps²


class Leapfrog(FakePropagator):
    """Drift, kick, drift with any acceleration: reversible and volume preserving, right or wrong."""

    def __init__(self, acceleration, timestep: float = 0.1, **options):
        domain = permissive_domain()
        light = {number: masses for number, masses in domain.masses.items() if number <= 50}
        options = {"reversible": True, "volume_preserving": True, **options}
        super().__init__(self.leap, timestep, dataclasses.replace(domain, masses=light), **options)
        self.acceleration = acceleration

    def leap(self, state):
        x = state.positions + 0.5 * self.timestep * state.velocities
        v = state.velocities + self.timestep * self.acceleration(x)
        return x + 0.5 * self.timestep * v, v


def wrong_spring(x):
    """1.15 times the frequency of the true spring, and a force that turns round an axis, which no energy has."""
    turning = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], dim=1)
    return -(1.15**2 * STIFF * x + 0.1 * STIFF * turning) / MASS


def harmonic(x) -> float:
    return 0.5 * STIFF * float(x.square().sum())


BARRIER, WELL = 2.5 * KT, 0.8  # along x, Å


def double_well(x) -> float:
    along = float(((x[:, 0] / WELL) ** 2 - 1).square().sum())
    return BARRIER * along + 0.5 * STIFF * float(x[:, 1:].square().sum())


def one_atom(n: int = 1, seed: int = 1) -> State:
    start = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return State(
        positions=0.3 * start,
        velocities=torch.zeros(n, 3, dtype=torch.float64),
        numbers=torch.full((n,), 6),
        masses=torch.full((n,), MASS, dtype=torch.float64),
    )


def free(n: int = 1, **options) -> Constraints:
    none = torch.zeros(0, 2, dtype=torch.int64)
    masses = torch.full((n,), MASS, dtype=torch.float64)
    return Constraints(masses, none, torch.zeros(0), torch.zeros(n, dtype=torch.bool), **options)


def sample(step: MetropolisStep, potential, steps: int, n: int = 1, seed: int = 5, constraints=None):
    """Positions, velocities and potential energies after each step."""
    state, energy, rng = one_atom(n), None, np.random.default_rng(seed)
    constraints = constraints or free(n)
    found = []
    for _ in range(steps):
        state, energy = step(state, potential, rng, constraints, energy)
        found.append((state.positions.numpy().copy(), state.velocities.numpy().copy(), energy))
    x, v, u = zip(*found, strict=True)
    return np.array(x), np.array(v), np.array(u)


def deviation(series: np.ndarray, exact: float, blocks: int = 40) -> float:
    """How many standard errors, by bootstrap of the means of blocks, the mean of a series (steps,) is off."""
    means = np.array([block.mean() for block in np.array_split(series, blocks)])
    drawn = np.random.default_rng(0).integers(blocks, size=(2000, blocks))
    return abs(series.mean() - exact) / means[drawn].mean(axis=1).std()


REFRESHMENTS = pytest.mark.parametrize("friction", [None, 5.0], ids=["full", "partial"])


@REFRESHMENTS
def test_a_wrong_map_samples_harmonic_oscillators(friction):
    """Variances, a share and a correlation of three oscillators, within 3 σ each."""
    step = MetropolisStep(Leapfrog(wrong_spring), T, friction)
    x, v, u = sample(step, harmonic, 5000)
    assert 0.3 < step.statistics.acceptance < 0.9  # wrong enough to matter
    assert deviation((x**2).mean(axis=(1, 2)), KT / STIFF) < 3
    within = abs(x) < math.sqrt(KT / STIFF)
    assert deviation(within.mean(axis=(1, 2)), math.erf(math.sqrt(0.5))) < 3
    assert deviation((v**2).mean(axis=(1, 2)), KT / MASS) < 3
    assert deviation(u, 1.5 * KT) < 3
    assert deviation((x * v).mean(axis=(1, 2)), 0.0) < 3


@REFRESHMENTS
def test_without_the_test_the_same_map_does_not(friction):
    """The bound of the test above sees the error of the map."""
    step = MetropolisStep(Leapfrog(wrong_spring), T, friction)
    state, rng, found = one_atom(), np.random.default_rng(5), []
    for _ in range(3000):
        state = step.propagator(step._refreshed(state, rng, free()))
        found.append(float(state.positions.square().mean()))
    assert deviation(np.array(found), KT / STIFF) > 5


def test_without_turning_velocities_round_partial_refreshment_is_wrong(monkeypatch):
    """A rejection that keeps velocities breaks detailed balance; the same bound sees that, too."""
    step = MetropolisStep(Leapfrog(wrong_spring, 0.12), T, 1.0)
    state, energy, rng, found = one_atom(), None, np.random.default_rng(5), []
    for _ in range(4000):
        before = step.statistics.accepted
        state, energy = step(state, harmonic, rng, free(), energy)
        if step.statistics.accepted == before:
            state = state.replace(velocities=-state.velocities)
        found.append(float(state.positions.square().mean()))
    assert deviation(np.array(found), KT / STIFF) > 4


@REFRESHMENTS
def test_a_wrong_map_samples_a_double_well(friction):
    """A map that knows the wells too shallow and too far apart; moments by quadrature, within 3 σ."""

    def acceleration(x):
        along = -4 * (0.8 * BARRIER) / (1.1 * WELL) ** 2 * x[:, :1] * ((x[:, :1] / (1.1 * WELL)) ** 2 - 1)
        return torch.cat([along, -1.3 * STIFF * x[:, 1:]], dim=1) / MASS

    step = MetropolisStep(Leapfrog(acceleration, 0.06), T, friction)
    x, _, u = sample(step, double_well, 10000)
    x = x[:, 0, 0]
    assert 0.3 < step.statistics.acceptance < 0.95
    assert ((x[1:] > 0) != (x[:-1] > 0)).sum() > 50  # it crosses often enough to compare both wells

    def weight(y):
        return math.exp(-BARRIER * ((y / WELL) ** 2 - 1) ** 2 / KT)

    norm = integrate.quad(weight, -5, 5)[0]

    def mean(of, limit=5.0):
        return integrate.quad(lambda y: of(y) * weight(y), -limit, limit)[0] / norm

    assert deviation(x, 0.0) < 3
    assert deviation(x**2, mean(lambda y: y**2)) < 3
    assert deviation((abs(x) < 0.3 * WELL).astype(float), mean(lambda y: 1.0, 0.3 * WELL)) < 3
    assert deviation(u, mean(lambda y: BARRIER * ((y / WELL) ** 2 - 1) ** 2) + KT) < 3


def test_a_centre_of_mass_that_rests_leaves_three_degrees_of_freedom_less():
    def springs(x):
        return -1.2 * STIFF * (x - x.mean(0)) / MASS

    def potential(x):
        return 0.5 * STIFF * float((x - x.mean(0)).square().sum())

    step = MetropolisStep(Leapfrog(springs, 0.1), T)
    x, v, u = sample(step, potential, 3000, n=3, constraints=free(3, fixed_com=True))
    assert np.abs(v.mean(axis=1)).max() < 1e-12
    assert np.abs(x.mean(axis=1) - x[0].mean(axis=0)).max() < 1e-9
    assert deviation(0.5 * MASS * (v**2).sum(axis=(1, 2)), 3.0 * KT) < 3
    assert deviation(u, 3.0 * KT) < 3


def test_checks_of_physical_validation(require):
    """Kinetic energies have the distribution of Maxwell and Boltzmann; two temperatures the right ratio."""
    require("physical_validation")
    import physical_validation as validation

    units = validation.data.UnitData(
        kb=BOLTZMANN, energy_conversion=0.01, length_conversion=0.1, volume_conversion=1e-3,
        temperature_conversion=1.0, pressure_conversion=1.0, time_conversion=1.0,
    )  # fmt: skip
    n, runs = 3, []
    for temperature in (300.0, 350.0):
        step = MetropolisStep(Leapfrog(wrong_spring, 0.1), temperature, 20.0)
        _, v, u = sample(step, harmonic, 3400, n=n)
        assert step.statistics.acceptance < 0.9
        v, u = v[200::4], u[200::4]  # hardly correlated
        runs.append(
            validation.data.SimulationData(
                units=units,
                ensemble=validation.data.EnsembleData("NVT", natoms=n, volume=1.0, temperature=temperature),
                system=validation.data.SystemData(natoms=n, nconstraints=0, ndof_reduction_tra=0, ndof_reduction_rot=0),
                observables=validation.data.ObservableData(
                    kinetic_energy=0.5 * MASS * (v**2).sum(axis=(1, 2)),
                    potential_energy=u,
                    total_energy=u + 0.5 * MASS * (v**2).sum(axis=(1, 2)),
                ),
            )
        )
    for run in runs:
        assert validation.kinetic_energy.distribution(run, strict=True, verbosity=0, data_is_uncorrelated=True) > 0.01
    quantiles = validation.ensemble.check(
        *runs, total_energy=False, verbosity=0, data_is_uncorrelated=True, bootstrap_seed=1
    )
    assert max(quantiles) < 3


def test_one_energy_per_jump_and_that_of_the_state_only_once():
    step = MetropolisStep(Leapfrog(wrong_spring), T)
    asked = []

    def potential(x):
        asked.append(x)
        return harmonic(x)

    sample(step, potential, 20)
    assert len(asked) == 21
    assert step.statistics.energies == 21
    assert step.statistics.tried == 20


def test_a_proposal_of_several_jumps_samples_the_same_at_one_energy():
    step = MetropolisStep(Leapfrog(wrong_spring), T, friction=5.0, jumps=3)
    assert step.timestep == pytest.approx(0.3)
    x, _, u = sample(step, harmonic, 5000)
    assert step.propagator.calls == 3 * 5000
    assert step.statistics.energies == 5001
    assert 0.2 < step.statistics.acceptance < 0.9
    assert deviation((x**2).mean(axis=(1, 2)), KT / STIFF) < 3
    assert deviation(u, 1.5 * KT) < 3


def test_the_refreshment_is_that_of_the_whole_proposal():
    state, rng = one_atom(1000), np.random.default_rng(3)
    steps = [MetropolisStep(Leapfrog(lambda x: 0 * x), T, friction=2.0, jumps=jumps) for jumps in (1, 4)]
    kept = [float(one._refreshed(state, rng, free(1000)).velocities.square().mean()) for one in steps]
    expected = [-math.expm1(-2 * 2.0 * 0.1 * jumps) * KT / MASS for jumps in (1, 4)]  # from rest
    assert kept == pytest.approx(expected, rel=0.1)


def test_a_rejection_keeps_positions_and_turns_velocities_round():
    step = MetropolisStep(Leapfrog(lambda x: torch.zeros_like(x)), T, friction=0.0)
    state = one_atom().replace(velocities=torch.ones(1, 3, dtype=torch.float64))
    ended, energy = step(state, lambda x: 1e9, np.random.default_rng(0), free(), energy=3.0)
    assert ended.positions is state.positions
    assert torch.equal(ended.velocities, -state.velocities)
    assert energy == 3.0
    assert step.statistics.accepted == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_energies_and_predictions_that_are_not_finite_are_rejections(value):
    step = MetropolisStep(Leapfrog(wrong_spring), T)
    ended, _ = step(one_atom(), lambda x: value, np.random.default_rng(0), free(), energy=3.0)
    assert torch.equal(ended.positions, one_atom().positions)
    step.propagator.acceleration = lambda x: x * value
    ended, _ = step(one_atom(), harmonic, np.random.default_rng(0), free(), energy=3.0)
    assert torch.equal(ended.positions, one_atom().positions)
    assert step.statistics.not_finite == step.statistics.tried == 2
    with pytest.raises(StateError, match="present positions"):
        step(one_atom(), lambda x: value, np.random.default_rng(0), free())


def test_what_it_cannot_be_right_for_is_refused():
    for lacking in ("reversible", "volume_preserving"):
        with pytest.raises(CompatibilityError, match="kick-drift"):
            MetropolisStep(Leapfrog(wrong_spring, **{lacking: False}), T)
    for kind in ("force-free", "position"):
        with pytest.raises(CompatibilityError, match="kick-drift"):
            MetropolisStep(Propagator.build(PropagatorConfig(kind=kind, hidden=4, layers=1), 0.01, domain()), T)
    for temperature in (0.0, -1.0, math.nan, None):
        with pytest.raises(ConfigError, match="temperature"):
            MetropolisStep(Leapfrog(wrong_spring), temperature)
    with pytest.raises(ConfigError, match="friction"):
        MetropolisStep(Leapfrog(wrong_spring), T, -1.0)
    drifting = KickDriftPropagator(PropagatorConfig(kind="kick-drift", hidden=4, layers=1), 0.01, domain(False))
    with pytest.raises(ConstraintError, match="momentum"):
        MetropolisStep(drifting, T).check(free(fixed_com=True))


# ASE -----------------------------------------------------------------------------------------------------------------


def domain(conserving: bool = True) -> Domain:
    return Domain(
        masses={1: (1.0, 1.01), 6: (12.0, 12.02)},
        limits=JumpLimits({}),
        periodic=False,
        bonds=False,
        conserves_momentum=conserving,
        neighbours=3.0,
        velocity_scale=10.0,
        force_scale=1.0,
    )


class Springs(Calculator):
    """Springs of zero length between all atoms, in eV/Å²; can be made to fail."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, spring: float = 0.1):
        super().__init__()
        self.spring, self.calls, self.fails = spring, 0, False

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        if self.fails:
            raise RuntimeError("no convergence")
        u = atoms.positions - atoms.positions.mean(0)
        self.results = {"energy": 0.5 * self.spring * np.vdot(u, u), "forces": -self.spring * u}


def cluster() -> Atoms:
    atoms = Atoms("CHCH", [[0, 0, 0], [1.1, 0, 0], [0, 1.5, 0.3], [0.5, 0.2, 1.6]])
    atoms.calc = Springs()
    return atoms


def network(kick: float = 1.0) -> KickDriftPropagator:
    """Random weights, moving the cluster by kicks that its springs do not know."""
    config = PropagatorConfig(kind="kick-drift", kicks=1, hidden=8, layers=1, virtual_nodes=1, cutoff=3.0)
    propagator = KickDriftPropagator(config, 0.01, domain(), seed=3).double().requires_grad_(False)
    for parameter in propagator.network.parameters():
        if parameter.dim() == 2 and float(parameter.abs().mean()) < 0.06:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(3))
    x = torch.tensor(cluster().positions)
    state = State(
        positions=x, velocities=0 * x, numbers=torch.tensor([6, 1, 6, 1]), masses=torch.tensor(cluster().get_masses())
    )
    acceleration = propagator._acceleration(state, torch.zeros(4, dtype=torch.int64))
    propagator.force_scale *= kick / (0.01 * acceleration.std())
    return propagator


def dynamics_of(atoms: Atoms | None = None, propagator=None, **options) -> MetropolizedDynamics:
    return MetropolizedDynamics(
        atoms or cluster(), propagator or network(), **{"temperature_K": T, "rng": 4, **options}
    )


def test_friction_with_its_unit_is_that_of_ase() -> None:
    given, told = dynamics_of(friction=0.01 / ase_units.fs), dynamics_of(friction="10/ps")
    assert told.friction == pytest.approx(given.friction, rel=1e-12)
    told.friction = "5/ps"
    assert told.friction == pytest.approx(given.friction / 2, rel=1e-12)


@pytest.mark.slow
def test_random_weights_sample_the_distribution_of_the_calculator():
    """⟨U⟩ = 3 (N - 1) kT / 2 for springs between all atoms; within 3 σ."""
    atoms = cluster()
    dynamics = dynamics_of(atoms, network(kick=6.0))
    energies, kinetic = [], []
    for _ in dynamics.irun(1200):
        energies.append(dynamics.logged_energy())
        kinetic.append(atoms.get_kinetic_energy())
    kt = KT / FORCE
    assert 0.3 < dynamics.statistics.acceptance < 0.95
    assert deviation(np.array(energies[100:]), 4.5 * kt) < 3
    assert dynamics.statistics.energies == atoms.calc.calls == 1201


def test_energies_logged_are_those_of_the_positions(tmp_path):
    atoms = cluster()
    dynamics = dynamics_of(atoms, network(kick=6.0), logfile=tmp_path / "log", trajectory=str(tmp_path / "run.traj"))
    for _ in dynamics.irun(30):
        known = dynamics.logged_energy()
        fresh = atoms.copy()
        fresh.calc = Springs()
        assert known == pytest.approx(fresh.get_potential_energy(), rel=1e-12)
    assert 0 < dynamics.statistics.accepted < 30
    assert len(read(tmp_path / "run.traj", ":")) == 31
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 32
    assert "nan" not in "".join(lines)
    assert dynamics.get_time() == pytest.approx(30 * 0.01 * PICOSECOND)


def test_a_restarted_run_is_the_uninterrupted_one(tmp_path):
    options = {"friction": 2.0 / PICOSECOND, "jumps": 2}
    whole = cluster()
    reference = dynamics_of(whole, trajectory=str(tmp_path / "whole.traj"), **options)
    reference.run(25)
    atoms = cluster()
    stopped = dynamics_of(atoms, trajectory=str(tmp_path / "run.traj"), **options)
    stopped.attach_restart(tmp_path / "run.restart", 9)
    stopped.run(20)
    again = cluster()
    resumed = MetropolizedDynamics.restart(
        tmp_path / "run.restart", again, network(), trajectory=str(tmp_path / "run.traj")
    )
    assert resumed.nsteps == 18
    resumed.run(7)
    assert np.array_equal(again.positions, whole.positions)
    assert np.array_equal(again.get_momenta(), whole.get_momenta())
    assert resumed.statistics == reference.statistics
    assert resumed.rng.bit_generator.state == reference.rng.bit_generator.state
    frames, expected = read(tmp_path / "run.traj", ":"), read(tmp_path / "whole.traj", ":")
    assert len(frames) == len(expected) == 26
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, expected, strict=True))
    from fastegnn_md.integrators import LearnedDynamics

    with pytest.raises(CheckpointError):
        LearnedDynamics.restart(tmp_path / "run.restart", cluster(), network())


def test_an_engine_that_fails_leaves_atoms_and_random_numbers_as_they_were():
    atoms = cluster()
    dynamics = dynamics_of(atoms)
    dynamics.run(3)
    before, momenta = atoms.positions.copy(), atoms.get_momenta()
    drawn, counted = dynamics.rng.bit_generator.state, dataclasses.replace(dynamics.statistics)
    atoms.calc.fails = True
    with pytest.raises(RuntimeError, match="no convergence"):
        dynamics.run(1)
    assert np.array_equal(atoms.positions, before)
    assert np.array_equal(atoms.get_momenta(), momenta)
    assert dynamics.rng.bit_generator.state == drawn
    assert dynamics.statistics == counted
    atoms.calc.fails = False
    dynamics.run(2)
    assert dynamics.statistics.tried == 5


def test_atoms_that_were_moved_by_others_are_evaluated_again():
    atoms = cluster()
    dynamics = dynamics_of(atoms)
    dynamics.run(2)
    atoms.positions[0] += 0.3
    expected = atoms.copy()
    expected.calc = Springs()
    assert dynamics.logged_energy() == pytest.approx(expected.get_potential_energy(), rel=1e-12)
    atoms.calc = Springs(0.4)
    assert dynamics.logged_energy() == pytest.approx(4 * expected.get_potential_energy(), rel=1e-12)


def test_temperature_counts_true_degrees_of_freedom_with_a_fixed_centre():
    atoms = cluster()
    atoms.set_constraint(FixCom())
    dynamics = dynamics_of(atoms, network(kick=3.0))
    temperatures = []
    for _ in dynamics.irun(500):
        temperatures.append(atoms.get_temperature())
        assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-9
    assert deviation(np.array(temperatures[1:]), T) < 3


def test_what_does_not_fit_is_refused():
    for constraint in (FixAtoms([0]), FixBondLengths([(0, 1)])):
        atoms = cluster()
        atoms.set_constraint(constraint)
        with pytest.raises(ConstraintError, match="Metropolis"):
            dynamics_of(atoms)
        atoms.set_constraint()
        dynamics = dynamics_of(atoms)
        atoms.set_constraint(constraint)
        with pytest.raises(ConstraintError, match="Metropolis"):
            dynamics.run(1)
    atoms = cluster()
    atoms.calc = None
    with pytest.raises(CompatibilityError, match="calculator"):
        dynamics_of(atoms)
    with pytest.raises(ConfigError, match="propagator is a float; expected a Propagator"):
        MetropolizedDynamics(atoms, 1.0, temperature_K=300)
    with pytest.raises(ConfigError, match="jumps is 0"):
        dynamics_of(jumps=0)
    with pytest.raises(UnitError, match="a friction needs one of"):
        dynamics_of(friction="10")
    strange = Atoms("Au4", cluster().positions)
    strange.calc = Springs()
    with pytest.raises(CompatibilityError, match="79"):
        dynamics_of(strange)


def test_a_drawn_seed_is_kept_and_repeats_the_run(capsys):
    def positions(rng):
        dynamics = dynamics_of(rng=rng)
        dynamics.run(2)
        return dynamics.seed, dynamics.atoms.positions

    seed, first = positions(None)
    np.testing.assert_array_equal(positions(seed)[1], first)
    assert np.abs(positions(seed + 1)[1] - first).max() > 1e-6
    assert capsys.readouterr() == ("", "")
