"""Kick-drift propagators: volume, reversibility, symmetries, training and files."""

from __future__ import annotations

import copy
import dataclasses
import math
from importlib import import_module

import numpy as np
import pytest
import torch

from fastegnn_md import Propagator, State
from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.errors import ConfigError, DataError, StateError, TrainingError
from fastegnn_md.graph import NeighbourSearch
from fastegnn_md.integrators.step import GuardedStep
from fastegnn_md.nn.messages import cpu as cpu_kernel
from fastegnn_md.propagator.compiled import CompiledMove
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.kick_drift import KickDriftPropagator
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.start import untrained_propagator

MASS = {1: 1.008, 6: 12.011, 8: 15.999, 29: 63.546}
CUBIC = 3.61  # Å, lattice constant of copper


def network(
    periodic: bool = False, conserving: bool = True, seed: int = 1, bonds: bool = False, **options
) -> KickDriftPropagator:
    """Random weights and kicks that turn velocities by about their own size."""
    config = PropagatorConfig(
        **{"kind": "kick-drift", "hidden": 12, "layers": 2, "cutoff": 3.2, "radial_functions": 6, **options}
    )
    domain = Domain(
        masses={number: (mass, mass) for number, mass in MASS.items()},
        limits=JumpLimits({}),
        periodic=periodic,
        bonds=bonds,
        conserves_momentum=conserving,
        neighbours=10.0,
        velocity_scale=10.0,
        force_scale=1.0,
    )
    propagator = KickDriftPropagator(config, 0.01, domain, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in propagator.network.parameters():
        if float(parameter.detach().abs().mean()) < 0.06 and parameter.dim() == 2:  # what starts close to zero
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    propagator.requires_grad_(False)
    # Whatever the weights: one kick over the whole time changes velocities by about half of what they are.
    state = copper() if periodic else molecule()
    kick = propagator._acceleration(state, torch.zeros(state.n_atoms, dtype=torch.int64))
    propagator.force_scale *= 0.5 * state.velocities.std() / (0.01 * kick.std())
    return propagator


def molecule(seed: int = 0, atoms: int = 7) -> State:
    rng = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)[:atoms] * 1.4
    numbers = torch.tensor([6, 1, 8, 1, 6, 1, 1, 8])[:atoms]
    return State(
        positions=places + 0.15 * torch.randn(atoms, 3, generator=rng, dtype=torch.float64),
        velocities=8.0 * torch.randn(atoms, 3, generator=rng, dtype=torch.float64),
        numbers=numbers,
        masses=torch.tensor([MASS[int(number)] for number in numbers], dtype=torch.float64),
        bonds=torch.tensor([[0, 1], [0, 2], [2, 3]]),
    )


def copper(seed: int = 0, repeat: int = 2, shear: float = 0.3) -> State:
    """Face-centred cubic copper in a cell that is not rectangular, atoms displaced by 0.1 Å."""
    rng = torch.Generator().manual_seed(seed)
    cell = repeat * CUBIC * torch.eye(3, dtype=torch.float64)
    cell[1, 0] = shear
    base = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.arange(float(repeat), dtype=torch.float64)] * 3)
    places = ((corners[:, None] + base).view(-1, 3) / repeat) @ cell
    n = len(places)
    return State(
        positions=places + 0.1 * torch.randn(n, 3, generator=rng, dtype=torch.float64),
        velocities=3.0 * torch.randn(n, 3, generator=rng, dtype=torch.float64),
        numbers=torch.full((n,), 29),
        masses=torch.full((n,), MASS[29], dtype=torch.float64),
        cell=cell[None],
    )


SYSTEMS = {
    "molecule": (molecule, {"periodic": False}),
    "molecule, bonds": (molecule, {"periodic": False, "bonds": True}),
    "molecule, egnn": (molecule, {"periodic": False, "architecture": "egnn"}),
    "molecule, one kick": (molecule, {"periodic": False, "kicks": 1}),
    "molecule, three kicks, momentum not conserved": (molecule, {"periodic": False, "kicks": 3, "conserving": False}),
    "copper": (copper, {"periodic": True}),
    "copper, long cutoff": (copper, {"periodic": True, "cutoff": 5.5}),
}


@pytest.fixture(params=SYSTEMS)
def case(request):
    make, options = SYSTEMS[request.param]
    return network(**options), make()


def turned(state: State) -> State:
    return state.replace(velocities=-state.velocities)


