"""Saved propagators come back whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import struct

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
    assert manifest.format_version == 3


def rewrite(path, change):
    """Change the manifest of a saved file and nothing else."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    manifest = json.loads(header["__metadata__"]["manifest"])
    replacement = change(manifest)  # most changes work in place
    header["__metadata__"]["manifest"] = json.dumps(replacement if isinstance(replacement, list) else manifest)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + size :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=4), "format version 4.*reads up to 3: upgrade"),
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
        metadata = file.metadata()
    tensors = load_file(saved)
    name = "network.embedding.weight"
    for change, message in (
        ({name: tensors[name][:, :-1].contiguous()}, "has shape"),
        ({name: tensors[name].double()}, "torch.float64"),
        ({name: tensors[name] * float("nan")}, "not finite"),
        ({"extra": torch.zeros(1)}, "'extra' is unknown"),
    ):
        save_file({**tensors, **change}, saved, metadata)
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
