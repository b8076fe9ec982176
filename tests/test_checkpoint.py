"""Saved propagators come back whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastegnn_md import Propagator, State
from fastegnn_md.errors import CheckpointError
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.file import read_manifest
from fastegnn_md.propagator.limits import JumpLimits


@pytest.fixture
def propagator():
    domain = Domain(
        masses={1: (1.008, 3.024), 8: (15.999, 15.999)},
        limits=JumpLimits({1: 0.6, 8: 0.2}, {(1, 8): (0.91, 1.04)}),
        periodic=False,
        bonds=False,
        conserves_momentum=True,
        neighbours=2.0,
        velocity_scale=12.0,
        force_scale=1e3,
    )
    made = Propagator.build(PropagatorConfig(hidden=8, layers=1), 0.004, domain, seed=3)
    made.fingerprint, made.metrics = "abc", {"learned": {"x": 0.1}}
    return made


@pytest.fixture
def saved(propagator, tmp_path):
    path = tmp_path / "model.safetensors"
    propagator.save(path)
    return path


def water():
    return State(
        positions=torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], dtype=torch.float64),
        velocities=torch.ones(3, 3, dtype=torch.float64).tril(),
        numbers=torch.tensor([8, 1, 1]),
        masses=torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64),
    )


def test_what_is_loaded_steps_as_what_was_saved(propagator, saved):
    loaded = Propagator.load(saved)
    one, other = propagator(water()), loaded(water())
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(one.velocities, other.velocities)
    for name in ("timestep", "config", "domain", "fingerprint", "metrics", "species"):
        assert getattr(propagator, name) == getattr(loaded, name), name
    assert not loaded.training


def test_double_precision_survives(propagator, tmp_path):
    propagator.double().save(tmp_path / "double.safetensors")
    assert Propagator.load(tmp_path / "double.safetensors").dtype == torch.float64


def test_manifest_names_units_and_versions(saved):
    manifest = read_manifest(saved)
    assert manifest.timestep_ps == 0.004
    assert manifest.units["length"] == "Å"
    assert manifest.species == [1, 8]
    assert manifest.masses_amu[1] == (1.008, 3.024)
    assert manifest.format_version == 8


def rewrite(path, change):
    """Change the manifest of a saved file and nothing else, as one who knows the format would: without the checksum."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    manifest = json.loads(header["__metadata__"]["manifest"])
    manifest.pop("sha256", None)
    replacement = change(manifest)  # most changes work in place
    header["__metadata__"]["manifest"] = json.dumps(replacement if isinstance(replacement, list) else manifest)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + size :])


@pytest.mark.parametrize(("version", "handedness"), [(5, False), (6, True), (7, True)])
def test_draws_of_before_stay_what_they_were(version, handedness, tmp_path):
    """Keys that models did not have, and whose default in new ones is another."""
    state = water().replace(batch=torch.zeros(3, dtype=torch.int64))
    moved = state.replace(positions=state.positions + 0.3 * torch.randn_like(state.positions))
    config = PropagatorConfig(kind="flow", handedness=handedness, hidden=8, layers=1)
    path = tmp_path / "flow.safetensors"
    Propagator.build(config, 10.0, Domain.from_pairs(state, moved, config)).save(path)
    assert read_manifest(path).config.corrections == 2

    def earlier(manifest):
        manifest["format_version"] = version
        del manifest["config"]["corrections"]
        if version < 6:
            del manifest["config"]["handedness"]

    rewrite(path, earlier)
    found = Propagator.load(path).config
    assert (found.handedness, found.corrections) == (handedness, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=9), "format version 9.*reads up to 8: upgrade"),
        (lambda m: m.update(format_version=0), "damaged"),
        (
            lambda m: m.update(format_version=1, config={"mode": "full"}),
            "not smooth where atoms cross the cutoff: train it again",
        ),
        (lambda m: m.update(format="something"), "not a model file of fastegnn_md"),
        (lambda m: m.update(format_version=2, config={"mode": "position", "forces": True}), "names no kind"),
        (lambda m: m.update(format_version=2, config=None), "damaged"),
        (lambda m: m["config"].update(kind="force"), "damaged at 'config.kind'"),
        (lambda m: m.pop("timestep_ps"), "damaged at 'timestep_ps'"),
        (lambda m: m.update(timestep_ps="soon"), "damaged at 'timestep_ps'"),
        (lambda m: m["config"].update(hidden=16), "tensor .* has shape"),
        (lambda m: m["config"].update(layers=2), "is missing"),
        (lambda m: m["config"].update(layers=10**9), "damaged at 'config.layers'"),
        (lambda m: m["config"].update(virtual_nodes=10**40), "damaged at 'config.virtual_nodes'"),
        (lambda m: m["config"].update(cutoff=float("inf")), "damaged at 'config.cutoff'"),
        (lambda m: m["units"].update(length="nm"), "is in the units .*'nm'.*; this package reads .*'Å'"),
        (lambda m: m.update(species=[1, 6]), r"elements are \[1, 6\], masses are given of \[1, 8\]"),
        (lambda m: m.update(species=[8, 1]), r"elements are \[8, 1\]"),
        (lambda m: m["masses_amu"].update({"1000000000000": [1.0, 1.0]}), "damaged at 'masses_amu"),
        (lambda m: m["masses_amu"].update({"6": [12.0, 12.0]}) or m.update(species=[1, 6, 8]), "tensor .* has shape"),
        (lambda m: m["masses_amu"].update({"8": [-1.0, 1.0]}), "damaged at 'masses_amu.8.0'"),
        (lambda m: m.update(timestep_ps=float("nan")), "damaged at 'timestep_ps'"),
        (lambda m: m.update({"x" * 10**6: 1}), "damaged at 'xxx"),
        (lambda m: m["config"].update(architecture="egnn3"), "cannot be loaded: unknown model 'egnn3'"),
        (lambda m: m["limits"].clear(), "displacement"),
        (lambda m: m.update(dtype="float16"), "cannot be loaded"),
        (lambda m: [1, 2], "not a model file of fastegnn_md"),
    ],
)
def test_a_changed_manifest_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        Propagator.load(saved)