def phase(state: State) -> torch.Tensor:
    return torch.cat([state.positions, state.velocities])


def test_the_kicks_of_these_tests_matter(case):
    propagator, state = case
    change = propagator(state).velocities - state.velocities
    assert 0.1 * float(state.velocities.std()) < float(change.std()) < 10 * float(state.velocities.std())


def test_a_jump_there_and_back_returns(case):
    propagator, state = case
    there = propagator(state)
    torch.testing.assert_close(phase(turned(propagator(turned(there)))), phase(state), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "long" not in name])
def test_the_determinant_of_the_jacobian_is_one(name):
    make, options = SYSTEMS[name]
    state = make(repeat=1, shear=0.0) if make is copper else make(atoms=4)
    propagator = network(**options)
    n = state.n_atoms

    def move(z):
        moved = state.replace(positions=z[:n], velocities=z[n:])
        predicted = propagator._predict(moved)
        return torch.cat([moved.positions + predicted.displacement, predicted.velocities])

    jacobian = torch.autograd.functional.jacobian(move, phase(state)).view(6 * n, 6 * n)
    torch.testing.assert_close(move(phase(state)), phase(propagator(state)), rtol=0, atol=1e-12)
    assert abs(float(torch.linalg.det(jacobian)) - 1.0) < 1e-9
    # the kicks are not free flight, which has this determinant as well
    assert float(jacobian[3 * n :, : 3 * n].norm()) > 1.0
    # and autograd is right: one column by differences
    step = torch.zeros_like(phase(state))
    step[0, 1] = 1e-6
    column = (move(phase(state) + step) - move(phase(state) - step)).flatten() / 2e-6
    torch.testing.assert_close(column, jacobian[:, 1], rtol=1e-5, atol=1e-5 * float(jacobian.abs().max()))


