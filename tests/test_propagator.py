"""The propagator: symmetries, boundaries, kinds and the refusal of what it has not seen."""

from __future__ import annotations

import copy

import pytest
import torch
from architecture_cases import needs_e3nn
from memory_pairs import CELL, MemoryPairs
from torch.utils._python_dispatch import TorchDispatchMode

from fastegnn_md import Propagator, State
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError, StateError
from fastegnn_md.graph import EdgeList
from fastegnn_md.models import architectures_for, available_models, hyperparameters_of
from fastegnn_md.nn.messages import cpu as cpu_kernel
from fastegnn_md.propagator.compiled import CompiledMove
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training.one_step import BASELINES, one_step_errors, ratios
from fastegnn_md.training.start import untrained_propagator
from fastegnn_md.units import BOLTZMANN


def make(pairs, seed=1, **options):
    known = hyperparameters_of(options.get("architecture", "fastegnn"))
    small = {name: value for name, value in SMALL.items() if name in known}
    config = PropagatorConfig(**{"cutoff": 3.0, **small, **options})
    propagator = untrained_propagator(pairs, config, seed=seed).double()
    for name, parameter in propagator.named_parameters():
        if name.endswith(("second.weight", "pull.weights.weight")) and parameter.shape[0] != 16:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    return propagator


CASES = {
    "force-free": ({}, {}),
    "force-informed": ({}, {"kind": "force-start"}),
    "periodic": ({"periodic": True}, {"kind": "force-start"}),
    "without momentum conservation": ({"conserving": False}, {}),
    "position-only": ({"velocities": False}, {"kind": "position"}),
    "position-only, periodic, half of the edges": (
        {"velocities": False, "periodic": True},
        {"kind": "position", "edge_dropping": 0.5},
    ),
}
# Architectures that can do more than kind "position", and all that move positions, of that kind.
CASES |= {
    "egnn": ({}, {"architecture": "egnn", "kind": "force-start"}),
    "egnn, periodic": ({"periodic": True}, {"architecture": "egnn"}),
}
CASES |= {
    f"position-only {name}": ({"velocities": False}, {"kind": "position", "architecture": name})
    for name in available_models()
    if name not in ("fastegnn", "linear")
}
CASES |= {
    f"position-only {name}, periodic": (
        {"velocities": False, "periodic": True},
        {"kind": "position", "architecture": name},
    )
    for name in architectures_for("periodic")
    if name not in ("fastegnn", "linear")
}
NOT_TURNED = ("mpnn", "vn-egnn")
NOT_REFLECTED = (
    *NOT_TURNED,
    "tfn",
    "se3-transformer",
)  # without velocities fasttfn has nothing to take cross products of
SMALL = {"hidden": 16, "layers": 2, "virtual_nodes": 2}


@pytest.fixture(params=CASES)
def case(request, require):
    data, options = CASES[request.param]
    if needs_e3nn(request.param):
        require("e3nn")
    pairs = MemoryPairs(**data)
    return make(pairs, **options), pairs


def step(propagator, state):
    """One step; where velocities are redrawn with the same noise every time."""
    if propagator.predicts_velocities:
        return propagator(state)
    return propagator(state, generator=torch.Generator().manual_seed(0), temperature=300.0)


def turn(reflect):
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q if (torch.linalg.det(q) < 0) == reflect else -q


def transformed(state, q, move):
    return state.replace(
        positions=state.positions @ q + move,
        velocities=state.velocities @ q,
        forces=None if state.forces is None else state.forces @ q,
        cell=None if state.cell is None else state.cell @ q,
    )


CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("reflect", [False, True])
def test_turns_and_moves_with_the_system_and_its_cell(case, reflect):
    propagator, pairs = case
    state, _ = pairs.batch([0, 1, 2])
    q, move = turn(reflect), torch.tensor([4.0, -11.0, 2.0], dtype=torch.float64)
    plain, other = step(propagator, state), step(propagator, transformed(state, q, move))
    turns = propagator.config.architecture not in (NOT_REFLECTED if reflect else NOT_TURNED)
    assert torch.allclose(other.positions, plain.positions @ q + move, **CLOSE) == turns
    if propagator.predicts_velocities:  # redrawn velocities are random numbers, which do not turn
        torch.testing.assert_close(other.velocities, plain.velocities @ q, **CLOSE)
    assert float((plain.positions - state.positions).abs().max()) > 1e-3


