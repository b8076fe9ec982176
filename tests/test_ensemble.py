"""LearnedEnsemble: replicas advanced by one call of the network, each as it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixBondLengths
from ase.io import read

from fastegnn_md import Propagator, State
from fastegnn_md.engines.ase.stepper import state_from_atoms
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError, StateError
from fastegnn_md.integrators import LearnedDynamics, LearnedEnsemble, Schedule
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain

FS = units.fs


class Springs(Calculator):
    """A spring of 5 eV/Å² from each atom to its place."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, places):
        super().__init__()
        self.places = places.copy()

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        u = atoms.positions - self.places
        self.results = {"energy": 2.5 * np.vdot(u, u), "forces": -5.0 * u}


def atoms_of(name: str, seed: int):
    atoms = molecule(name)
    atoms.calc = Springs(atoms.positions)
    atoms.rattle(0.02, seed=seed)
    velocities = thermal_velocities(torch.tensor(atoms.get_masses()), 300, np.random.default_rng(seed))
    atoms.set_velocities(velocities.numpy() / (1000 * FS))
    atoms.set_constraint(FixBondLengths([(0, len(atoms) - 1)]))
    return atoms


def propagator_for(**options) -> Propagator:
    """Untrained, its steps small enough to stay within wide limits."""
    config = PropagatorConfig(hidden=8, layers=2, virtual_nodes=2, cutoff=3.0, **options)
    both = [state_from_atoms(atoms_of(name, 1), forces=True) for name in ("CH3CH2OH", "CH3OH")]
    start = State.concatenate(both)
    later = start.replace(positions=start.positions + 0.002 * start.velocities, velocities=0.9 * start.velocities)
    propagator = Propagator.build(config, 0.002, Domain.from_pairs(start, later, config), seed=1).double()
    propagator.linear.coefficients[:, [0, 2]] = 1.0
    return propagator


def dynamics_of(propagator, k: int, name: str, **options) -> LearnedDynamics:
    thermostat = {"temperature_K": 300, "friction": 0.01 / FS}
    return LearnedDynamics(atoms_of(name, k), propagator, rng=k, guard=False, **thermostat, **options)


NAMES = ("CH3CH2OH", "CH3OH", "CH3CH2OH")


@pytest.mark.parametrize("kind", ["force-free", "force-start"])
def test_replicas_move_as_they_would_alone(kind, tmp_path):
    propagator = propagator_for(kind=kind)
    alone = [dynamics_of(propagator, k, name) for k, name in enumerate(NAMES)]
    for one in alone:
        one.run(7)
    together = [
        dynamics_of(propagator, k, name, trajectory=str(tmp_path / f"{k}.traj")) for k, name in enumerate(NAMES)
    ]
    ensemble = LearnedEnsemble(together)
    ensemble.run(3)
    assert list(ensemble.irun(4)) == [1, 2, 3, 4]
    for k, (one, other) in enumerate(zip(alone, together, strict=True)):
        np.testing.assert_allclose(other.atoms.positions, one.atoms.positions, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(other.atoms.get_momenta(), one.atoms.get_momenta(), rtol=1e-12, atol=1e-10)
        assert other.nsteps == 7
        assert other.statistics == one.statistics
        assert other.rng.bit_generator.state == one.rng.bit_generator.state
        assert len(read(tmp_path / f"{k}.traj", ":")) == 8


def test_the_network_is_called_once_per_step(monkeypatch):
    propagator = propagator_for()
    sizes = []
    inner = propagator.network.forward
    monkeypatch.setattr(propagator.network, "forward", lambda **given: sizes.append(len(given["x"])) or inner(**given))
    LearnedEnsemble([dynamics_of(propagator, k, name) for k, name in enumerate(NAMES)]).run(4)
    assert sizes == [9 + 6 + 9] * 4


def test_the_batch_of_the_same_atoms_says_so(monkeypatch):
    """By its tensors; and no longer once somebody has changed a mass."""
    propagator, seen = propagator_for(), []
    original = propagator.with_trust
    monkeypatch.setattr(propagator, "with_trust", lambda state, **options: seen.append(state) or original(state))
    together = [dynamics_of(propagator, k, name) for k, name in enumerate(NAMES)]
    ensemble = LearnedEnsemble(together)
    ensemble.run(3)
    assert len(seen) == 3
    assert all(one.has_atoms_of(seen[0]) for one in seen)
    assert not torch.equal(seen[1].positions, seen[0].positions)
    together[1].atoms.set_masses(1.001 * together[1].atoms.get_masses())
    ensemble.run(1)
    assert not seen[3].has_atoms_of(seen[0])
    torch.testing.assert_close(seen[3].masses[9:15], 1.001 * seen[0].masses[9:15])
    expected = State.concatenate([one.jump._same.read() for one in together])
    assert torch.equal(seen[3].masses, expected.masses)


def test_a_replica_that_fails_is_named_and_the_others_are_whole():
    propagator = propagator_for()
    replicas = [dynamics_of(propagator, k, name, schedule=Schedule(fallback="stop")) for k, name in enumerate(NAMES)]
    ensemble = LearnedEnsemble(replicas)
    ensemble.run(2)
    replicas[1].atoms.arrays["momenta"][2] = np.inf
    before = [(one.atoms.positions.copy(), one.rng.bit_generator.state) for one in replicas]
    with pytest.raises((JumpError, ValueError)):
        ensemble.run(1)
    for one, (positions, drawn) in zip(replicas[1:], before[1:], strict=True):
        assert np.array_equal(one.atoms.positions, positions)
        assert one.rng.bit_generator.state == drawn
        assert one.jump.waiting is None
        assert one.nsteps == 2


def test_a_refused_jump_of_one_replica_is_replaced_there_only():
    propagator = propagator_for()
    replicas = [dynamics_of(propagator, k, name) for k, name in enumerate(NAMES)]
    inner, calls = type(propagator).with_trust, []

    def spoil(self, state, **options):
        calls.append(state.n_atoms)
        if calls in ([24, 24], [24, 24, 9, 6]):  # the second step: together, and the second replica alone
            raise StateError("velocities has a NaN or infinite value at index 0")
        return inner(self, state, **options)

    propagator.with_trust = spoil.__get__(propagator)
    LearnedEnsemble(replicas).run(3)
    assert [one.statistics.rejected for one in replicas] == [{}, {"finite": 1}, {}]
    assert [one.statistics.fallback_steps for one in replicas] == [0, 4, 0]
    assert calls == [24, 24, 9, 6, 9, 24]


def test_what_is_no_ensemble_is_refused():
    propagator = propagator_for()
    one, other = (dynamics_of(propagator, k, "CH3OH") for k in range(2))
    with pytest.raises(ConfigError, match="at least one"):
        LearnedEnsemble([])
    with pytest.raises(ConfigError, match="same atoms"):
        LearnedEnsemble([one, other, one])
    with pytest.raises(CompatibilityError, match="different propagators"):
        LearnedEnsemble([one, dynamics_of(propagator_for(), 2, "CH3OH")])
