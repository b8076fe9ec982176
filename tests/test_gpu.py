"""Learned maps on a GPU give the numbers they give on the CPU."""

from __future__ import annotations

import copy

import architecture_cases
import gpu_cases
import pytest
import torch
from gpu_cases import DEVICE

import fastegnn_md
from fastegnn_md import Committee, State
from fastegnn_md.errors import StateError
from fastegnn_md.graph import NeighbourSearch
from fastegnn_md.models import build_model
from fastegnn_md.nn import edge_sums

pytestmark = gpu_cases.ON_GPU

KINDS = {
    "force-free": {},
    "force-start": {"kind": "force-start"},
    "force-midpoint": {"kind": "force-midpoint"},
    "kick-drift": {"kind": "kick-drift"},
    "position": {"kind": "position"},
    "egnn": {"architecture": "egnn", "kind": "force-start"},
}
SYSTEMS = {
    "isolated": lambda: gpu_cases.system(),
    "replicas": lambda: State.concatenate([gpu_cases.system(seed) for seed in range(4)]),
    "periodic": lambda: gpu_cases.system(periodic=True),
    "periodic replicas": lambda: State.concatenate([gpu_cases.system(seed, periodic=True) for seed in range(3)]),
}


def there(thing):
    """A copy on the GPU."""
    return copy.deepcopy(thing).to(DEVICE) if isinstance(thing, torch.nn.Module) else thing.to(DEVICE)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=tolerance)


def same_jump(found, expected, tolerance=1e-9):
    """Equal positions and velocities, of which 1 Å/ps is worth 0.01 Å."""
    close(found.positions, expected.positions, tolerance)
    close(found.velocities, expected.velocities, 100 * tolerance)


