"""What a step does beside the propagator: few operations, and nothing that was done at the step before."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixBondLengths
from torch.utils._python_dispatch import TorchDispatchMode

from fastegnn_md import State
from fastegnn_md.engines.ase import atoms as atoms_module
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.integrators import Langevin, LearnedDynamics, VelocityRescaling
from fastegnn_md.integrators.ranges import Ranges
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator import FakePropagator
from fastegnn_md.propagator.fake import permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

# A limit for each element and kind of bond, so that all guards look.
LIMITS = JumpLimits(
    displacement=dict.fromkeys((1, 6, 8, 29), 5.0),
    bonds={(1, 6): (0.5, 2.0), (6, 6): (0.5, 3.0), (6, 8): (0.5, 3.0), (1, 8): (0.5, 2.0)},
    speed=dict.fromkeys((1, 6, 8, 29), 500.0),
)
OWN = {"aten.detach.default", "aten.lift_fresh.default", "aten._local_scalar_dense.default"}  # no work


class Operations(TorchDispatchMode):
    """Counts operations of torch, but those of the propagator."""

    def __init__(self):
        super().__init__()
        self.found, self.paused = Counter(), False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self.paused:
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


OPERATIONS = Operations()


class FreeFlight(FakePropagator):
    """Its own operations do not count."""

    def with_trust(self, state, **options):
        OPERATIONS.paused = True
        try:
            return super().with_trust(state, **options)
        finally:
            OPERATIONS.paused = False


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    hydrogens = [pair for pair in guess_bonds(atoms) if 1 in atoms.numbers[pair]]
    atoms.set_constraint(FixBondLengths(hydrogens))
    return atoms


def dynamics_of(atoms: Atoms, thermostat: object) -> LearnedDynamics:
    rng = np.random.default_rng(1)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(0.025 * atoms.get_masses())[:, None])
    crystal = bool(atoms.pbc.any())
    bonds = None if crystal else guess_bonds(atoms)
    limits = dataclasses.replace(LIMITS, bonds={}) if crystal else LIMITS
    domain = permissive_domain(periodic=crystal, limits=limits)
    flight = FreeFlight(lambda state: (state.positions + 0.001 * state.velocities, state.velocities), 0.001, domain)
    return LearnedDynamics(atoms, flight, thermostat=thermostat, bonds=bonds, rng=1)


CASES = {
    "Langevin, bonds": (ethanol, Langevin(300, "10/ps"), 25),
    "NVE, bonds": (ethanol, None, 40),
    "velocity rescaling, bonds": (ethanol, VelocityRescaling(300, "0.1 ps"), 90),
    "Langevin, crystal": (lambda: bulk("Cu", cubic=True) * (2, 2, 2), Langevin(300, "10/ps"), 15),
}


@pytest.mark.parametrize(("make", "thermostat", "most"), CASES.values(), ids=CASES)
def test_operations_of_a_step(cxx, make, thermostat, most):
    dynamics = dynamics_of(make(), thermostat)
    dynamics.run(3)
    OPERATIONS.found.clear()
    with OPERATIONS:
        dynamics.run(1)
    work = {name: count for name, count in OPERATIONS.found.items() if name not in OWN}
    assert 3 < sum(work.values()) <= most, work
    assert dynamics.statistics.accepted == 4


@pytest.mark.parametrize(("make", "thermostat", "most"), CASES.values(), ids=CASES)
def test_nothing_is_looked_at_twice(monkeypatch, make, thermostat, most):
    """Neither what atoms are, nor their constraints, limits and domain; that numbers are finite, once per state."""
    dynamics = dynamics_of(make(), thermostat)
    dynamics.run(2)
    seen = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            seen[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (State, "__post_init__"),
        (Constraints, "__post_init__"),
        (Ranges, "of"),
        (atoms_module, "read_constraints"),
        (torch, "equal"),
    ):
        count(owner, name)
    dynamics.run(5)
    assert not seen
    assert dynamics.statistics.accepted == 7
    dynamics.atoms.set_masses(1.001 * dynamics.atoms.get_masses())  # and then it is
    dynamics.run(1)
    assert seen["__post_init__"] >= 2


def test_time_goes_on_as_ever(cxx):
    """The same seed gives the same trajectory with the library and without."""
    ends = []
    for switched_off in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if switched_off:
                patch.setattr("fastegnn_md.nn.native.functions.library", lambda: None)
            dynamics = dynamics_of(ethanol(), Langevin(300, "10/ps"))
            dynamics.run(20)
            ends.append((dynamics.atoms.get_positions(), dynamics.atoms.get_velocities() / units.fs))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
