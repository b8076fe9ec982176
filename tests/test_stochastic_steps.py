"""Steps of stochastic maps in ASE: draws, redraws, relaxation that counts as time, fallback, replicas, restarts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixBondLengths
from ase.md.verlet import VelocityVerlet

from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError
from fastegnn_md.integrators import (
    Conserve,
    GuardSettings,
    JumpStatistics,
    Langevin,
    LearnedDynamics,
    LearnedEnsemble,
    MetropolizedDynamics,
    RedrawWarning,
    Schedule,
)
from fastegnn_md.propagator.draws import normal
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

LAG = 0.5  # ps
FS = units.fs
PS = 1000 * FS
BAD = pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.RedrawWarning")  # models that are bad on purpose


class Springs(Calculator):
    """A spring of 5 eV/Å² from each atom to its place."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, places):
        super().__init__()
        self.places, self.calls = places.copy(), 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        u = atoms.positions - self.places
        self.results = {"energy": 2.5 * np.vdot(u, u), "forces": -5.0 * u}


class Draws:
    """Positions drawn about their places; of each system with the probability ``bad`` far away."""

    def __init__(self, spread: float = 0.05, bad: float = 0.0, far: float = 5.0):
        self.spread, self.bad, self.far = spread, bad, far
        self.sizes: list[int] = []

    def __call__(self, state, generator):
        self.sizes.append(state.n_systems)
        noise = normal(state, generator, torch.float64)
        counts = state.atom_counts.tolist()
        first = torch.stack([part[0, 0] for part in noise.split(counts)])
        wrong = torch.special.ndtr(first) < self.bad
        places = torch.cat([torch.tensor(molecule("CH3OH" if n == 6 else "CH3CH2OH").positions) for n in counts])
        return places + self.spread * noise + self.far * wrong[state.batch][:, None], state.velocities


def flow(draws, timestep: float = LAG) -> FakePropagator:
    domain = permissive_domain(limits=JumpLimits({1: 1.0, 6: 1.0, 8: 1.0}))
    return FakePropagator(draws, timestep, domain, kind="flow", random=True)


def atoms_of(name: str = "CH3OH", *, engine: bool = True):
    atoms = molecule(name)
    if engine:
        atoms.calc = Springs(atoms.positions)
    return atoms


def dynamics_of(propagator, rng=1, *, atoms=None, **options) -> LearnedDynamics:
    return LearnedDynamics(atoms or atoms_of(), propagator, temperature_K=300, rng=rng, **options)


def test_a_step_lasts_as_long_as_jump_and_relaxation(tmp_path):
    dynamics = dynamics_of(flow(Draws()), trajectory=str(tmp_path / "a.traj"))
    dynamics.run(3)
    assert dynamics.get_time() == pytest.approx(3 * (LAG + 0.050) * PS)  # 50 steps of 1 fs
    assert dynamics.statistics == JumpStatistics(3, 3, relax_steps=150)
    assert dynamics.atoms.calc.calls == pytest.approx(3 * 51, abs=3)
    other = dynamics_of(flow(Draws()), schedule=Schedule(relax_steps=7, classical="2 fs"))
    other.run(2)
    assert other.get_time() == pytest.approx(2 * (LAG + 0.014) * PS)


def test_relaxation_brings_the_motion_to_the_temperature():
    """A map that ends with all atoms at their places has no potential energy; half of the heat goes there."""
    atoms = atoms_of()
    hold = lambda state: (torch.tensor(atoms.calc.places), state.velocities)  # noqa: E731
    cold = FakePropagator(hold, LAG, kind="flow")
    energies = {}
    for steps in (0, 400):
        dynamics = dynamics_of(cold, atoms=atoms_of(), schedule=Schedule(relax_steps=steps))
        found = []
        for _ in dynamics.irun(12):
            found.append(dynamics.atoms.get_potential_energy())
        energies[steps] = np.mean(found[1:]) / (9 * units.kB * 300)
        assert dynamics.get_temperature() > 50
    assert energies[0] < 1e-12
    assert energies[400] == pytest.approx(1.0, abs=0.35)


def test_constraints_hold_after_jump_and_relaxation():
    atoms = atoms_of()
    atoms.set_constraint(FixBondLengths([(0, 1), (1, 3)]))
    lengths = [atoms.get_distance(0, 1), atoms.get_distance(1, 3)]
    dynamics = dynamics_of(flow(Draws()), atoms=atoms)
    dynamics.run(2)
    assert [atoms.get_distance(0, 1), atoms.get_distance(1, 3)] == pytest.approx(lengths, abs=1e-8)


