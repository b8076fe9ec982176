"""When a jump is recorded, replayed, recorded anew, and made another way: with a stand-in for graphs of a GPU."""

from __future__ import annotations

import copy
import logging

import gpu_cases
import pytest
import torch

from fastegnn_md.errors import FastEGNNMDError
from fastegnn_md.propagator import recorded
from fastegnn_md.propagator.recorded import Recorder

SMALL = {"hidden": 16, "layers": 2}


@pytest.fixture
def recordings(monkeypatch, without_library):
    """Calls that were recorded; a replay writes to the tensors of the first run, as a graph does."""
    made = []

    def record(call, device):
        kept = call()
        made.append(call)

        def replay():
            for one, new in zip(kept, call(), strict=True):
                if one is not None:
                    one.copy_(new)

        return replay, kept

    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(Recorder, "_serves", staticmethod(lambda propagator, state: propagator.predicts_velocities))
    return made


def pair(state, **options):
    """A propagator, and one whose jumps are recorded."""
    plain = gpu_cases.propagator(state, **SMALL, **options)
    other = copy.deepcopy(plain)
    other._recorder = Recorder(list(other.parameters()))
    return plain, other


def same(found, expected):
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.velocities, expected.velocities, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["force-free", "kick-drift"])
def test_a_roll_out_is_recorded_once(kind, recordings):
    state = gpu_cases.system()
    plain, other = pair(state, kind=kind)
    here, there = state, state
    for _ in range(4):
        here, there = plain(here), other(there)
        same(there, here)
        assert there.forces is None
    assert len(recordings) == 1
    first = other(state)
    kept = first.positions.clone()
    other(here)
    assert torch.equal(first.positions, kept), "what was given does not change with the next jump"


def test_forces_and_cells_that_change_are_followed(recordings):
    state = gpu_cases.system(periodic=True)
    plain, other = pair(state, kind="force-start")
    for factor in (1.0, 1.02, 1.02):
        state = state.replace(cell=factor * state.cell, forces=factor * state.forces)
        same(other(state), plain(state))
    assert len(recordings) == 1


def test_systems_in_turn_have_a_recording_each(recordings):
    states = [gpu_cases.system(side=side) for side in (3, 4)]
    plain, other = pair(states[0])
    for state in (*states, *states):
        same(other(state), plain(state))
    assert len(recordings) == 2


def test_more_neighbours_than_there_is_room_for(recordings):
    state = gpu_cases.system(side=4)
    plain, other = pair(state)
    other(state)
    denser = state.replace(positions=0.6 * state.positions)
    for _ in range(2):
        same(other(denser), plain(denser))
    assert len(recordings) == 2


def test_weights_may_change_their_values_and_their_places(recordings):
    state = gpu_cases.system()
    plain, other = pair(state)
    other(state)
    for one in (plain, other):
        for parameter in one.network.parameters():
            parameter.mul_(1.1)
    same(other(state), plain(state))
    assert len(recordings) == 1
    for one in (plain, other):
        for parameter in one.network.parameters():
            parameter.data = 0.9 * parameter.data
    same(other(state), plain(state))
    assert len(recordings) == 2
    same(other.float()(state), plain.float()(state))
    assert len(recordings) == 3


def test_a_jump_that_cannot_be_recorded_is_made_without(monkeypatch, recordings, caplog):
    def fails(call, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", fails)
    state = gpu_cases.system()
    plain, other = pair(state)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            same(other(state), plain(state))
    assert len(caplog.records) == 1
    assert "could not be recorded" in caplog.text


def test_what_is_not_finite_is_the_error_it_always_was(recordings):
    state = gpu_cases.system()
    plain, other = pair(state)
    other(state)
    for one in (plain, other):
        one.network.readout.second.bias.fill_(torch.nan)
    with pytest.raises(FastEGNNMDError) as expected:
        plain(state)
    with pytest.raises(type(expected.value)) as found:
        other(state)
    assert str(found.value) == str(expected.value)


def test_atoms_on_each_other_are_refused_by_name(recordings):
    state = gpu_cases.system()
    _, other = pair(state)
    other(state)
    together = state.positions.clone()
    together[1] = together[0]
    with pytest.raises(FastEGNNMDError, match="separate overlapping atoms"):
        other(state.replace(positions=together))


def test_a_copy_records_for_itself(recordings):
    state = gpu_cases.system()
    _, other = pair(state)
    assert copy.deepcopy(other)._recorder is None