def test_atoms_in_another_order(case):
    propagator, pairs = case
    state, _ = pairs.batch([3])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(8))
    fields = ("positions", "velocities", "numbers", "masses", "forces")
    changes = {name: value[order] for name in fields if (value := getattr(state, name)) is not None}
    permuted = state.replace(**changes, bonds=order.argsort()[state.bonds])
    plain, other = step(propagator, state), step(propagator, permuted)
    torch.testing.assert_close(other.positions, plain.positions[order], **CLOSE)
    if propagator.predicts_velocities:
        torch.testing.assert_close(other.velocities, plain.velocities[order], **CLOSE)


def test_systems_in_another_order_and_of_different_size(case):
    propagator, pairs = case
    systems = [pairs.pairs[0][0], _first_atoms(pairs.pairs[1][0], 6), pairs.pairs[2][0]]
    together = step(propagator, State.concatenate(systems)).split()
    for position, system in enumerate(systems):
        alone = step(propagator, system)
        torch.testing.assert_close(alone.positions, together[position].positions, **CLOSE)
    reverse = step(propagator, State.concatenate(systems[::-1])).split()[::-1]
    for one, other in zip(together, reverse, strict=True):
        torch.testing.assert_close(one.positions, other.positions, **CLOSE)


def _first_atoms(state, count):
    fields = ("positions", "velocities", "numbers", "masses", "forces", "batch")
    changes = {name: value[:count] for name in fields if (value := getattr(state, name)) is not None}
    return state.replace(**changes, bonds=state.bonds[(state.bonds < count).all(1)])


@pytest.mark.parametrize("kind", ["force-start", "position"])
def test_moving_an_atom_by_lattice_vectors_changes_nothing(kind):
    pairs = MemoryPairs(periodic=True, velocities=kind != "position")
    propagator = make(pairs, kind=kind)
    state, _ = pairs.batch([0, 1])
    shifts = torch.randint(-3, 4, (18, 3), generator=torch.Generator().manual_seed(4)).double() @ CELL
    plain, other = step(propagator, state), step(propagator, state.replace(positions=state.positions + shifts))
    torch.testing.assert_close(other.positions - shifts, plain.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.velocities, plain.velocities, rtol=0, atol=1e-9)


def test_momentum_and_uniform_motion_are_exact_where_the_data_conserves_them():
    pairs = MemoryPairs()
    propagator = make(pairs)
    assert propagator.domain.conserves_momentum
    state, _ = pairs.batch([0])
    after = propagator(state)
    torch.testing.assert_close(state.masses @ after.velocities, state.masses @ state.velocities, rtol=0, atol=1e-10)
    centre = state.masses @ (after.positions - state.positions) / state.masses.sum()
    expected = 0.01 * state.masses @ state.velocities / state.masses.sum()
    torch.testing.assert_close(centre, expected, rtol=0, atol=1e-12)
    boost = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    boosted = propagator(state.replace(velocities=state.velocities + boost))
    torch.testing.assert_close(boosted.velocities, after.velocities + boost, **CLOSE)
    torch.testing.assert_close(boosted.positions, after.positions + 0.01 * boost, **CLOSE)
    assert not make(MemoryPairs(conserving=False)).domain.conserves_momentum


def test_untrained_residual_is_that_of_the_linear_predictor():
    pairs = MemoryPairs(conserving=False, forces=False)
    propagator = untrained_propagator(pairs, PropagatorConfig(cutoff=3.0)).double()
    torch.nn.init.zeros_(propagator.network.readout.second.weight)
    torch.nn.init.zeros_(propagator.network.readout.second.bias)
    errors = one_step_errors(propagator, pairs)
    assert errors["learned"].x == pytest.approx(errors["best linear"].x, rel=1e-6)
    assert errors["learned"].v == pytest.approx(errors["best linear"].v, rel=1e-6)
    start, end = pairs.batch(range(len(pairs)))
    with torch.no_grad():
        residual = propagator.residual(start, end)
    for number in (1, 6, 8):  # in units of its own RMS
        assert float(residual.v[start.numbers == number].square().mean()) == pytest.approx(1.0, rel=1e-6)