def test_it_is_the_palindrome_of_its_formula():
    propagator, state = network(kicks=3), molecule()
    step = propagator.timestep / 3
    x, v = state.positions, state.velocities
    x = x + 0.5 * step * v
    for number in range(3):
        a = propagator._acceleration(state.replace(positions=x), torch.full((state.n_atoms,), number))
        v = v + step * a
        x = x + (step if number < 2 else 0.5 * step) * v
    ended = propagator(state)
    torch.testing.assert_close(ended.positions, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(ended.velocities, v, rtol=0, atol=1e-12)


def test_kicks_are_the_same_from_both_ends_and_need_not_be_the_same_in_the_middle():
    propagator, state = network(kicks=4), molecule()
    first, second, third, last = (
        propagator._acceleration(state, torch.full((state.n_atoms,), number)) for number in range(4)
    )
    torch.testing.assert_close(first, last, rtol=0, atol=0)
    torch.testing.assert_close(second, third, rtol=0, atol=0)
    assert float((first - second).abs().max()) > 1e-3


def test_it_turns_and_is_reflected_and_shifted_with_the_system():
    propagator, state = network(bonds=True), molecule()
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    for matrix in (q, -q):
        there = state.replace(positions=state.positions @ matrix.T + 5.0, velocities=state.velocities @ matrix.T)
        ended, expected = propagator(there), propagator(state)
        torch.testing.assert_close(ended.positions, expected.positions @ matrix.T + 5.0, rtol=0, atol=1e-10)
        torch.testing.assert_close(ended.velocities, expected.velocities @ matrix.T, rtol=0, atol=1e-10)


def test_the_order_of_atoms_means_nothing():
    propagator, state = network(), molecule()
    order = torch.randperm(state.n_atoms, generator=torch.Generator().manual_seed(1))
    fields = {name: getattr(state, name)[order] for name in ("positions", "velocities", "numbers", "masses")}
    ended = propagator(State(**fields))
    torch.testing.assert_close(ended.positions, propagator(state).positions[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("cutoff", [3.2, 5.5])
def test_the_image_an_atom_is_given_in_means_nothing(cutoff):
    propagator, state = network(periodic=True, cutoff=cutoff), copper()
    images = torch.randint(-2, 3, (state.n_atoms, 3), generator=torch.Generator().manual_seed(2)).double()
    shift = images @ state.cell[0]
    ended, expected = propagator(state.replace(positions=state.positions + shift)), propagator(state)
    torch.testing.assert_close(ended.positions - shift, expected.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(ended.velocities, expected.velocities, rtol=0, atol=1e-10)


def test_systems_of_a_batch_do_not_see_each_other():
    propagator = network()
    states = [dataclasses.replace(molecule(seed, atoms), bonds=None) for seed, atoms in ((0, 7), (1, 5))]
    together = propagator(State.concatenate(states)).split()
    for one, state in zip(together, states, strict=True):
        torch.testing.assert_close(phase(one), phase(propagator(state)), rtol=0, atol=1e-12)


def test_momentum_is_kept_exactly_and_a_uniform_motion_is_carried_along():
    propagator, state = network(), molecule()
    ended = propagator(state)
    torch.testing.assert_close(state.masses @ ended.velocities, state.masses @ state.velocities, rtol=0, atol=1e-11)
    drift = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    carried = propagator(state.replace(velocities=state.velocities + drift))
    torch.testing.assert_close(carried.positions, ended.positions + 0.01 * drift, rtol=0, atol=1e-10)
    free = network(conserving=False)(state)
    assert float((state.masses @ (free.velocities - state.velocities)).abs().max()) > 1e-3


def test_kicks_are_smooth_where_an_atom_crosses_the_cutoff():
    propagator, cutoff = network(), 3.2
    state = molecule()

    def kick(distance):
        x = state.positions.clone()
        x[6] = x[0] + distance * torch.tensor([-1.0, 0, 0], dtype=torch.float64)
        at = state.replace(positions=x)
        # the position relative to the virtual nodes changes too, smoothly: second differences see a jump or a kink
        return propagator._acceleration(at, torch.zeros(state.n_atoms, dtype=torch.int64))

    h = 1e-3

    def second(distance):
        return (kick(distance + h) - 2 * kick(distance) + kick(distance - h)) / h**2

    def edges(distance):
        x = state.positions.clone()
        x[6] = x[0] + distance * torch.tensor([-1.0, 0, 0], dtype=torch.float64)
        return NeighbourSearch(cutoff)(state.replace(positions=x)).edge_index.shape[1]

    assert edges(cutoff - h) == edges(cutoff + h) + 2
    here, near = second(cutoff), [second(cutoff - 5 * h), second(cutoff + 5 * h)]
    assert float((here - near[0]).abs().max()) < 0.1 * float(near[0].abs().max())
    assert float((here - near[1]).abs().max()) < 0.1 * float(near[1].abs().max())


@pytest.mark.parametrize("cutoff", [3.2, 5.5])
def test_the_list_an_edge_comes_from_means_nothing(cutoff):
    propagator, fresh = network(periodic=True, cutoff=cutoff, kicks=2), network(periodic=True, cutoff=cutoff, kicks=2)
    fresh.skin = 0.0
    state, other = copper(), copper()
    for _ in range(3):
        state, other = propagator(state), fresh(other)
    torch.testing.assert_close(phase(state), phase(other), rtol=0, atol=1e-10)


def test_a_single_precision_network_moves_double_precision_states_reversibly():
    propagator, state = network().float(), molecule()
    there = propagator(state)
    assert there.dtype == torch.float64
    torch.testing.assert_close(phase(turned(propagator(turned(there)))), phase(state), rtol=0, atol=1e-5)


def test_predictions_that_are_not_finite_are_refused():
    propagator = network()
    propagator.force_scale[:] = 1e300
    with pytest.raises(StateError):
        propagator(propagator(molecule()))


def test_it_is_a_propagator_like_others_for_guarded_steps():
    from fastegnn_md.mechanics.constraints import Constraints

    propagator, state = network(), molecule()
    none = Constraints(state.masses, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0), torch.zeros(7).bool())
    step, rng = GuardedStep(propagator, guard=None), np.random.default_rng(0)
    ended = step.finish(step.prepare(state, none, rng), none, rng)
    torch.testing.assert_close(ended.positions, propagator(state).positions, rtol=0, atol=1e-10)


def test_it_is_saved_and_loaded_as_what_it_is(tmp_path):
    propagator, state = network(kicks=3), molecule()
    propagator.save(tmp_path / "model.safetensors")
    loaded = Propagator.load(tmp_path / "model.safetensors")
    assert type(loaded) is KickDriftPropagator
    assert loaded.reversible
    assert loaded.volume_preserving
    torch.testing.assert_close(phase(loaded(state)), phase(propagator(state)), rtol=0, atol=0)
    assert "kick-drift fastegnn of 3 kicks" in loaded.describe()
    twin = copy.deepcopy(loaded)
    assert twin.skin == loaded.skin
    torch.testing.assert_close(phase(twin(state)), phase(propagator(state)), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
def test_a_kick_is_compiled_as_one_graph(monkeypatch):
    """Captured whole, and once for all kicks and sizes; what a compiler makes of the graph is left out here."""
    compiler, counter = torch.compile, import_module("torch._dynamo.testing").CompileCounter()

    def capture(function, dynamic, fullgraph, options):
        return compiler(function, dynamic=dynamic, fullgraph=fullgraph, backend=counter)

    monkeypatch.setattr(torch, "compile", capture)
    propagator = network(layers=1)
    states = [molecule(0), molecule(1, 5), molecule(2)]
    expected = [propagator(state) for state in states]
    propagator._compiled = CompiledMove(propagator._arithmetic(), propagator.config.cutoff, on_cpu=True)
    for state, plain in zip(states, expected, strict=True):
        torch.testing.assert_close(phase(propagator(state)), phase(plain), rtol=0, atol=1e-11)
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_large_systems_have_the_kernel_after_compile(monkeypatch, inductor, without_library):
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr("fastegnn_md.propagator.compiled._COMPILED_EDGES", 0)
    propagator, state = network(periodic=True), copper()
    plain = propagator(state)
    propagator.compile()
    assert cpu_kernel.serves(next(propagator.parameters()))
    torch.testing.assert_close(phase(propagator(state)), phase(plain), rtol=0, atol=1e-10)
    there = propagator(state)
    torch.testing.assert_close(phase(turned(propagator(turned(there)))), phase(state), rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.parametrize("periodic", [False, True])
def test_what_is_recorded_on_a_gpu_gives_the_numbers_of_the_plain_jump(periodic, monkeypatch):
    """All but the recording: lists of edges are filled up, results are copies."""
    propagator, state = network(periodic=periodic), copper() if periodic else molecule()
    plain, edges = propagator(state), []

    def recorded(*inputs):
        edges.append(inputs[5].edge_index.shape[1])
        return propagator._kick(*inputs)

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("fastegnn_md.propagator.compiled._PADDED_EDGES", 64)
    propagator._compiled = CompiledMove(recorded, propagator.config.cutoff, on_cpu=False)
    torch.testing.assert_close(phase(propagator(state)), phase(plain), rtol=0, atol=1e-11)
    assert len(edges) == 4
    assert all(count % 64 == 0 for count in edges)


def test_other_propagators_do_not_claim_it():
    assert not Propagator.reversible
    assert not Propagator.volume_preserving


def test_configurations_that_exclude_each_other_are_refused():
    for options, word in (
        ({"kind": "kick-drift", "edge_dropping": 0.2}, "edge_dropping is an option of kind 'position'"),
        (
            {"kind": "position", "kicks": 8},
            "kicks is an option of kind 'kick-drift', 'symplectic' and 'conservative', the",
        ),
    ):
        with pytest.raises(ValueError, match=word):
            PropagatorConfig(**options)
    with pytest.raises(ConfigError, match="force_updates"):
        TrainingConfig(force_updates=3)
    domain = network().domain
    with pytest.raises(ConfigError, match="kick-drift"):
        Propagator(PropagatorConfig(kind="kick-drift"), 0.01, domain)
    with pytest.raises(ConfigError, match="force-free"):
        KickDriftPropagator(PropagatorConfig(), 0.01, domain)
    with pytest.raises(ConfigError, match="kick-drift"):
        network(architecture="rf", hidden=64, layers=4, radial_functions=12)


OH, STIFFNESS, LAG = np.array([1.008, 15.999]), 2e5, 0.004  # amu, amu/ps², ps: a period of 13.7 fs


@pytest.fixture(scope="module")
def oscillators(tmp_path_factory):
    """Pairs of an O-H oscillator at 300 K in any orientation, with forces, in closed form."""
    path = tmp_path_factory.mktemp("store") / "oscillators.h5md"
    rng, omega = np.random.default_rng(7), math.sqrt(STIFFNESS * OH.sum() / OH.prod())
    topology = Topology(numbers=np.array([1, 8]), masses=OH, bonds=np.array([[0, 1]]))
    options = {
        "velocities": True,
        "forces": True,
        "cells": False,
        "kind": "bursts",
        "provenance": {"made by": "a test"},
    }
    share = np.array([[OH[1]], [-OH[0]]]) / OH.sum()
    with StoreWriter(path, topology, 400, **options) as writer:
        for burst in range(200):
            axis = rng.standard_normal(3)
            axis /= np.linalg.norm(axis)
            a, b = rng.standard_normal(2) * math.sqrt(2494.3 / STIFFNESS)
            for time in (0.0, LAG):
                stretch = a * math.cos(omega * time) + b * math.sin(omega * time)
                speed = omega * (b * math.cos(omega * time) - a * math.sin(omega * time))
                writer.write(
                    share * (1.0 + stretch) * axis,
                    burst + time,
                    velocities=share * speed * axis,
                    forces=np.array([[-1.0], [1.0]]) * STIFFNESS * stretch * axis,
                    cell=None,
                )
        writer.finish(LAG, 2 * np.arange(200)[:, None] + [0, 2])
    return TrajectoryPairs(path, lag=LAG, progress=False).split((0.6, 0.2, 0.2))


def trained(parts, **changes):
    propagator = {"kind": "kick-drift", "kicks": 2, "hidden": 16, "layers": 1, "cutoff": 3.0}
    values = {"updates": 60, "batch_size": 16, "validate_every": 60, "warmup": 5, "learning_rate": 0.01}
    config = TrainingConfig.from_mapping(
        {**values, "accelerator": "cpu", "logger": "none", **changes, "propagator": propagator}
    )
    return fit(parts[0], parts[1], config, progress=False)


@pytest.mark.parametrize("force_updates", [0, 60], ids=["on pairs", "on forces alone"])
def test_training_lowers_the_error(oscillators, force_updates, require):
    require("lightning")
    result = trained(oscillators, force_updates=force_updates)
    assert isinstance(result.propagator, KickDriftPropagator)
    # kicks of nothing have an error of 1 in velocities; leapfrog with the true force has 0.11 and 0.12
    assert max(result.metrics["over_best_baseline"].values()) < 0.7


def test_weights_that_are_not_finite_end_the_training_with_a_reason(oscillators, require):
    require("lightning")
    with pytest.raises(TrainingError, match="lower learning_rate"):
        trained(oscillators, updates=20, validate_every=20, warmup=0, learning_rate=1e30, gradient_clip=None)


def test_scales_come_from_forces_or_from_changes_of_velocity(oscillators):
    start, end = oscillators[0].batch(list(range(len(oscillators[0]))))
    config = PropagatorConfig(kind="kick-drift", hidden=8, layers=1)
    propagator = untrained_propagator(oscillators[0], config)
    for index, number in enumerate((1, 8)):
        chosen = start.numbers == number
        expected = (start.forces[chosen] / start.masses[chosen].sqrt()[:, None]).square().mean().sqrt()
        assert float(propagator.force_scale[index]) == pytest.approx(float(expected), rel=1e-6)
    propagator.measure(dataclasses.replace(start, forces=None), end)
    for index, number in enumerate((1, 8)):
        chosen = start.numbers == number
        change = (end.velocities - start.velocities)[chosen] * start.masses[chosen].sqrt()[:, None] / LAG
        assert float(propagator.force_scale[index]) == pytest.approx(float(change.square().mean().sqrt()), rel=1e-6)


def test_the_force_residual_is_the_kick_minus_the_force():
    propagator, state = network(), molecule()
    kick = propagator._acceleration(state, torch.zeros(state.n_atoms, dtype=torch.int64))
    exact = state.replace(forces=kick * state.masses[:, None])
    torch.testing.assert_close(propagator.force_residual(exact), torch.zeros(7, 3).double(), rtol=0, atol=1e-12)
    nothing = propagator.force_residual(state.replace(forces=torch.zeros_like(kick)))
    scale = propagator.force_scale[propagator._species_index[state.numbers]][:, None]
    torch.testing.assert_close(nothing, kick * state.masses.sqrt()[:, None] / scale, rtol=0, atol=1e-12)


def test_force_updates_need_forces(oscillators):
    class Without(TrajectoryPairs):
        has_forces, lag, fingerprint = False, LAG, ""

        def __init__(self):
            pass

        def __len__(self):
            return 3

        def sequences(self, length):
            return self

    config = TrainingConfig(propagator=PropagatorConfig(kind="kick-drift"), force_updates=1)
    with pytest.raises(DataError, match="force_updates"):
        fit(Without(), Without(), config, progress=False)
