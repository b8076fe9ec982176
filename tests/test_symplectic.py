"""Symplectic propagators: structure for any weights, exact limits, what data they need, training, engines, files."""

from __future__ import annotations

import copy
import dataclasses
import math

import ase.calculators.morse
import numpy as np
import openmm
import openmm_cases
import pytest
import torch
from ase.build import molecule as ase_molecule
from gradient_cases import DT, argon, bursts, forces_of, formaldehyde, free, lennard_jones, springs, symplecticity

from fastegnn_md import Committee, Propagator, State
from fastegnn_md.cli import main
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError
from fastegnn_md.integrators import LearnedDynamics, LearnedIntegrator, LearnedSimulation, MetropolizedDynamics
from fastegnn_md.integrators.metropolis import MetropolisStep
from fastegnn_md.propagator import PropagatorConfig, SymplecticPropagator, permissive_domain
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors
from fastegnn_md.training.start import untrained_propagator
from fastegnn_md.units import BOLTZMANN, KJ_PER_MOL

SMALL = {"hidden": 16, "layers": 2, "cutoff": 3.6, "radial_functions": 6, "vector_channels": 2}


def network(state: State, *, seed: int = 1, strength: float = 4000.0, **options) -> SymplecticPropagator:
    """Random weights, with a potential that bends the way of the atoms."""
    domain = permissive_domain(state, bonds=options.pop("bonds", False))
    config = PropagatorConfig(**{"kind": "symplectic", **SMALL, **options})
    propagator = Propagator.build(config, DT, dataclasses.replace(domain, neighbours=6.0), seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in propagator.network.named_parameters():
        if "vectors" in name and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    propagator.energy_unit.fill_(1.0)
    found = propagator._force(state.positions, state, torch.zeros_like(state.masses))
    propagator.energy_unit.fill_(strength * float(state.masses.mean()) / float(found.detach().std()))
    return propagator.requires_grad_(False)


def jump(propagator: SymplecticPropagator, state: State, forces) -> State:
    return propagator(propagator.with_forces(state, forces(propagator.force_positions(state)).detach()))


def flow(propagator: SymplecticPropagator, state: State, forces):
    """The jump as a differentiable function of q and p."""
    shape, masses = state.positions.shape, state.masses[:, None]

    def moved(q: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        now = state.moved(positions=q.view(shape), velocities=p.view(shape) / masses)
        with torch.enable_grad():
            middle = propagator._half(now).positions
            if propagator.config.mollify is not None:
                frequency = 2 * math.pi * 0.0299792458 * propagator.config.mollify  # rad/ps
                own = propagator._force(middle, now, torch.zeros_like(state.masses))
                middle = middle + own / frequency**2 / masses
            found = propagator.predict(now.moved(midpoint_forces=forces(middle)))
        return (q + found.displacement.flatten()), (masses * found.velocities).flatten()

    return moved


CASES = {
    "springs": (formaldehyde, springs, {}),
    "springs, five kicks": (formaldehyde, springs, {"kicks": 5}),
    "bonds": (formaldehyde, springs, {"bonds": True}),
    "mollified": (formaldehyde, springs, {"mollify": 2000.0}),
    "lennard-jones": (formaldehyde, lennard_jones, {}),
    "egnn": (formaldehyde, springs, {"architecture": "egnn"}),
    "periodic, lennard-jones": (argon, lennard_jones, {"cutoff": 5.0}),
}


@pytest.fixture(params=CASES)
def case(request):
    make, engine, options = CASES[request.param]
    state = make()
    return network(state, **options), state, forces_of(engine(state))


def test_the_learned_kicks_of_these_tests_matter(case):
    propagator, state, forces = case
    silent = copy.deepcopy(propagator)
    silent.energy_unit.zero_()
    change = jump(propagator, state, forces).velocities - jump(silent, state, forces).velocities
    assert float(change.std()) > 0.05 * float(state.velocities.std())


def test_the_jacobian_is_symplectic(case, without_library):
    propagator, state, forces = case
    error, change = symplecticity(flow(propagator, state, forces), state, DT)
    assert change > 0.1
    assert error < 1e-9


def test_turned_round_it_is_its_own_inverse(case):
    propagator, state, forces = case
    ended = jump(propagator, state, forces)
    back = jump(propagator, ended.replace(velocities=-ended.velocities), forces)
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.velocities, -state.velocities, rtol=0, atol=1e-8)


def test_momentum_and_angular_momentum_are_conserved(case):
    propagator, state, forces = case
    ended = jump(propagator, state, forces)
    before, after = (s.masses[:, None] * s.velocities for s in (state, ended))
    torch.testing.assert_close(after.sum(0), before.sum(0), rtol=0, atol=1e-8 * float(before.abs().sum()))
    if not state.periodic:
        turn = [torch.linalg.cross(s.positions, p).sum(0) for s, p in ((state, before), (ended, after))]
        torch.testing.assert_close(turn[1], turn[0], rtol=0, atol=1e-8 * float(before.abs().sum()))


def test_it_turns_and_moves_with_the_system(case):
    propagator, state, forces = case
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    cell = None if state.cell is None else state.cell @ rotation.T
    there = state.replace(
        positions=state.positions @ rotation.T + 3.0, velocities=state.velocities @ rotation.T, cell=cell, pbc=state.pbc
    )
    middle = propagator.force_positions(state)
    torch.testing.assert_close(propagator.force_positions(there), middle @ rotation.T + 3.0, rtol=0, atol=1e-9)
    f = forces(middle).detach()
    one, other = propagator(propagator.with_forces(state, f)), propagator(propagator.with_forces(there, f @ rotation.T))
    torch.testing.assert_close(other.positions, one.positions @ rotation.T + 3.0, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.velocities, one.velocities @ rotation.T, rtol=0, atol=1e-7)


def test_an_atom_moved_by_a_lattice_vector_jumps_alike():
    state = argon()
    propagator, forces = network(state, cutoff=5.0), forces_of(lennard_jones(state))
    moved = state.positions.clone()
    moved[3] += state.cell[0, 1] - 2 * state.cell[0, 2]
    one, other = jump(propagator, state, forces), jump(propagator, state.replace(positions=moved), forces)
    torch.testing.assert_close(other.positions - moved, one.positions - state.positions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kicks", [3, 5])
def test_with_the_potential_of_the_engine_it_is_verlet(kicks, monkeypatch, without_library):
    """Drift, kick, drift with a step of Δt/K: velocity Verlet of the turned kind."""
    state = formaldehyde()
    propagator, forces = network(state, kicks=kicks), forces_of(springs(state))
    monkeypatch.setattr(
        propagator,
        "_force",
        lambda x, state, place: forces(x).detach(),
    )
    ended = jump(propagator, state, forces)
    step = DT / kicks
    x, v = state.positions, state.velocities
    for _ in range(kicks):
        x = x + 0.5 * step * v
        v = v + step * forces(x).detach() / state.masses[:, None]
        x = x + 0.5 * step * v
    torch.testing.assert_close(ended.positions, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(ended.velocities, v, rtol=0, atol=1e-9)


def test_what_the_potential_gets_wrong_is_put_right_by_the_engine(monkeypatch, without_library):
    """A constant error of the learned force leaves the velocity after a jump where it is without."""
    state = formaldehyde()
    propagator, found = network(state), []
    for error in (0.0, 500.0):
        wrong = error * torch.ones(4, 3, dtype=torch.float64)
        monkeypatch.setattr(propagator, "_force", lambda x, state, place, w=wrong: w.clone())
        constant = 300.0 * torch.ones(4, 3, dtype=torch.float64)
        found.append(jump(propagator, state, lambda x, c=constant: c))
    torch.testing.assert_close(found[1].velocities, found[0].velocities, rtol=0, atol=1e-9)


def test_mollified_the_engine_corrects_soft_motions_and_not_stiff_ones(monkeypatch, without_library):
    """Springs to a place, the learned ones as stiff as the engine's: 1 - ω²/ω₀² of a difference is left."""
    state = formaldehyde()
    rest, factors = state.positions.clone(), []
    for wavenumber in (200.0, 1000.0, 2000.0):
        propagator = network(state, mollify=2000.0)
        frequency = 2 * math.pi * 0.0299792458 * wavenumber
        stiffness = state.masses[:, None] * frequency**2
        monkeypatch.setattr(propagator, "_force", lambda x, state, place, k=stiffness: -k * (x - rest))
        monkeypatch.setattr(propagator, "_by_torch", lambda x, state, place, k=stiffness: k * (x - rest))
        middle = propagator._half(state).positions
        asked = propagator.force_positions(state)
        factor = 1 - (wavenumber / 2000) ** 2
        torch.testing.assert_close(asked - rest, factor * (middle - rest), rtol=1e-9, atol=1e-12)
        half = propagator._half(state)
        wrong = torch.full_like(rest, 7.0)
        found, own = propagator._mollified(state, half, -stiffness * (asked - rest) + wrong)
        torch.testing.assert_close(found - own, factor * wrong, rtol=1e-9, atol=1e-9)
        factors.append(factor)
    assert factors[0] > 0.98
    assert abs(factors[-1]) < 1e-12


def test_batches_are_those_of_single_systems():
    states = [formaldehyde(k) for k in range(3)]
    propagator = network(states[0])
    together = State.concatenate(states)
    middle = propagator.force_positions(together)
    forces = 100.0 * torch.sin(middle)
    ended = propagator(propagator.with_forces(together, forces)).split()
    for one, state, f in zip(ended, states, forces.split(4), strict=True):
        alone = propagator(propagator.with_forces(state, f))
        torch.testing.assert_close(one.positions, alone.positions, rtol=0, atol=1e-10)
        torch.testing.assert_close(one.velocities, alone.velocities, rtol=0, atol=1e-8)


def test_the_half_asked_for_is_that_of_the_present_weights():
    state = formaldehyde()
    propagator = network(state)
    middle = propagator.force_positions(state)
    propagator.energy_unit.mul_(3.0)
    other = propagator.force_positions(state)
    assert float((other - middle).abs().max()) > 1e-4


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> TrajectoryPairs:
    path = bursts(tmp_path_factory.mktemp("data") / "bursts.h5md", interval=DT / 4)
    return TrajectoryPairs(path, lag=DT, time_reversal=True, progress=False)


class TestData:
    def test_first_states_bring_along_the_frame_halfway(self, pairs):
        plain, informed = pairs, pairs.with_middle_frames()
        for index in (1, len(pairs) - 2):  # the second one runs backwards
            start, end = informed.batch([index])
            store, first, last = pairs.frame_indices([index])[0]
            middle = pairs.stores[store]
            np.testing.assert_allclose(start.midpoint_positions, middle.positions[(first + last) // 2], atol=1e-6)
            np.testing.assert_allclose(
                start.midpoint_forces, middle.forces[(first + last) // 2] * KJ_PER_MOL, rtol=1e-5
            )
            assert end.midpoint_positions is None
            assert plain.batch([index])[0].midpoint_positions is None
        several = [TrajectoryPairs([one, one], lag=DT, progress=False) for one in pairs.stores]
        start, _ = several[0].with_middle_frames().batch([0, several[0].n_forward - 1])
        assert start.midpoint_positions.shape == (8, 3)

    @pytest.mark.parametrize("interval", [DT, DT / 3])
    def test_data_without_such_frames_are_refused(self, tmp_path, interval):
        path = bursts(tmp_path / "bursts.h5md", interval=interval)
        pairs = TrajectoryPairs(path, lag=DT, progress=False)
        assert not pairs.has_middle_frames
        with pytest.raises(DataError, match=r"frame halfway.*interval='2 fs'"):
            untrained_propagator(pairs, PropagatorConfig(kind="symplectic", **SMALL))

    @pytest.mark.slow
    def test_training_comes_close(self, pairs, tmp_path):
        train, validation = pairs.split((0.8, 0.2))
        config = TrainingConfig(
            propagator=PropagatorConfig(kind="symplectic", **{**SMALL, "cutoff": 6.0}),
            updates=300,
            force_updates=150,
            batch_size=16,
            learning_rate=5e-3,
            validate_every=150,
        )
        result = fit(train, validation, config, tmp_path / "model.safetensors", progress=False)
        before = one_step_errors(untrained_propagator(train, config.propagator), train)["learned"]
        after = one_step_errors(result.propagator, train)["learned"]
        assert after.v < 0.6 * before.v
        assert after.x < 0.6 * before.x
        loaded = Propagator.load(tmp_path / "model.safetensors")
        assert isinstance(loaded, SymplecticPropagator)
        state = validation.with_middle_frames().batch([0])[0].to(dtype=torch.float64)
        torch.testing.assert_close(loaded.force_positions(state), result.propagator.force_positions(state))

    def test_errors_on_data_without_such_frames_are_refused(self, tmp_path, pairs, capsys):
        path = bursts(tmp_path / "bursts.h5md", interval=DT)
        propagator = untrained_propagator(pairs, PropagatorConfig(kind="symplectic", **SMALL))
        propagator.save(tmp_path / "model.safetensors")
        with pytest.raises(CompatibilityError, match="half a jump ahead"):
            one_step_errors(propagator, TrajectoryPairs(path, lag=DT, progress=False))
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", str(tmp_path / "model.safetensors"), str(path)])
        assert "frame halfway between" in capsys.readouterr().err

    def test_gradients_of_the_loss_reach_all_that_matters(self, pairs):
        propagator = untrained_propagator(pairs, PropagatorConfig(kind="symplectic", **SMALL)).double()
        start, end = (one.to(dtype=torch.float64) for one in pairs.with_middle_frames().batch([0, 5, 9]))
        residual = propagator.residual(start, end)
        loss = residual.x.square().mean() + residual.v.square().mean() + residual.middle.square().mean()
        loss.backward()
        rng = torch.Generator().manual_seed(0)
        weights = [one for one in propagator.parameters() if one.grad is not None]
        steps = [1e-6 * torch.randn(one.shape, generator=rng, dtype=torch.float64) for one in weights]
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for one, step in zip(weights, steps, strict=True):
                    one += sign * step
            residual = propagator.residual(start, end)
            values.append(sum(float(one.detach().square().mean()) for one in residual if one is not None))
        slope = sum(float((one.grad * step).sum()) for one, step in zip(weights, steps, strict=True))
        assert slope == pytest.approx((values[0] - values[1]) / 2, rel=1e-4)


class TestEngines:
    def test_ase_asks_the_engine_once_a_jump(self):
        atoms = ase_molecule("H2CO")
        calls = []

        class Counted(ase.calculators.morse.MorsePotential):
            def calculate(self, *given, **named):
                calls.append(None)
                super().calculate(*given, **named)

        atoms.calc = Counted(epsilon=0.5, rho0=6.0, r0=1.3)
        propagator = network(formaldehyde(), strength=50.0)
        dynamics = LearnedDynamics(atoms, propagator, guard=False, rng=0)
        dynamics.run(5)
        assert len(calls) == 5

    @pytest.mark.parametrize("platform", ["Reference", "CPU"])
    def test_openmm_jumps_are_those_of_the_states(self, platform):
        topology, system, positions = openmm_cases.without_remover(openmm_cases.peptide(constraints=None))
        plain = copy.deepcopy(system)
        masses = torch.tensor([plain.getParticleMass(i)._value for i in range(22)], dtype=torch.float64)
        velocities = openmm_cases.velocities_for(system)
        numbers = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])
        state = State(torch.tensor(10 * positions), torch.tensor(10 * velocities), numbers, masses)
        propagator = network(state)
        integrator = LearnedIntegrator(propagator, guard=False)
        made = LearnedSimulation(topology, system, integrator, *openmm_cases.platform_of(platform))
        made.context.setPositions(positions)
        made.context.setVelocities(velocities)
        made.step(3)
        context = openmm.Context(plain, openmm.VerletIntegrator(0.001), openmm_cases.platform_of("Reference")[0])

        def forces(x: torch.Tensor) -> torch.Tensor:
            context.setPositions(x.numpy() / 10)
            return torch.tensor(context.getState(forces=True).getForces(asNumpy=True)._value * KJ_PER_MOL / 10)

        for _ in range(3):
            state = jump(propagator, state, forces)
        x, v = openmm_cases.phase_space(made)
        tolerance = 1e-9 if platform == "Reference" else 1e-5  # single precision
        np.testing.assert_allclose(x, state.positions / 10, rtol=0, atol=tolerance)
        np.testing.assert_allclose(v, state.velocities / 10, rtol=0, atol=1e3 * tolerance)

    def test_metropolis_samples_whatever_the_weights(self):
        """Two atoms on a spring: the mean energy of the relative motion is that of equipartition."""
        state = State(
            positions=torch.tensor([[0.0, 0, 0], [1.2, 0, 0]], dtype=torch.float64),
            velocities=torch.zeros(2, 3, dtype=torch.float64),
            numbers=torch.tensor([8, 8]),
            masses=torch.full((2,), 15.999, dtype=torch.float64),
        )
        propagator = network(state.replace(velocities=state.velocities + 1.0), strength=60.0)
        k, kt = 5e3, BOLTZMANN * 300

        def energy(x: torch.Tensor) -> torch.Tensor:
            return 0.5 * k * ((x[0] - x[1]).norm() - 1.2) ** 2

        forces = forces_of(energy)
        step, rng, seen = MetropolisStep(propagator, 300.0), np.random.default_rng(5), []
        now, known = state, None
        for _ in range(1500):
            now, known = step(
                now, lambda x: float(energy(x)), rng, free(state), known,
                lambda x: forces(x).detach(),
            )  # fmt: skip
            seen.append(known)
        mean, error = np.mean(seen[100:]), np.std(seen[100:]) / np.sqrt(len(seen) / 20)
        # r² exp(-k (r - r0)²/2kT): the volume of the sphere adds little to kT/2.
        r = np.linspace(0.6, 1.8, 4001)
        weight = r**2 * np.exp(-0.5 * k * (r - 1.2) ** 2 / kt)
        expected = float((weight * 0.5 * k * (r - 1.2) ** 2).sum() / weight.sum())
        assert 0.3 < step.statistics.acceptance <= 1
        assert abs(mean - expected) < 4 * error

    def test_metropolis_without_an_engine_is_refused(self):
        state = formaldehyde()
        step = MetropolisStep(network(state), 300.0)
        with pytest.raises(CompatibilityError, match="needs the forces of an engine"):
            step(state, lambda x: 0.0, np.random.default_rng(0), free(state))

    def test_metropolis_in_ase(self):
        atoms = ase_molecule("H2CO")
        atoms.calc = ase.calculators.morse.MorsePotential(epsilon=0.5, rho0=6.0, r0=1.3)
        dynamics = MetropolizedDynamics(atoms, network(formaldehyde(), strength=20.0), temperature_K=300, rng=0)
        dynamics.run(5)
        assert dynamics.statistics.tried == 5


def test_settings():
    assert PropagatorConfig(kind="symplectic").kicks == 3
    assert PropagatorConfig(kind="kick-drift").kicks == 4
    with pytest.raises(ConfigError, match="kicks is 4; kind 'symplectic' needs an odd number"):
        PropagatorConfig(kind="symplectic", kicks=4)
    with pytest.raises(ConfigError, match="mollify is an option of kind 'symplectic'"):
        PropagatorConfig(kind="force-midpoint", mollify=3000)
    with pytest.raises(ConfigError, match="kicks is an option of kind 'kick-drift', 'symplectic' and 'conservative'"):
        PropagatorConfig(kind="force-free", kicks=3)
    one = network(formaldehyde())
    with pytest.raises(ConfigError, match="make no committee"):
        Committee([one, network(formaldehyde(), seed=2)])


class TestLibrary:
    # The curvature of the learned potential is a difference of gradients: 1e-8 of it is lost, and 5e-4 in single.
    @pytest.mark.parametrize(
        ("options", "dtype", "tolerance"),
        [
            ({}, torch.float64, 1e-10),
            ({"kicks": 5, "bonds": True}, torch.float64, 1e-10),
            ({"mollify": 2000.0}, torch.float64, 1e-8),
            ({}, torch.float32, 2e-5),
            ({"mollify": 2000.0}, torch.float32, 5e-4),
        ],
    )
    def test_jumps_are_those_of_torch(self, monkeypatch, dtype, tolerance, options):
        states = State.concatenate([formaldehyde(k) for k in range(3)])
        propagator, forces = network(formaldehyde(), **options).to(dtype), forces_of(springs(states))
        assert propagator._served()
        found = jump(propagator, states, forces)
        monkeypatch.setattr("fastegnn_md.nn.native.network._plan", lambda shape, dtype: None)
        propagator._known = None
        expected = jump(propagator, states, forces)
        torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.velocities, expected.velocities, rtol=0, atol=1e3 * tolerance)

    def test_a_copy_and_other_weights_jump_by_their_own(self):
        state = formaldehyde()
        propagator, forces = network(state), forces_of(springs(state))
        first = jump(propagator, state, forces)
        other = copy.deepcopy(propagator)
        with torch.no_grad():
            other.head.first.weight.mul_(1.5)
        assert float((jump(other, state, forces).velocities - first.velocities).abs().max()) > 1e-3
        torch.testing.assert_close(jump(propagator, state, forces).velocities, first.velocities, rtol=0, atol=1e-12)
        propagator.head = other.head
        changed = jump(other, state, forces)
        torch.testing.assert_close(jump(propagator, state, forces).velocities, changed.velocities, rtol=0, atol=1e-9)