def test_baselines_on_motion_that_is_known():
    """Free particles: free flight and best linear are exact. Oscillators of one frequency: best linear v is cos(ωt)."""
    pairs, known = MemoryPairs(forces=False), MemoryPairs(forces=False)
    propagator, start = make(pairs), pairs.batch(range(len(pairs)))[0]
    known.pairs = [(one, one.replace(positions=one.positions + 0.01 * one.velocities)) for one, _ in pairs.pairs]
    errors = one_step_errors(propagator, known)
    root = start.masses.sqrt()[:, None]
    assert errors["free flight"].x == pytest.approx(0, abs=1e-12)
    assert errors["best linear"].x == pytest.approx(0, abs=1e-10)
    assert errors["zero motion"].x == pytest.approx(float((root * 0.01 * start.velocities).square().mean().sqrt()))
    assert tuple(errors) == ("learned", *BASELINES)
    known.pairs = [(one, one.replace(velocities=0.3 * one.velocities)) for one, _ in pairs.pairs]
    errors = one_step_errors(propagator, known)
    assert errors["best linear"].v == pytest.approx(0, abs=1e-10)
    assert errors["zero motion"].v == pytest.approx(float((root * 0.7 * start.velocities).square().mean().sqrt()))


def test_ratio_is_over_the_best_baseline():
    pairs = MemoryPairs()
    errors = one_step_errors(make(pairs, kind="force-start"), pairs, batch_size=5)
    assert "best linear with force" in errors
    smallest = min(errors[name].v for name in BASELINES)
    assert ratios(errors)["v"] == pytest.approx(errors["learned"].v / smallest)


def test_redrawn_velocities_are_maxwell_boltzmann():
    pairs = MemoryPairs(velocities=False)
    propagator = make(pairs, kind="position")
    state = State.concatenate([pairs.pairs[0][0]] * 400)
    v = propagator(state, generator=torch.Generator().manual_seed(3), temperature=250.0).velocities
    for number in (1, 6, 8):
        kinetic = (state.masses[:, None] * v.square())[state.numbers == number]
        error = (2 / kinetic.numel()) ** 0.5  # of a variance of Gaussian numbers
        assert float(kinetic.mean()) / (BOLTZMANN * 250.0) == pytest.approx(1.0, abs=4 * error)
    with pytest.raises(CompatibilityError, match="give generator and temperature"):
        propagator(state)


def test_the_state_given_is_not_changed_and_its_dtype_is_kept():
    pairs = MemoryPairs(forces=False)
    propagator = make(pairs).float()
    state, _ = pairs.batch([0])
    before = {name: getattr(state, name).clone() for name in ("positions", "velocities", "masses")}
    after = propagator(state)
    assert after.dtype == torch.float64
    assert after.positions.requires_grad is False
    for name, value in before.items():
        assert torch.equal(getattr(state, name), value)


def test_the_caller_s_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    make(MemoryPairs())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.replace(numbers=s.numbers.clone().index_fill_(0, torch.tensor([4]), 7)),
            "atom 4 has atomic number 7",
        ),
        (lambda s: s.replace(numbers=s.numbers.clone().index_fill_(0, torch.tensor([2]), 92)), "atomic number 92"),
        (lambda s: s.replace(masses=s.masses * 1.02), r"atom 0 \(atomic number 1\) has mass 1.0282 amu; training had"),
        (
            lambda s: s.replace(cell=CELL[None], pbc=None),
            "the system is periodic but this propagator was trained on isolat",
        ),
        (lambda s: s.replace(cell=CELL[None], pbc=torch.tensor([True, True, False])), "pbc is mixed"),
        (
            lambda s: s.replace(numbers=s.numbers.clone().index_fill_(0, torch.tensor([4]), 7)),
            r"atomic number 7 \(N\); this propagator was trained on H, C.*: take",
        ),
        (lambda s: s.replace(forces=None), "is force-informed; give the forces"),
        (lambda s: s.replace(bonds=None), "was trained with bonds"),
    ],
)
def test_unseen_systems_are_refused(change, message):
    pairs = MemoryPairs()
    state, _ = pairs.batch([0])
    with pytest.raises(CompatibilityError, match=message):
        make(pairs, kind="force-start")(change(state))


def test_pairs_must_carry_what_the_kind_needs():
    with pytest.raises(DataError, match="needs velocities"):
        make(MemoryPairs(velocities=False))
    with pytest.raises(DataError, match="kind 'force-start' needs forces"):
        make(MemoryPairs(forces=False), kind="force-start")


