"""Weights of the published code give the published code's outputs.

Each file of tests/data named after an architecture holds one model of the published code with random weights
(``param/``), an input (``in/``) and what that code returned for it (``out/``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastegnn_md.models import FastEGNN, from_reference

DATA = Path(__file__).parent / "data"
OPTIONS = {
    "plain_c1": {},
    "plain_c10": {},
    "attention": {"attention": True},
    "tanh": {"tanh": True},
    "normalize": {"normalize": True},
    "gravity": {"gravity": [0.0, 0.0, -9.8]},
    "all": {"attention": True, "tanh": True, "normalize": True, "gravity": [0.3, -0.2, -9.8]},
}


def _section(archive, prefix):
    return {key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if key.startswith(prefix)}


def _compare(archive, prefix, options):
    model = from_reference("fastegnn", _section(archive, f"{prefix}param/"), **options)
    inputs = _section(archive, f"{prefix}in/")
    kept = {name: value.clone() for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
    expected = _section(archive, f"{prefix}out/")
    torch.testing.assert_close(output.x, expected["x"], rtol=1e-10, atol=1e-10)
    z = expected["z"]
    torch.testing.assert_close(output.z, z, rtol=1e-10, atol=1e-10)
    for name, value in inputs.items():
        assert torch.equal(value, kept[name]), f"{name} was modified"


def test_published_c3_model_is_reproduced(shared):
    with np.load(shared / "reference" / "fastegnn_c3.npz", allow_pickle=False) as archive:
        section = {key: archive[key] for key in archive.files}
    model = from_reference(
        "fastegnn",
        {k.removeprefix("param/"): torch.from_numpy(v) for k, v in section.items() if k.startswith("param/")},
    )
    inputs = {k.removeprefix("in/"): torch.from_numpy(v) for k, v in section.items() if k.startswith("in/")}
    output = model(**inputs)
    torch.testing.assert_close(output.x, torch.from_numpy(section["out/x"]), rtol=0, atol=1e-10)
    z = torch.from_numpy(section["out/z"]).transpose(1, 2)
    torch.testing.assert_close(output.z, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["egnn", "rf", "eghn", "fastrf", "fastschnet"])
def test_published_baselines_are_reproduced(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as archive:
        _compare_baseline(name, archive)


def _compare_baseline(name, archive):
    model = from_reference(name, _section(archive, "param/"))
    inputs, expected = _section(archive, "in/"), _section(archive, "out/")
    with torch.no_grad():
        output = model(**inputs)
    for field, value in expected.items():
        found = getattr(output, {"cut_loss": "connectivity_loss"}.get(field, field))
        value = value.transpose(1, 2) if field == "z" else value
        torch.testing.assert_close(found, value, rtol=0, atol=1e-10)
    assert float((expected["x"] - inputs["x"]).norm()) > 0.1, "an identity would pass"


@pytest.mark.parametrize("name", ["egnn", "rf", "eghn", "fastrf", "fastschnet"])
def test_incomplete_and_foreign_baselines_are_refused(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as archive:
        weights = _section(archive, "param/")
    with pytest.raises(ValueError, match=f"not weights of the published {name}"):
        from_reference(name, {"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="Missing key"):
        from_reference(name, {key: value for key, value in weights.items() if not key.endswith("2.bias")})
    with pytest.raises(ValueError, match=f"unknown option tanh; .* options of {name}: none"):
        from_reference(name, weights, tanh=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_reproduced_on_a_batch_of_unequal_graphs(name):
    with np.load(DATA / "fastegnn_published_options.npz", allow_pickle=False) as archive:
        _compare(archive, f"{name}/", OPTIONS[name])


def test_widths_are_read_from_the_shapes():
    source = FastEGNN(node_features=2, edge_features=2, hidden=8, layers=3, virtual_nodes=10)
    with np.load(DATA / "fastegnn_published_options.npz", allow_pickle=False) as archive:
        model = from_reference("fastegnn", _section(archive, "plain_c10/param/"))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in source.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"attention": True}, "do not fit the options"), ({"atention": True}, "unknown option atention")],
)
def test_wrong_options_are_refused(options, message):
    with (
        np.load(DATA / "fastegnn_published_options.npz", allow_pickle=False) as archive,
        pytest.raises(ValueError, match=message),
    ):
        from_reference("fastegnn", _section(archive, "plain_c1/param/"), **options)


def test_foreign_weights_are_refused():
    with pytest.raises(ValueError, match="not weights of the published fastegnn"):
        from_reference("fastegnn", {"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="no published weights are known for 'schnet'"):
        from_reference("schnet", {})