@BAD
def test_refused_draws_are_drawn_anew():
    dynamics = dynamics_of(flow(Draws(bad=0.4)), schedule=Schedule(relax_steps=2, redraws=30))
    dynamics.run(20)
    statistics = dynamics.statistics
    assert (statistics.tried, statistics.accepted, statistics.rejected) == (20, 20, {})
    assert list(statistics.redrawn) == ["displacement"]
    assert 3 < statistics.redraws < 40
    assert statistics.redraw_share == statistics.redraws / 20
    assert dynamics.propagator.calls == 20 + statistics.redraws
    assert np.abs(dynamics.atoms.positions - dynamics.atoms.calc.places).max() < 1.0


@BAD
@pytest.mark.parametrize(("steps", "redrawn"), [(2, ["energy"]), (400, [])])
def test_draws_whose_energy_relaxation_does_not_bring_down_are_drawn_anew(steps, redrawn):
    dynamics = dynamics_of(
        flow(Draws(bad=0.4, far=0.5)),
        guard=GuardSettings(energy_change=100),
        schedule=Schedule(relax_steps=steps, redraws=30, classical="2 fs"),
    )
    dynamics.run(20)
    assert list(dynamics.statistics.redrawn) == redrawn
    assert dynamics.statistics.accepted == 20
    assert dynamics.atoms.get_potential_energy() < 200 * units.kB * 300


def test_after_the_last_redraw_classical_steps_take_the_time_of_the_step():
    propagator = flow(Draws(bad=1.0))
    dynamics = dynamics_of(propagator, schedule=Schedule(relax_steps=50, redraws=2, classical="5 fs"))
    dynamics.run(1)
    assert dynamics.statistics == JumpStatistics(
        1, 0, {"displacement": 1}, redrawn={"displacement": 2}, fallback_steps=round((LAG + 0.25) / 0.005)
    )
    assert propagator.calls == 3
    assert dynamics.get_time() == pytest.approx((LAG + 0.25) * PS)
    assert dynamics.get_temperature() > 50
    with pytest.raises(JumpError, match="displacement guard refused"):
        dynamics_of(flow(Draws(bad=1.0)), schedule=Schedule(fallback="stop")).run(1)


def test_a_draw_that_cannot_be_relaxed_is_drawn_anew():
    class Explodes(Springs):
        def calculate(self, *given, **keywords):
            super().calculate(*given, **keywords)
            if np.abs(self.atoms.positions - self.places).max() > 0.3:
                self.results["forces"] = 1e9 * np.ones_like(self.places)

    atoms = atoms_of()
    atoms.calc = Explodes(atoms.positions)
    dynamics = dynamics_of(
        flow(Draws(0.03, bad=0.4, far=0.5)), atoms=atoms, schedule=Schedule(relax_steps=2, redraws=30)
    )
    dynamics.run(5)
    assert dynamics.statistics.accepted == 5
    assert list(dynamics.statistics.redrawn) == ["relaxation"]


def test_a_seed_repeats_a_run_and_other_seeds_do_not():
    ends = []
    for seed in (1, 1, 2):
        dynamics = dynamics_of(flow(Draws(bad=0.3)), seed, schedule=Schedule(relax_steps=3))
        dynamics.run(4)
        ends.append(dynamics.atoms.positions)
    assert np.array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


def test_a_restart_goes_on_as_if_nothing_had_happened(tmp_path):
    schedule = Schedule(relax_steps=3)
    whole = dynamics_of(flow(Draws(bad=0.3)), 5, schedule=schedule)
    whole.run(8)
    first = dynamics_of(flow(Draws(bad=0.3)), 5, schedule=schedule)
    first.run(3)
    first.save_restart(tmp_path / "a.restart")
    again = LearnedDynamics.restart(tmp_path / "a.restart", atoms_of(), flow(Draws(bad=0.3)))
    again.run(5)
    assert np.array_equal(again.atoms.positions, whole.atoms.positions)
    assert np.array_equal(again.atoms.get_momenta(), whole.atoms.get_momenta())
    assert again.statistics == whole.statistics
    assert again.get_time() == pytest.approx(whole.get_time())