def test_one_atom_moves_in_free_flight():
    """Nothing can push it: momentum is conserved, so its velocity stays."""
    pairs = MemoryPairs(forces=False, bonds=False)
    state = pairs.pairs[0][0]
    one = state.replace(
        **{name: getattr(state, name)[:1] for name in ("positions", "velocities", "numbers", "masses", "batch")}
    )
    after = make(pairs)(one)
    torch.testing.assert_close(after.velocities, one.velocities, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.positions, one.positions + 0.01 * one.velocities, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.slow
def test_a_compiled_jump_equals_the_plain_one(inductor, without_library):
    pairs = MemoryPairs()
    propagator = make(pairs, kind="force-start", layers=1)
    states = [pairs.batch(indices)[0] for indices in ([0], [1], [2, 3, 4], [5, 6])]
    plain = [propagator(state) for state in states]
    propagator.compile()
    for state, expected in zip(states, plain, strict=True):
        found = propagator(state)
        torch.testing.assert_close(found.positions, expected.positions, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(found.velocities, expected.velocities, rtol=1e-11, atol=1e-11)
    # A copy has weights of its own.
    other = copy.deepcopy(propagator)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.allclose(other(states[0]).velocities, plain[0].velocities)
    torch.testing.assert_close(propagator(states[0]).velocities, plain[0].velocities, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["force-free", "position"])
def test_large_systems_have_the_kernel_after_compile(kind, monkeypatch, inductor, without_library):
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr("fastegnn_md.propagator.compiled._COMPILED_EDGES", 0)
    propagator = make(MemoryPairs(), kind=kind)
    state = MemoryPairs().batch([0, 1])[0]
    (plain, *_), _ = propagator._predict(state), propagator.compile()
    assert cpu_kernel.serves(next(propagator.parameters()))
    torch.testing.assert_close(propagator._predict(state)[0], plain, rtol=1e-11, atol=1e-11)


def test_what_cannot_be_compiled_says_so(monkeypatch, tmp_path, without_library):
    monkeypatch.setattr("fastegnn_md.nn.compiler.shutil.which", lambda name: name)
    with monkeypatch.context() as patch:
        patch.setattr("fastegnn_md.nn.compiler.locale.getencoding", lambda: "ANSI_X3.4-1968")
        with pytest.raises(ConfigError, match=r"needs a UTF-8 locale.*setlocale"):
            make(MemoryPairs()).compile()
    with monkeypatch.context() as patch:
        patch.setattr("fastegnn_md.nn.compiler.sysconfig.get_path", lambda name: str(tmp_path))
        with pytest.raises(ConfigError, match=r"needs the headers of Python.*python3-dev"):
            make(MemoryPairs()).compile()
    monkeypatch.setattr("fastegnn_md.nn.compiler.shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"install g\+\+"):
        make(MemoryPairs()).compile()


@pytest.mark.parametrize("name", [name for name in architectures_for("periodic") if name != "linear"])
def test_position_only_networks_do_not_see_images(name, require):
    if needs_e3nn(name):
        require("e3nn")
    pairs = MemoryPairs(periodic=True, velocities=False)
    propagator = make(pairs, kind="position", architecture=name)
    state, _ = pairs.batch([0, 1])
    shifts = torch.randint(-3, 4, (18, 3), generator=torch.Generator().manual_seed(4)).double() @ CELL
    plain, other = step(propagator, state), step(propagator, state.replace(positions=state.positions + shifts))
    torch.testing.assert_close(other.positions - shifts, plain.positions, rtol=0, atol=1e-9)


def test_linear_motion_without_velocities_is_rest():
    pairs = MemoryPairs(velocities=False)
    state, _ = pairs.batch([0])
    propagator = make(pairs, kind="position", architecture="linear")
    torch.testing.assert_close(step(propagator, state).positions, state.positions, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in available_models() if name != "linear"])
def test_every_architecture_learns_and_is_saved(name, require, tmp_path):
    """A small step lowers the loss by what the gradient says; a saved propagator predicts what it did."""
    if needs_e3nn(name):
        require("e3nn")
    pairs = MemoryPairs(velocities=False)
    propagator = make(pairs, kind="position", architecture=name)
    start, end = pairs.batch(range(len(pairs)))

    def loss():
        return propagator.residual(start, end).x.square().mean()

    before = loss()
    before.backward()
    gradients = [one.grad for one in propagator.parameters() if one.grad is not None]
    steepness = float(torch.stack([one.square().sum() for one in gradients]).sum().sqrt())
    assert steepness > 1e-3
    with torch.no_grad():
        for parameter in propagator.parameters():
            if parameter.grad is not None:
                parameter -= 1e-6 * parameter.grad / steepness
        assert float(before - loss()) == pytest.approx(1e-6 * steepness, rel=1e-2)
    propagator.save(tmp_path / "model.safetensors")
    again = Propagator.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(step(again, start).positions, step(propagator, start).positions, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "periodic", "message"),
    [
        ({"architecture": "schnet"}, False, "schnet predicts no velocities: .*take one of egnn, fastegnn"),
        ({"architecture": "eghn", "kind": "position"}, True, "eghn needs the positions of isolated systems.*schnet"),
        ({"architecture": "egnn", "virtual_nodes": 5}, False, "egnn has no virtual_nodes: leave it at 3"),
        ({"architecture": "egnn", "kind": "position", "edge_dropping": 0.5}, False, "egnn has no edge_dropping"),
        ({"architecture": "linear", "kind": "position", "hidden": 8}, False, "linear has no hidden"),
        (
            {"architecture_options": {"layers": 5}},
            False,
            "architecture_options has 'layers', which the propagator sets",
        ),
        ({"architecture_options": {"attention": True, "atention": True}}, False, "no hyper-parameter atention"),
        ({"architecture_options": {"form": "thesis"}}, False, "expected 'paper' or 'published'"),
        ({"architecture": "egn"}, False, "unknown model 'egn'; available: eghn, egnn, fastegnn"),
    ],
)
def test_settings_that_an_architecture_does_not_have_are_refused(options, periodic, message):
    pairs = MemoryPairs(periodic=periodic)
    with pytest.raises(ConfigError, match=message):
        untrained_propagator(pairs, PropagatorConfig(cutoff=3.0, **options))


def test_options_of_an_architecture_reach_it():
    options = {"kind": "position", "architecture": "eghn", "layers": 2, "hidden": 16}
    options |= {"architecture_options": {"clusters": 2, "form": "published"}}
    pairs = MemoryPairs(velocities=False)
    propagator = make(pairs, **options)
    assert propagator.network.score[-1].out_features == 2
    assert propagator.network.published
    start, end = pairs.batch([0, 1])
    residual = propagator.residual(start, end)
    assert float(residual.connectivity.detach()) > 0
    assert make(pairs, kind="position").residual(start, end).connectivity is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.parametrize("periodic", [False, True])
def test_what_is_recorded_on_a_gpu_gives_the_numbers_of_the_plain_jump(periodic, monkeypatch):
    """All but the recording: lists of edges are filled up, results are copies."""
    pairs = MemoryPairs(periodic=periodic)
    propagator, state = make(pairs), pairs.batch([0, 1, 2])[0]
    with torch.no_grad():
        for parameter in propagator.parameters():  # biases that start at zero are anything after training
            parameter.add_(0.01)
    plain, seen = propagator(state), []

    def recorded(*inputs):
        results = propagator._move(*inputs)
        seen.append((inputs[7].edge_index.shape[1], results))
        return results

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("fastegnn_md.propagator.compiled._PADDED_EDGES", 64)
    propagator._compiled = CompiledMove(recorded, propagator.config.cutoff, on_cpu=False)
    moved = propagator._predict(state)
    ((edges, results),) = seen
    assert edges % 64 == 0
    assert edges > propagator._neighbours(state).edge_index.shape[1]
    assert moved.displacement is not results[0]
    assert moved.velocities is not results[1]
    found = propagator(state)
    torch.testing.assert_close(found.velocities, plain.velocities, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.positions, plain.positions, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # torch's own, as it compiles
def test_a_graph_is_recorded_for_as_many_edges_as_fit_into_memory():
    def edges(count):
        return EdgeList(torch.zeros(2, count), torch.zeros(count, 3), torch.zeros(count, 1))

    on_gpu, on_cpu = (CompiledMove(lambda: (), 3.0, on_cpu=where) for where in (False, True))
    assert on_gpu.pays(edges(100_000))
    assert not on_gpu.pays(edges(2_000_000))
    assert on_cpu.pays(edges(1000))
    assert not on_cpu.pays(edges(100_000))


def test_a_state_on_another_device_than_the_weights_is_refused_by_name():
    pairs = MemoryPairs()
    propagator, state = make(pairs), pairs.batch([0])[0]
    propagator(state)
    with pytest.raises(StateError, match="the state is on cpu, the propagator on meta; move one"):
        propagator.to("meta")(state)


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers read, and results whose size depends on values."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_a_jump_of_the_same_atoms_waits_three_times(monkeypatch, without_library):
    """For the number of neighbours, for their shortest distance, and to know whether all is finite (two sums here)."""
    monkeypatch.setattr("fastegnn_md.segments._check_range", lambda *given: None)  # looks at values on the CPU only
    pairs = MemoryPairs()
    propagator, state = make(pairs), pairs.batch([0, 1])[0]
    state = propagator(state)
    with HostReads() as reads:
        propagator(state)
    assert reads.names == ["aten::nonzero", *["aten::_local_scalar_dense"] * 3]
