"""Fluctuations that predictions lack: measured on pairs, drawn in jumps, and temperatures with and without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.errors import ConfigError, DataError
from fastegnn_md.integrators.options import guarded_step
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator import FakePropagator, Fluctuating, permissive_domain
from fastegnn_md.units import BOLTZMANN

DT, OMEGA, T, LOST = 0.02, 60.0, 300.0, {6: 0.01, 18: 0.03}


def oscillators(count: int, rng: np.random.Generator) -> State:
    """Two elements, each atom on a spring of its own to the origin, at equilibrium."""
    numbers = torch.tensor([6, 18]).repeat_interleave(count)
    masses = torch.where(numbers == 6, 12.0, 40.0).double()
    spread = (BOLTZMANN * T / masses).sqrt()[:, None]
    x, v = torch.from_numpy(rng.normal(size=(2, 2 * count, 3)))
    return State(spread * x / OMEGA, spread * v, numbers, masses)


def turned(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """The true motion."""
    c, s = np.cos(OMEGA * DT), np.sin(OMEGA * DT)
    x, v = state.positions, state.velocities
    return c * x + s / OMEGA * v, c * v - s * OMEGA * x


def leaking(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of what follows for somebody who knows all but a share of the motion."""
    kept = (1 - torch.where(state.numbers == 6, LOST[6], LOST[18])).sqrt()[:, None]
    x, v = turned(state)
    return kept * x, kept * v


def leaking_map(state: State) -> FakePropagator:
    return FakePropagator(leaking, DT, permissive_domain(state, conserves_momentum=False))


def pairs(rng: np.random.Generator):
    """Starts at equilibrium, and ends of which :func:`leaking` gives the mean."""
    for _ in range(20):
        start = oscillators(1000, rng)
        x, v = leaking(start)
        lost = torch.where(start.numbers == 6, LOST[6], LOST[18])
        spread = (lost * BOLTZMANN * T / start.masses).sqrt()[:, None]
        a, b = torch.from_numpy(rng.normal(size=(2, len(start.numbers), 3)))
        yield start, start.replace(positions=x + spread * a / OMEGA, velocities=v + spread * b)


def test_what_is_lost_is_measured():
    rng = np.random.default_rng(0)
    found = Fluctuating.measured(leaking_map(oscillators(2, rng)), pairs(rng))
    assert found.unexplained == pytest.approx(LOST, rel=0.03)
    share = found.covariance[:, 0, 0] * OMEGA**2  # of x, in units of its thermal variance
    np.testing.assert_allclose(share, list(LOST.values()), rtol=0.03)
    halved = Fluctuating(found.base, found.numbers, 0.5 * found.covariance)
    assert halved.unexplained == pytest.approx({one: 0.5 * lost for one, lost in found.unexplained.items()})


def rigid_pairs(rng: np.random.Generator, lost: float):
    """A diatomic of held length that rests in the mean, its ends with a share of the variance of its velocities."""
    numbers, masses = torch.tensor([6, 18]), torch.tensor([12.0, 40.0], dtype=torch.float64)
    for _ in range(4000):
        x = torch.from_numpy(rng.normal(size=(1, 3)))
        x = torch.cat((x, x + torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(1, 3))))))
        start = State(x, torch.zeros(2, 3, dtype=torch.float64), numbers, masses)
        bond = Constraints(masses, torch.tensor([[0, 1]]), torch.ones(1), torch.zeros(2, dtype=torch.bool))
        spread = (BOLTZMANN * T / masses).sqrt()[:, None]
        known, unknown, moved = (spread * torch.from_numpy(one) for one in rng.normal(size=(3, 2, 3)))
        v = bond.project_velocities(start, (1 - lost) ** 0.5 * known + lost**0.5 * unknown)
        yield start.replace(velocities=known), start.replace(positions=x + 1e-4 * moved, velocities=v)


