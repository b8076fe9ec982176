"""Conservative propagators: structure for any weights, in boxes too, exact limits, training, engines, files."""

from __future__ import annotations

import dataclasses

import numpy as np
import openmm_cases
import pytest
import torch
from ase.build import molecule as ase_molecule
from gradient_cases import DT, argon, bursts, forces_of, formaldehyde, springs, symplecticity

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import ConfigError, GraphError
from fastegnn_md.integrators import LearnedDynamics, LearnedIntegrator, LearnedSimulation
from fastegnn_md.propagator import ConservativePropagator, PropagatorConfig, permissive_domain
from fastegnn_md.training import TrainingConfig, fit

SMALL = {"hidden": 16, "layers": 2, "cutoff": 3.6, "radial_functions": 6, "vector_channels": 2}


def network(state: State, *, strength: float = 4000.0, kind: str = "conservative", **options) -> ConservativePropagator:
    """Random weights, with a potential that bends the way of the atoms."""
    domain = permissive_domain(state, bonds=options.pop("bonds", False))
    config = PropagatorConfig(**{"kind": kind, **SMALL, **options})
    propagator = Propagator.build(config, DT, dataclasses.replace(domain, neighbours=6.0), seed=1).double()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in propagator.network.named_parameters():
        if "vectors" in name and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    propagator.energy_unit.fill_(1.0)
    found = propagator._force(state.positions, state, torch.zeros_like(state.masses))
    propagator.energy_unit.fill_(strength * float(state.masses.mean()) / float(found.detach().std()))
    return propagator.requires_grad_(False)


def flow(propagator: ConservativePropagator, state: State):
    """The jump as a differentiable function of q and p."""
    shape, masses = state.positions.shape, state.masses[:, None]

    def moved(q: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = propagator.predict(state.moved(positions=q.view(shape), velocities=p.view(shape) / masses))
        return (q + found.displacement.flatten()), (masses * found.velocities).flatten()

    return moved


CASES = {
    "three kicks": (formaldehyde, {}),
    "four kicks": (formaldehyde, {"kicks": 4}),
    "bonds": (formaldehyde, {"bonds": True, "kicks": 1}),
    "egnn": (formaldehyde, {"architecture": "egnn"}),
    "periodic": (argon, {"cutoff": 5.0, "strength": 20000.0}),
}


@pytest.fixture(params=CASES)
def case(request):
    make, options = CASES[request.param]
    state = make()
    return network(state, **options), state


def test_the_jacobian_is_symplectic(case, without_library):
    propagator, state = case
    error, change = symplecticity(flow(propagator, state), state, DT)
    assert change > 0.1
    assert error < 1e-9


def test_turned_round_it_is_its_own_inverse(case):
    propagator, state = case
    ended = propagator(state)
    assert float((ended.velocities - state.velocities).std()) > 0.05 * float(state.velocities.std())
    back = propagator(ended.replace(velocities=-ended.velocities))
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.velocities, -state.velocities, rtol=0, atol=1e-8)


def test_momentum_and_angular_momentum_are_conserved(case):
    propagator, state = case
    ended = propagator(state)
    before, after = (s.masses[:, None] * s.velocities for s in (state, ended))
    torch.testing.assert_close(after.sum(0), before.sum(0), rtol=0, atol=1e-8 * float(before.abs().sum()))
    if not state.periodic:
        turn = [torch.linalg.cross(s.positions, p).sum(0) for s, p in ((state, before), (ended, after))]
        torch.testing.assert_close(turn[1], turn[0], rtol=0, atol=1e-8 * float(before.abs().sum()))


def test_an_atom_moved_by_a_lattice_vector_jumps_alike():
    state = argon()
    propagator = network(state, cutoff=5.0)
    moved = state.positions.clone()
    moved[3] += state.cell[0, 1] - 2 * state.cell[0, 2]
    one, other = propagator(state), propagator(state.replace(positions=moved))
    torch.testing.assert_close(other.positions - moved, one.positions - state.positions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kicks", [3, 4])
def test_with_the_potential_of_an_engine_it_is_verlet(kicks, monkeypatch, without_library):
    state = formaldehyde()
    propagator, forces = network(state, kicks=kicks), forces_of(springs(state))
    monkeypatch.setattr(propagator, "_force", lambda x, state, place: forces(x).detach())
    ended, step = propagator(state), DT / kicks
    x, v = state.positions, state.velocities
    for _ in range(kicks):
        x = x + 0.5 * step * v
        v = v + step * forces(x).detach() / state.masses[:, None]
        x = x + 0.5 * step * v
    torch.testing.assert_close(ended.positions, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(ended.velocities, v, rtol=0, atol=1e-9)


def test_the_energy_of_a_potential_in_closed_form_does_not_drift(monkeypatch, without_library):
    state = formaldehyde()
    potential = springs(state)
    propagator, forces = network(state, kicks=2), forces_of(potential)
    monkeypatch.setattr(propagator, "_force", lambda x, state, place: forces(x).detach())
    energies = []
    for _ in range(600):
        state = propagator(state)
        kinetic = float((0.5 * state.masses[:, None] * state.velocities.square()).sum())
        energies.append(float(potential(state.positions)) + kinetic)
    slope = np.polyfit(np.linspace(0, 1, len(energies)), energies, 1)[0]
    assert np.std(energies) > 1e-6 * kinetic
    assert abs(slope) < 1e-3 * kinetic


@pytest.mark.parametrize("kind", ["conservative", "symplectic"])
@pytest.mark.parametrize("systems", [1, 3])
def test_in_periodic_boxes_the_library_says_what_torch_says(kind, systems, monkeypatch):
    states = [argon(seed) for seed in range(systems)]
    one = State.concatenate(states) if systems > 1 else states[0]
    propagator = network(states[0], cutoff=5.0, kind=kind)
    place = torch.full_like(one.masses, 2 / 3)
    assert propagator._served()
    native = propagator._force(one.positions, one, place)
    assert propagator._learned_energy(one) is not None
    torch.testing.assert_close(native, propagator._by_torch(one.positions, one, place).neg(), rtol=1e-9, atol=1e-6)


def test_in_periodic_boxes_gradients_of_training_are_those_of_torch(monkeypatch):
    start = State.concatenate([argon(0), argon(1)])
    end = start.replace(positions=start.positions + 0.01, velocities=0.9 * start.velocities)
    found = {}
    for served in (True, False):
        propagator = network(argon(), cutoff=5.0).requires_grad_(True)
        if not served:
            monkeypatch.setattr(propagator, "_learned_energy", lambda state: None)
        residual = propagator.residual(start, end)
        (residual.x.square().mean() + residual.v.square().mean()).backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in propagator.parameters()]
        found[served] = torch.cat([one.flatten() for one in gradients])
    largest = float(found[False].abs().max())
    assert largest > 0
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-6 * largest)


