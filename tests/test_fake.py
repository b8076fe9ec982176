"""The function that stands in for a propagator has all that a propagator has."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.errors import CompatibilityError, ConfigError
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.propagator import FakePropagator, JumpLimits, Propagator, PropagatorConfig, permissive_domain
from fastegnn_md.propagator.advance import advance, advance_with_trust

DT = 0.004


def water(periodic: bool = False) -> State:
    return State(
        positions=torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], dtype=torch.float64),
        velocities=torch.ones(3, 3, dtype=torch.float64).tril(),
        numbers=torch.tensor([8, 1, 1]),
        masses=torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64),
        cell=10 * torch.eye(3, dtype=torch.float64)[None] if periodic else None,
    )


def flight(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    return state.positions + DT * state.velocities, state.velocities


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_it_gives_what_the_function_gives_to_the_last_digit(periodic: bool, whole: bool) -> None:
    move = (lambda state: state.replace(positions=flight(state)[0])) if whole else flight
    fake, start = FakePropagator(move, DT), water(periodic)
    forces = torch.ones_like(start.positions)
    ended, (spread, _) = advance_with_trust(fake, start.replace(forces=forces), np.random.default_rng(0))
    assert torch.equal(ended.positions, start.positions + DT * start.velocities)
    assert torch.equal(ended.velocities, start.velocities)
    assert ended.forces is None
    assert spread is None
    assert fake.calls == 1
    assert torch.equal(fake(start).positions, ended.positions)
    residual = fake.residual(start, ended)
    assert residual.x.abs().max() < 1e-14
    assert residual.v is not None
    assert not residual.v.any()


def test_of_kind_position_velocities_are_redrawn() -> None:
    fake, start = FakePropagator(flight, DT, kind="position"), water()
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    ended = advance(fake, start, rng, temperature=300.0)
    generator = torch.Generator().manual_seed(int(twin.integers(2**63)))
    assert torch.equal(ended.velocities, thermal_velocities(start.masses, 300.0, generator))
    assert fake.predict(start).velocities is None
    with pytest.raises(CompatibilityError, match="give generator and temperature"):
        fake(start)


@pytest.mark.parametrize("where", ["start", "midpoint"])
def test_a_map_says_where_it_wants_forces_and_refuses_states_without(where: str) -> None:
    def kicked(state: State) -> tuple[torch.Tensor, torch.Tensor]:
        forces = fake.forces_of(state)
        assert forces is not None
        return flight(state)[0], state.velocities + DT * forces / state.masses[:, None]

    fake, start = FakePropagator(kicked, DT, kind=f"force-{where}"), water()  # type: ignore[arg-type]
    assert fake.wants_forces == where
    positions = fake.force_positions(start)
    assert positions is not None
    ahead = 0.0 if where == "start" else 0.5 * DT
    assert torch.equal(positions, start.positions + ahead * start.velocities)
    ended = fake(fake.with_forces(start, 2.0 * start.masses[:, None] * torch.ones_like(positions)))
    torch.testing.assert_close(ended.velocities, start.velocities + 2.0 * DT)
    with pytest.raises(CompatibilityError, match="is force-informed; give the forces at"):
        fake(start)


def test_a_map_without_forces_wants_them_nowhere() -> None:
    fake = FakePropagator(flight, DT, kind="kick-drift")
    assert fake.wants_forces is None
    assert fake.force_positions(water()) is None
    assert fake.forces_of(water().replace(forces=torch.zeros(3, 3, dtype=torch.float64))) is None


def test_with_a_domain_it_is_as_strict_as_that() -> None:
    fake = FakePropagator(flight, DT, permissive_domain(water(), limits=JumpLimits({1: 0.5})))
    assert fake.limits.displacement == {1: 0.5}
    fake.check(water())
    with pytest.raises(CompatibilityError, match="the system is periodic"):
        fake(water(periodic=True))
    with pytest.raises(CompatibilityError, match="atom 1 has atomic number 7"):
        fake(water().replace(numbers=torch.tensor([8, 7, 1])))
    with pytest.raises(CompatibilityError, match="was trained with bonds"):
        FakePropagator(flight, DT, permissive_domain(bonds=True))(water())
    assert fake.calls == 0


def test_the_identity_of_a_map_is_its_time_step_data_and_weights() -> None:
    nothing = hashlib.sha256().hexdigest()
    about = {"timestep": DT, "training-data": "fake", "weights": nothing}
    assert FakePropagator(flight, DT).identity() == about
    config, domain = PropagatorConfig(hidden=8, layers=1), permissive_domain(water())
    one, twin, other = (Propagator.build(config, DT, domain, seed=seed) for seed in (1, 1, 2))
    assert one.identity() == twin.identity() != other.identity()
    digest = hashlib.sha256()
    for name, value in one.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    assert one.identity()["weights"] == digest.hexdigest()
    with torch.no_grad():
        twin.linear.scale[0, 0] += 1
    assert one.identity() != twin.identity()


def test_an_option_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="no kind 'kick-drift'"):
        Propagator(PropagatorConfig(kind="kick-drift"), DT, permissive_domain(water()))