def test_held_bonds_leave_errors_and_motion_fewer_degrees_of_freedom():
    lost = 0.04
    some = next(rigid_pairs(np.random.default_rng(0), lost))[0]

    def pushing(state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what is known it tells all, and pushes along the bond, which a step takes off again."""
        along = torch.nn.functional.normalize(state.positions[1:] - state.positions[:1])
        push = 300.0 * torch.cat((-along, along)) / state.masses[:, None]
        return state.positions, (1 - lost) ** 0.5 * state.velocities + push

    base = FakePropagator(pushing, DT, permissive_domain(some, conserves_momentum=False))
    found = Fluctuating.measured(base, rigid_pairs(np.random.default_rng(0), lost), held=[(0, 1)])
    assert found.unexplained == pytest.approx({6: lost, 18: lost}, rel=0.05)
    with pytest.raises(DataError, match="held bonds have the atoms 0 to 2, starts 2"):
        Fluctuating.measured(base, rigid_pairs(np.random.default_rng(0), lost), held=[(0, 2)])


def temperatures(propagator, state: State, friction: float, steps: int) -> dict[int, float]:
    step = guarded_step(propagator, temperature=T, friction=friction, guard=False)
    free = Constraints(
        state.masses, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0), torch.zeros(state.n_atoms, dtype=torch.bool)
    )
    rng, sums = np.random.default_rng(3), {6: [], 18: []}
    for number in range(steps):
        state = step.finish(step.prepare(state, free, rng), free, rng)
        each = state.masses * state.velocities.square().sum(1) / (3 * BOLTZMANN)
        if number > 0.3 * steps:
            for element, seen in sums.items():
                seen.append(float(each[state.numbers == element].mean()))
    return {element: float(np.mean(seen)) for element, seen in sums.items()}


def test_temperatures_are_those_of_the_thermostat_at_low_friction():
    rng = np.random.default_rng(1)
    state = oscillators(1500, rng)
    base, friction = leaking_map(state), 1.0
    cold = temperatures(base, state, friction, 400)
    warm = temperatures(Fluctuating.measured(base, pairs(rng)), state, friction, 400)
    for element, lost in LOST.items():
        # c² T + (1 - c²) T_bath = T with c² the friction of both
        rate = lost / (friction * DT)
        assert cold[element] == pytest.approx(T / (1 + rate), rel=0.05)
        assert warm[element] == pytest.approx(T, rel=0.02)


def test_momentum_stays_where_it_is_conserved_and_without_a_temperature_nothing_is_drawn():
    state = oscillators(4, np.random.default_rng(2)).replace(forces=None)
    base = FakePropagator(lambda s: (s.positions, s.velocities), DT, permissive_domain(state))
    noisy = Fluctuating(base, [6, 18], torch.eye(2).expand(2, 2, 2) * torch.tensor([1e-4, 0.5]))
    generator = torch.Generator().manual_seed(0)
    ended = noisy(state, generator=generator, temperature=T)
    assert float((ended.velocities - state.velocities).std()) > 0.1
    momentum = [(s.masses[:, None] * s.velocities).sum(0) for s in (state, ended)]
    torch.testing.assert_close(momentum[1], momentum[0], rtol=0, atol=1e-9)
    still = noisy(state)
    torch.testing.assert_close(still.velocities, state.velocities, rtol=0, atol=0)


def test_batches_draw_what_each_system_draws_alone():
    states = [oscillators(2, np.random.default_rng(k)) for k in range(3)]
    noisy = Fluctuating(leaking_map(states[0]), [6, 18], torch.eye(2).expand(2, 2, 2) * 0.1)
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    together = noisy(State.concatenate(states), generator=generators, temperature=T).split()
    alone = noisy(states[2], generator=torch.Generator().manual_seed(2), temperature=T)
    torch.testing.assert_close(together[2].positions, alone.positions, rtol=0, atol=1e-12)


def test_what_makes_no_sense_is_refused():
    state = oscillators(2, np.random.default_rng(0))
    base = leaking_map(state)
    with pytest.raises(ConfigError, match="the covariance is"):
        Fluctuating(base, [6, 18], -torch.eye(2).expand(2, 2, 2))
    with pytest.raises(ConfigError, match="predict velocities"):
        Fluctuating(FakePropagator(leaking, DT, kind="position"), [6], torch.eye(2)[None])
    with pytest.raises(DataError, match="no pairs in which all of the elements"):
        Fluctuating.measured(base, [])