def test_a_list_of_neighbours_serves_no_other_box_and_no_other_place():
    """Ten jumps through the same propagator, and each by one that knows of no other."""
    state = argon()
    propagator, fresh = network(state, cutoff=5.0, strength=20000.0), network(state, cutoff=5.0, strength=20000.0)
    for number in range(10):
        fresh._known = None
        ended = propagator(state)
        torch.testing.assert_close(ended.positions, fresh(state).positions, rtol=0, atol=1e-10)
        state = ended.replace(cell=ended.cell * 1.03, positions=ended.positions + 0.1 * number, pbc=ended.pbc)


def test_atoms_on_each_other_are_named():
    state = argon()
    x = state.positions.clone()
    x[2] = x[1]
    with pytest.raises(GraphError, match=r"atoms (1 and 2|2 and 1)"):
        network(state, cutoff=5.0)(state.replace(positions=x, velocities=torch.zeros_like(x)))


def test_a_file_holds_the_same_map(tmp_path):
    state = argon()
    propagator = network(state, cutoff=5.0, kicks=2)
    propagator.save(tmp_path / "a.safetensors")
    loaded = Propagator.load(tmp_path / "a.safetensors")
    assert isinstance(loaded, ConservativePropagator)
    assert loaded.config.kicks == 2
    torch.testing.assert_close(loaded(state).positions, propagator(state).positions, rtol=0, atol=1e-12)


def test_settings():
    assert PropagatorConfig(kind="conservative").kicks == 3
    assert PropagatorConfig(kind="conservative").wants_forces is None
    assert not PropagatorConfig(kind="conservative").middle_frames
    with pytest.raises(ConfigError, match="mollify is an option of kind 'symplectic'"):
        PropagatorConfig(kind="conservative", mollify=3000)
    TrainingConfig(propagator=PropagatorConfig(kind="conservative"), unroll=2, noise=0.1, force_updates=5)


def test_training_learns_forces_and_pairs(tmp_path):
    pairs = TrajectoryPairs(bursts(tmp_path / "bursts.h5md", DT / 2, 24), lag=DT, time_reversal=True, progress=False)
    train, validation = pairs.split((0.8, 0.2))
    config = TrainingConfig(
        propagator=PropagatorConfig(kind="conservative", **{**SMALL, "cutoff": 6.0}),
        updates=160,
        force_updates=80,
        batch_size=16,
        learning_rate=1e-2,
        ema_decay=0.9,
        logger="none",
    )
    result = fit(train, validation, config, tmp_path / "a.safetensors", progress=False)
    assert isinstance(result.propagator, ConservativePropagator)
    assert result.metrics["over_best_baseline"]["v"] < 0.8


def test_ase_dynamics_need_no_calculator():
    atoms = ase_molecule("H2CO")
    dynamics = LearnedDynamics(atoms, network(formaldehyde(), strength=50.0), guard=False, rng=0)
    dynamics.run(5)
    assert np.isfinite(atoms.positions).all()


def test_openmm_jumps_are_those_of_the_states():
    topology, system, positions = openmm_cases.without_remover(openmm_cases.peptide(constraints=None))
    masses = torch.tensor([system.getParticleMass(i)._value for i in range(22)], dtype=torch.float64)
    velocities = openmm_cases.velocities_for(system)
    numbers = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])
    state = State(torch.tensor(10 * positions), torch.tensor(10 * velocities), numbers, masses)
    propagator = network(state)
    made = LearnedSimulation(
        topology, system, LearnedIntegrator(propagator, guard=False), *openmm_cases.platform_of("Reference")
    )
    made.context.setPositions(positions)
    made.context.setVelocities(velocities)
    made.step(3)
    for _ in range(3):
        state = propagator(state)
    x, v = openmm_cases.phase_space(made)
    np.testing.assert_allclose(x, state.positions / 10, rtol=0, atol=1e-9)
    np.testing.assert_allclose(v, state.velocities / 10, rtol=0, atol=1e-6)