def test_a_manifest_that_asks_for_gigabytes_is_refused_before_any_is_taken(saved):
    """20,000 wide: 3 GB, and half a minute; what was taken is the peak of a process that does nothing else."""
    rewrite(saved, lambda manifest: manifest["config"].update(hidden=20_000, layers=100))
    script = f"""
import resource, fastegnn_md
from fastegnn_md.errors import CheckpointError
from fastegnn_md.propagator import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load({str(saved)!r})
except CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    taken, message = done.stdout.split(maxsplit=1)
    assert int(taken) < 300_000  # kB; 3 GB with one layer
    assert "has shape" in message or "is missing" in message


def loaded_or_refused(path):
    """What makes a model what it is, or the message of why it is none: an error of ours, in one line."""
    try:
        return Propagator.load(path).identity()
    except CheckpointError as error:
        message = str(error)
    assert len(message) < 1000
    assert "\n" not in message
    return message


def test_every_flipped_bit_of_the_tensors_and_the_manifest_is_noticed(saved):
    """The file is flipped one bit at a time, at places all over; what loads holds what was saved."""
    raw = saved.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    rng = random.Random(0)
    places = [rng.randrange(8 + size, len(raw)) for _ in range(60)] + [rng.randrange(8 + size) for _ in range(60)]
    before, refused = Propagator.load(saved).identity(), 0
    for place in places:
        flipped = bytearray(raw)
        flipped[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(flipped)
        found = loaded_or_refused(saved)
        if isinstance(found, dict):  # in the name of the checksum, or in white space
            assert found == before
            assert place < 8 + size
        refused += isinstance(found, str)
    assert refused >= 100


def test_the_checksum_is_that_of_the_file_and_files_without_are_read(saved):
    rewrite(saved, lambda manifest: None)
    assert Propagator.load(saved).timestep == 0.004
    rewrite(saved, lambda manifest: manifest.update(timestep_ps=0.005))
    assert Propagator.load(saved).timestep == 0.005  # nothing holds them together
    Propagator.load(saved).save(saved)
    raw = saved.read_bytes()
    saved.write_bytes(raw.replace(rb"\"timestep_ps\": 0.005", rb"\"timestep_ps\": 0.006"))
    with pytest.raises(CheckpointError, match="does not have the checksum it was written with; copy or train"):
        read_manifest(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": ' + "9" * 5000 + "}", "{" * 10**5, "NaN", '""'])
def test_manifests_that_break_readers_of_json_are_refused(text, saved):
    save_file({"a": torch.zeros(1)}, saved, {"manifest": text})
    with pytest.raises(CheckpointError, match="not a model file of fastegnn_md"):
        Propagator.load(saved)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match="is not a file"):
            Propagator.load(path)


def test_position_only_files_of_format_1_are_read(propagator, saved):
    made = Propagator.build(PropagatorConfig(kind="position", hidden=8, layers=1), 0.004, propagator.domain)
    made.save(saved)

    def older(manifest):
        del manifest["config"]["kind"]
        manifest["config"]["mode"] = "position"
        manifest["format_version"] = 1

    rewrite(saved, older)
    assert torch.equal(Propagator.load(saved).network.embedding.weight, made.network.embedding.weight)


def test_truncated_files_are_refused_at_every_length(saved, tmp_path):
    raw = saved.read_bytes()
    for length in (0, 4, 8, 100, len(raw) // 2, len(raw) - 1):
        (tmp_path / "short").write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            Propagator.load(tmp_path / "short")


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        Propagator.load(tmp_path / "absent")
    (tmp_path / "text").write_text("not a model " * 20)
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        Propagator.load(tmp_path / "text")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "pickle.pt")
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        Propagator.load(tmp_path / "pickle.pt")
    save_file({"weights": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="not a model file of fastegnn_md"):
        Propagator.load(tmp_path / "plain.safetensors")


def test_tampered_tensors_are_refused(saved):
    from safetensors import safe_open

    with safe_open(saved, "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    del manifest["sha256"]
    tensors = load_file(saved)
    name = "network.embedding.weight"
    for change, message in (
        ({name: tensors[name][:, :-1].contiguous()}, "has shape"),
        ({name: tensors[name].double()}, "torch.float64"),
        ({name: tensors[name] * float("nan")}, "not finite"),
        ({"extra": torch.zeros(1)}, "'extra' is unknown"),
    ):
        save_file({**tensors, **change}, saved, {"manifest": json.dumps(manifest)})
        with pytest.raises(CheckpointError, match=message):
            Propagator.load(saved)


def test_a_full_disk_keeps_the_previous_model(propagator, saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        propagator.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved], "no temporary file is left behind"


def test_a_folder_that_is_not_there_is_named(propagator, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write the model to .*absent"):
        propagator.save(tmp_path / "absent" / "model.safetensors")


def test_loading_a_model_imports_no_compiler_of_torch():
    """Which would take a second, for tensors that have no values."""
    code = "import sys; from fastegnn_md import load; load('ala2-vacuum'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
