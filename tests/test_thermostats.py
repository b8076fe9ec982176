"""The Langevin half step against the closed form of the Ornstein-Uhlenbeck process; velocity Verlet against ASE's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastegnn_md.errors import ConfigError, UnitError
from fastegnn_md.integrators import Langevin, VelocityRescaling
from fastegnn_md.mechanics.conservation import conserve_momentum
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

KT = BOLTZMANN * 300.0


@pytest.mark.parametrize(
    "generator", [np.random.default_rng(1), torch.Generator().manual_seed(1)], ids=["numpy", "torch"]
)
def test_one_half_step_has_the_mean_and_variance_of_the_process(generator):
    """v(t) = v0 e^(-γt) + noise of variance (1 - e^(-2γt)) kT/m, for t = Δt/2; all within 3 σ."""
    n = 20_000
    half = Langevin(temperature=300.0, friction=12.0)
    masses = torch.full((n,), 4.0).double()
    v = half.refresh(torch.full((n, 3), 7.0).double(), masses, 0.025, generator)
    c = math.exp(-12.0 * 0.025)
    variance = (1 - c * c) * KT / 4.0
    samples = 3 * n
    assert abs(float(v.mean()) - 7.0 * c) < 3 * math.sqrt(variance / samples)
    assert abs(float(v.var()) / variance - 1) < 3 * math.sqrt(2 / samples)


def test_repeated_half_steps_sample_the_canonical_distribution_per_mass():
    n, half = 6_000, Langevin(temperature=300.0, friction=10.0)
    masses = torch.tensor([1.0, 16.0, 63.5]).double().repeat(n)
    rng = np.random.default_rng(2)
    v = torch.zeros(3 * n, 3).double()
    for _ in range(20):  # e^(-2·20·0.4) of the start is left
        v = half.refresh(v, masses, 0.04, rng)
    kinetic = (masses[:, None] * v**2 / KT).view(n, 3, 3).mean(dim=(0, 2))
    assert torch.all((kinetic - 1).abs() < 3 * math.sqrt(2 / (3 * n)))
    fourth = (masses[:, None] * v**2 / KT).square().mean()  # 3 for a Gaussian, variance 96
    assert abs(float(fourth) - 3) < 3 * math.sqrt(96 / (9 * n))


def test_small_friction_keeps_its_digits():
    half = Langevin(temperature=300.0, friction=1e-9)
    rng = np.random.default_rng(3)
    v = half.refresh(torch.zeros(1000, 3).double(), torch.ones(1000).double(), 5e-7, rng)
    assert float(v.var()) == pytest.approx(1e-15 * KT, rel=0.1)


def test_without_friction_nothing_happens_and_infinite_friction_redraws():
    v, masses = torch.full((5, 3), 2.0).double(), torch.ones(5).double()
    assert torch.equal(Langevin(300.0, 0.0).refresh(v, masses, 0.005, np.random.default_rng(0)), v)
    redrawn = Langevin(300.0, 1e9).refresh(v, masses, 0.005, np.random.default_rng(4))
    torch.testing.assert_close(redrawn, thermal_velocities(masses, 300.0, np.random.default_rng(4)))


def test_constraints_are_not_kicked_and_their_degrees_of_freedom_have_no_temperature():
    """Rigid dimers on a frozen atom each: two rotations and three translations are left, no stretch."""
    n = 4_000
    base = torch.arange(n)[:, None] * 3
    masses = torch.tensor([5.0, 12.0, 1.0]).double().repeat(n)
    rng = np.random.default_rng(5)
    positions = torch.from_numpy(rng.normal(size=(3 * n, 3)))
    bonds = base + torch.tensor([[1, 2]])
    lengths = (positions[bonds[:, 0]] - positions[bonds[:, 1]]).norm(dim=1)
    frozen = torch.tensor([True, False, False]).repeat(n)
    constraints = Constraints(masses, bonds, lengths, frozen)
    shifts = torch.zeros(n, 3).double()
    half = Langevin(300.0, 10.0)
    v = torch.zeros_like(positions)
    for _ in range(20):
        v = half.refresh(v, masses, 0.05, rng, lambda new: constraints.hold_velocities(positions, new, shifts))
    assert torch.equal(v[frozen], torch.zeros(n, 3).double())
    bond = positions[bonds[:, 0]] - positions[bonds[:, 1]]
    stretch = (bond * (v[bonds[:, 0]] - v[bonds[:, 1]])).sum(1)
    assert float(stretch.abs().max()) < 1e-12
    kinetic = float((masses[:, None] * v**2).sum()) / KT
    assert abs(kinetic / (5 * n) - 1) < 3 * math.sqrt(2 / (5 * n))


@pytest.mark.parametrize(("temperature", "friction"), [(-1.0, 1.0), (300.0, -1.0), (300.0, math.nan), (math.inf, 1.0)])
@pytest.mark.parametrize("made", [Langevin, VelocityRescaling])
def test_values_out_of_range(made, temperature, friction):
    with pytest.raises(ConfigError, match="expected a finite number"):
        made(temperature, friction)


@pytest.mark.parametrize("wrong", [None, "hot", True, [300]])
def test_what_is_no_temperature(wrong):
    with pytest.raises((ConfigError, UnitError), match="temperature is"):
        Langevin(wrong, 1.0)


def test_values_with_units_are_numbers_in_those_of_the_package(require):
    assert Langevin(300, "0.01/fs").friction == pytest.approx(10.0)
    assert VelocityRescaling(300, "50 fs").tau == pytest.approx(0.05)
    require("openmm")
    from openmm import unit

    langevin = Langevin(300 * unit.kelvin, 10 / unit.picosecond)
    assert (langevin.temperature, langevin.friction) == (300.0, 10.0)
    assert VelocityRescaling(300, 50 * unit.femtosecond) == VelocityRescaling(300.0, 0.05)
    with pytest.raises(UnitError, match="no friction"):
        Langevin(300, 10 * unit.picosecond)
    with pytest.raises(UnitError, match="needs one of"):
        Langevin(300, "10 ps")


def test_momentum_and_drift_of_each_system_are_restored_and_nothing_else_changes():
    rng = np.random.default_rng(6)

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    before = State(
        positions=random(7, 3),
        velocities=random(7, 3),
        numbers=torch.tensor([1, 6, 8, 1, 1, 6, 8]),
        masses=torch.from_numpy(rng.uniform(1, 20, 7)),
        batch=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
    )
    jumped = before.replace(positions=before.positions + random(7, 3), velocities=random(7, 3))
    after = conserve_momentum(before, jumped, 0.02)
    for rows in (slice(0, 3), slice(3, 7)):
        m = before.masses[rows, None]
        momentum = (m * before.velocities[rows]).sum(0)
        torch.testing.assert_close((m * after.velocities[rows]).sum(0), momentum, rtol=0, atol=1e-12)
        drift = (m * (after.positions - before.positions)[rows]).sum(0)
        torch.testing.assert_close(drift, 0.02 * momentum, rtol=0, atol=1e-12)
        for new, old in ((after.positions, jumped.positions), (after.velocities, jumped.velocities)):
            torch.testing.assert_close(new[rows].diff(dim=0), old[rows].diff(dim=0), rtol=0, atol=1e-12)