@pytest.mark.parametrize("which", SYSTEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_jump_is_that_of_the_cpu(kind, which):
    state = SYSTEMS[which]()
    propagator = gpu_cases.propagator(gpu_cases.system(periodic=state.periodic), **KINDS[kind])
    on_gpu, expected = there(propagator).predict(there(state)), propagator.predict(state)
    assert on_gpu.displacement.device.type == DEVICE.type
    close(on_gpu.displacement, expected.displacement)
    if kind != "position":
        close(on_gpu.velocities, expected.velocities, 1e-7)
    flight = state.positions + gpu_cases.TIMESTEP * state.velocities
    moved = (state.positions + expected.displacement - flight).abs().max()
    assert moved > 1e-3, "the network must matter here"


@pytest.mark.parametrize("which", SYSTEMS)
@pytest.mark.parametrize("kind", ["force-free", "kick-drift"])
def test_single_precision_is_that_of_the_format(kind, which):
    """In float32 messages are summed by the Triton kernel; kicks are added up in the precision of the state."""
    state = SYSTEMS[which]()
    propagator = gpu_cases.propagator(gpu_cases.system(periodic=state.periodic), **KINDS[kind])
    expected = propagator(state)
    found = there(propagator).float()(there(state))
    assert found.positions.dtype == torch.float64
    same_jump(found, expected, 1e-6)


def test_many_jumps_stay_on_the_gpu_and_on_course():
    state = gpu_cases.system(periodic=True)
    propagator = gpu_cases.propagator(state)
    on_gpu, here, moved = there(propagator), state, there(state)
    for _ in range(5):
        here, moved = propagator(here), on_gpu(moved)
    assert moved.device.type == DEVICE.type
    same_jump(moved, here, 1e-7)


def test_velocities_are_redrawn_from_a_generator_of_the_gpu():
    state = gpu_cases.system(side=6)
    propagator = there(gpu_cases.propagator(state, kind="position"))
    first, again = (
        propagator(there(state), generator=torch.Generator(DEVICE).manual_seed(1), temperature=300.0) for _ in range(2)
    )
    assert torch.equal(first.velocities, again.velocities)
    twice_kinetic = (first.masses[:, None] * first.velocities.square()).sum() / (3 * first.n_atoms)
    assert float(twice_kinetic) == pytest.approx(249.4, rel=0.2)


def test_a_state_that_is_elsewhere_is_refused_by_name():
    state = gpu_cases.system()
    propagator = there(gpu_cases.propagator(state))
    if DEVICE.type == "cpu":
        pytest.skip("there is nowhere else")
    with pytest.raises(StateError, match="the state is on cpu, the propagator on cuda:0"):
        propagator(state)


@pytest.mark.parametrize("kind", ["force-start", "kick-drift"])
def test_a_committee_gives_its_mean_and_spread(kind):
    state = gpu_cases.system()
    committee = Committee([gpu_cases.propagator(state, seed, kind=kind) for seed in range(3)])
    expected, (spread, _) = committee.with_trust(state)
    found, (spread_there, _) = there(committee).with_trust(there(state))
    same_jump(found, expected)
    close(spread_there.x, spread.x, 1e-7)
    close(spread_there.v, spread.v, 1e-7)
    assert spread.x.min() > 1e-3


def test_what_is_saved_on_the_gpu_loads_on_the_cpu_and_back(tmp_path):
    state, path = gpu_cases.system(), tmp_path / "model.safetensors"
    propagator = gpu_cases.propagator(state)
    there(propagator).save(path)
    expected = propagator(state)
    same_jump(fastegnn_md.load(path)(state), expected)
    again = fastegnn_md.load(path, device=DEVICE)
    assert again.identity() == propagator.identity()
    same_jump(again(there(state)), expected)


@pytest.mark.parametrize("name", ["copper-emt", "ala2-vacuum", "ala2-gbn2", "ethanol-xtb"])
def test_shipped_models_load_on_the_gpu(name):
    assert fastegnn_md.load(name, device=DEVICE).device.type == DEVICE.type


def test_autocast_keeps_two_digits():
    state = gpu_cases.system(periodic=True)
    propagator = there(gpu_cases.propagator(state)).float()
    exact = propagator(there(state))
    flight = there(state).positions + gpu_cases.TIMESTEP * there(state).velocities
    with torch.autocast(DEVICE.type, torch.bfloat16):
        half = propagator(there(state))
    error = (half.positions - exact.positions).norm() / (exact.positions - flight).norm()
    assert 0 < float(error) < 0.03


def gradient_of(parameter):
    """Zeros for a parameter that is not used: the C++ library has zeros there, autograd has nothing."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("case", architecture_cases.CASES)
def test_networks_and_their_gradients_are_those_of_the_cpu(case, require):
    if architecture_cases.needs_e3nn(case):
        require("e3nn")
    model, given = architecture_cases.make(case), architecture_cases.inputs()
    on_gpu = there(model)
    expected, found = model(**given), on_gpu(**{name: value.to(DEVICE) for name, value in given.items()})
    close(found.x, expected.x, 1e-9)
    expected.x.square().sum().backward()
    found.x.square().sum().backward()
    for one, other in zip(on_gpu.parameters(), model.parameters(), strict=True):
        mine, expected = gradient_of(one), gradient_of(other)
        close(mine, expected, 1e-8 * (1 + float(expected.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_many_edges_are_those_of_the_cpu(dtype, monkeypatch):
    """Above some thousand edges the backward pass computes hidden values again."""
    monkeypatch.setattr(edge_sums, "KEPT", 100)
    given = architecture_cases.inputs(sizes=(30, 12))
    model = build_model("fastegnn", node_features=2, edge_features=2, hidden=64, layers=2, virtual_nodes=2).double()
    on_gpu = there(model).to(dtype)
    moved = {name: value.to(DEVICE, dtype if value.is_floating_point() else None) for name, value in given.items()}
    model(**given).x.square().sum().backward()
    on_gpu(**moved).x.square().sum().backward()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    for one, other in zip(on_gpu.parameters(), model.parameters(), strict=True):
        mine, expected = gradient_of(one), gradient_of(other)
        close(mine, expected, tolerance * (1e-3 + float(expected.abs().max())))


def test_edges_in_any_order_are_sorted_for_the_kernel():
    given = architecture_cases.inputs()
    model = there(build_model("fastegnn", node_features=2, edge_features=2, hidden=64, virtual_nodes=2)).eval()
    moved = {
        name: value.to(DEVICE, torch.float32 if value.is_floating_point() else None) for name, value in given.items()
    }
    shuffle = torch.randperm(moved["edge_index"].shape[1], generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        expected = model(**moved).x
        moved["edge_index"], moved["edge_attr"] = moved["edge_index"][:, shuffle], moved["edge_attr"][shuffle]
        torch.testing.assert_close(model(**moved).x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["isolated", "periodic", "slab", "replicas", "far images"])
@pytest.mark.parametrize(("skin", "backend"), [(0.0, "auto"), (0.5, "auto"), (0.0, "vesin"), (0.0, "vesin_torch")])
def test_neighbours_are_those_of_the_cpu(backend, skin, which, require):
    if backend == "vesin_torch":
        require("vesin_torch")
    state = gpu_cases.system(periodic=which in ("periodic", "slab", "far images"), side=6)
    if which == "replicas":
        state = State.concatenate([state, gpu_cases.system(1, side=5)])
    if which == "slab":
        state = state.replace(pbc=torch.tensor([True, True, False]))
    if which == "far images":
        away = torch.randint(-3, 4, (state.n_atoms, 3), generator=torch.Generator().manual_seed(0)).double()
        state = state.replace(positions=state.positions + away @ state.cell[0])
    search, expected = NeighbourSearch(3.5, skin, backend), NeighbourSearch(3.5)
    for _ in range(2):
        index, vector, _ = search(there(state))
        assert index.device.type == DEVICE.type
        assert bool((index[0].diff() >= 0).all()), "sorted by receiver, as the kernel wants it"
        assert _ordered(index.cpu(), vector.cpu()) == _ordered(*expected(state)[:2])
        state = state.replace(positions=state.positions + 0.01 * state.velocities)


def _ordered(index, vector):
    """Pairs with the image they were found in, in one order."""
    return sorted(
        (*pair, *(round(4 * x) for x in one)) for pair, one in zip(index.T.tolist(), vector.tolist(), strict=True)
    )


@pytest.mark.parametrize("which", SYSTEMS)
@pytest.mark.parametrize("kind", ["force-free", "kick-drift", "force-start", "egnn"])
def test_recorded_jumps_are_those_that_are_not(kind, which):
    """In CUDA graphs, of which each serves all states of its systems."""
    if DEVICE.type == "cpu":
        pytest.skip("there are no graphs: tests/test_recorded_jump.py has a stand-in")
    state = SYSTEMS[which]()
    propagator = there(gpu_cases.propagator(gpu_cases.system(periodic=state.periodic), **KINDS[kind]).float())
    states = [there(state), there(state.replace(positions=state.positions + 0.03 * state.velocities)), there(state)]
    expected = [propagator(one) for one in states]
    propagator.compile()
    found = [propagator(one) for one in states]
    for one, other in zip(found, expected, strict=True):
        same_jump(one, State(**vars_of(other)), 2e-6)
    assert len(propagator._recorder._recordings) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["force-free", "kick-drift"])
def test_translated_jumps_are_those_that_are_not(kind):
    """By torch.compile, which serves systems that no graph is recorded of."""
    states = [gpu_cases.system(side=side) for side in (3, 4)]
    states = [there(state) for state in (states[0], State.concatenate(states))]
    propagator = there(gpu_cases.propagator(gpu_cases.system(), **KINDS[kind]).float())
    expected = [propagator(one) for one in states]
    propagator.compile()
    propagator._recorder = None
    found = [propagator(one) for one in states]
    for one, other in zip(found, expected, strict=True):
        same_jump(one, State(**vars_of(other)), 2e-6)


def vars_of(state):
    """Fields of a state that moves, on the CPU."""
    return {
        name: getattr(state, name).cpu() for name in ("positions", "velocities", "numbers", "masses", "batch", "bonds")
    }