@BAD
@pytest.mark.parametrize("bad", [0.0, 0.4])
def test_replicas_move_as_they_would_alone(bad):
    names, kelvin = ("CH3OH", "CH3CH2OH", "CH3OH"), (300, 300, 400)

    def replicas(propagator):
        return [
            LearnedDynamics(
                atoms_of(name), propagator, temperature_K=kelvin[k], rng=k, schedule=Schedule(relax_steps=3)
            )
            for k, name in enumerate(names)
        ]

    draws = Draws(bad=bad)
    alone, together = replicas(flow(Draws(bad=bad))), replicas(flow(draws))
    for one in alone:
        one.run(5)
    LearnedEnsemble(together).run(5)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.atoms.positions, one.atoms.positions, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(other.atoms.get_momenta(), one.atoms.get_momenta(), rtol=1e-10, atol=1e-10)
        assert other.statistics == one.statistics
        assert other.rng.bit_generator.state == one.rng.bit_generator.state
    redraws = [one.statistics.redraws for one in together]
    assert (sum(redraws) > 0) == (bad > 0)
    assert len(draws.sizes) <= 5 + sum(redraws)
    assert draws.sizes.count(3) >= 5  # all of them in one call
    assert sum(draws.sizes) == 15 + sum(redraws)  # and nobody is drawn anew whose draw was good


def test_without_an_engine_nothing_is_relaxed_and_that_is_said(tmp_path):
    with pytest.warns(UserWarning, match="no engine relaxes what the propagator draws"):
        dynamics = dynamics_of(flow(Draws()), atoms=atoms_of(engine=False))
    dynamics.run(2)
    assert dynamics.get_time() == pytest.approx(2 * LAG * PS)
    assert dynamics.statistics.relax_steps == 0
    dynamics_of(flow(Draws()), atoms=atoms_of(engine=False), schedule=Schedule(relax_steps=0)).run(1)
    with pytest.raises(CompatibilityError, match="relax_steps: needs the engine"):
        dynamics_of(flow(Draws()), atoms=atoms_of(engine=False), schedule=Schedule(relax_steps=5))
    with pytest.raises(JumpError, match="attach a calculator"):
        dynamics_of(flow(Draws(bad=1.0)), atoms=atoms_of(engine=False), schedule=Schedule(relax_steps=0)).run(1)


def test_too_many_redraws_are_a_failure_of_the_model_and_said_once():
    dynamics = dynamics_of(flow(Draws(bad=0.2)), schedule=Schedule(relax_steps=0, redraws=30))
    with pytest.warns(RedrawWarning, match="is a failure of the model") as caught:
        dynamics.run(230)
    assert len([one for one in caught if one.category is RedrawWarning]) == 1
    watch = dynamics.jump.watch()
    assert any("failure of the model" in line for line in watch.verdict(dynamics.statistics).warnings)
    assert not JumpStatistics(1000, 1000, redrawn={"bond": 9}).redraw_share > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature_K": None}, "of kind 'flow' redraws velocities: give a temperature"),
        ({"friction": 0.01 / FS}, "of kind 'flow' redraws velocities at each jump: leave friction out"),
        ({"temperature_K": None, "thermostat": Langevin(300, 1)}, "leave friction and thermostat out"),
        ({"conserve": Conserve(energy=True)}, "neither angular momentum nor energy can be conserved"),
        ({"schedule": Schedule(minimize_steps=5)}, "minimize_steps would freeze"),
    ],
)
def test_what_a_draw_cannot_be_combined_with_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        LearnedDynamics(atoms_of(), flow(Draws()), **{"temperature_K": 300, **options})


def test_neither_annealing_nor_metropolis():
    dynamics = dynamics_of(flow(Draws()))
    with pytest.raises(ConfigError, match="at the temperature of its training"):
        dynamics.set_temperature(temperature_K=350)
    with pytest.raises(CompatibilityError, match="starting points of classical bursts"):
        MetropolizedDynamics(atoms_of(), flow(Draws()), temperature_K=300)
    with pytest.raises(ConfigError, match="redraws is -1"):
        Schedule(redraws=-1)


def test_the_dynamics_of_a_schedule_replace_what_is_refused():
    atoms = atoms_of()
    schedule = Schedule(relax_steps=10, redraws=0, classical=VelocityVerlet(atoms, 2 * FS))
    dynamics = dynamics_of(flow(Draws(bad=1.0)), atoms=atoms, schedule=schedule)
    dynamics.run(1)
    assert dynamics.statistics.fallback_steps == round((LAG + 0.02) / 0.002)
    assert dynamics.get_time() == pytest.approx((LAG + 0.02) * PS)


def test_a_deterministic_map_is_not_asked_again():
    far = FakePropagator(
        lambda state: (state.positions + 5.0, state.velocities), 0.001, permissive_domain(limits=JumpLimits({1: 0.1}))
    )
    dynamics = LearnedDynamics(atoms_of(), far)
    dynamics.run(1)
    assert far.calls == 1
    assert dynamics.statistics.redrawn == {}
