"""The Triton kernel: its numbers, by Triton's interpreter where there is no GPU, and its compilation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import interpreted_carried
import interpreted_cells
import interpreted_features
import interpreted_kernel
import interpreted_layers
import pytest
import torch
from interpreted_kernel import DEVICE, case

from fastegnn_md.graph import cells
from fastegnn_md.nn.messages import gpu as gpu_kernel


def options_of(launch):
    return {"enable_fp_fusion": True, **{key: value for key, value in launch.items() if key.startswith("num")}}


def output_of(program):
    environment = {**os.environ, "TRITON_INTERPRET": "0" if DEVICE == "cuda" else "1"}
    command = [sys.executable, program.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_numbers_equal_plain_ones(require):
    require("triton")
    found = output_of(interpreted_kernel)
    assert found["no edges"]
    for row in found["rows"]:
        digits = {"torch.float32": 1e-5, "torch.float16": 5e-3, "torch.bfloat16": 4e-2}
        assert row["error"] < digits[row["dtype"]], row
        assert row["a node without edges keeps what it had"], row
        assert row["the same call gives the same bits"], row


@pytest.mark.slow
@pytest.mark.parametrize("switches", [(True, False, True), (False, True, False)])
@pytest.mark.parametrize(("dtype", "hidden"), [("fp32", 64), ("bf16", 64), ("bf16", 128)])
@pytest.mark.parametrize("architecture", [80, 90])
def test_it_compiles_for_gpus_that_are_not_here(architecture, dtype, hidden, switches, require):
    require("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from fastegnn_md.nn.messages.triton_program import _message_sums as program

    launch = gpu_kernel.MANY if dtype == "fp32" else gpu_kernel.HALF
    optional = {"weight": "WEIGHTED", "gate": "GATED", "gate_bias": "GATED", "third": "DEEP", "third_bias": "DEEP"}
    types = {"sender": "*i64", "rows": "*i64", "sums": "*fp32", "outputs": "*fp32"}
    constants = dict(zip(("WEIGHTED", "GATED", "DEEP"), switches, strict=True))
    constants |= {"HIDDEN": hidden, "FEATURES": 3, "WIDTH": hidden, "OUTPUTS": 2, "BLOCK": launch["BLOCK"]}
    constants |= {name: None for name, switch in optional.items() if not constants[switch]}
    signature = {name: "constexpr" if name in constants else types.get(name, f"*{dtype}") for name in program.arg_names}
    source = ASTSource(program, signature, constants)
    made = compile(source, target=GPUTarget("cuda", architecture, 32), options=options_of(launch))
    assert f".target sm_{architecture}" in made.asm["ptx"]
    assert made.metadata.shared <= 99 * 1024, "what the smallest GPUs since 2020 give a program"


@pytest.mark.slow
def test_messages_of_vector_channels_equal_plain_ones(require):
    require("triton")
    for row in output_of(interpreted_carried):
        assert row["error"] < 1e-5, row
        assert row["nothing without edges"], row
        assert row["the same call gives the same bits"], row


def test_inputs_of_edges_equal_plain_ones(require):
    require("triton")
    for row in output_of(interpreted_features):
        assert row.pop("at the cutoff") == 0.0, "what the envelope has brought to zero carries nothing"
        assert max(row.values()) < 2e-6, row


@pytest.mark.slow
def test_cell_lists_are_those_of_vesin(require):
    require("triton")
    for name, row in output_of(interpreted_cells).items():
        assert row["edges"] > 0, name
        assert row["same pairs"], (name, row)
        assert row["sorted by receiver"], name
        assert row["the same call gives the same list"], name
        assert row["largest difference of vectors"] < (1e-5 if name == "single precision" else 1e-11), (name, row)


@pytest.mark.parametrize(
    ("boundary", "heights", "fits"),
    [
        ([True] * 3, [8.0, 9.0, 7.6], True),
        ([True] * 3, [8.0, 9.0, 7.4], False),
        ([True, True, False], [8.0, 9.0], False),
        ([False] * 3, [], True),
    ],
)
def test_which_systems_have_cell_lists_of_the_kernel(boundary, heights, fits):
    assert cells.fits(boundary, heights, 2.5) == fits


@pytest.mark.slow
def test_that_of_cell_lists_compiles_for_gpus_that_are_not_here(require):
    require("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from fastegnn_md.graph.triton_cells import near

    constants = {"PERIODIC": True, "FILL": True, "BLOCK": 16}
    types = dict.fromkeys(("x", "cell", "vector", "square"), "*fp64") | dict.fromkeys(("nx", "ny", "nz"), "i32")
    signature = {key: "constexpr" if key in constants else types.get(key, "*i64") for key in near.arg_names}
    source = ASTSource(near, signature, constants)
    compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 2, "enable_fp_fusion": True})


@pytest.mark.slow
def test_whole_layers_equal_plain_ones(require):
    require("triton")
    for row in output_of(interpreted_layers):
        assert max(row["errors"].values()) < 1e-5, row
        assert row["the same call gives the same bits"], row


@pytest.mark.slow
@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("name", ["virtual_messages", "update_atoms", "update_systems"])
def test_those_of_whole_layers_compile_for_gpus_that_are_not_here(name, block, require):
    require("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from fastegnn_md.nn.messages import triton_layer

    program = getattr(triton_layer, name)
    types = {"atoms": "i32", "all_tiles": "i32", "neighbours": "fp32"}
    types |= dict.fromkeys(("tile_system", "tile_first", "tile_last", "tiles", "counts"), "*i64")
    constants = {"HIDDEN": 64, "NODES": 3, "CHANNELS": 4, "WIDE": 16, "ROWS": 16, "WIDTH": 132, "EDGE": 157}
    constants |= {"GEOMETRY": True, "SQUARED": True, "LAST": False, "SINGLE": block == 16}
    constants |= {"BLOCK": block}
    constants = {key: value for key, value in constants.items() if key in program.arg_names}
    signature = {key: "constexpr" if key in constants else types.get(key, "*fp32") for key in program.arg_names}
    source = ASTSource(program, signature, constants)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert made.metadata.shared <= 99 * 1024, "what the smallest GPUs since 2020 give a program"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["MANY", "FEW"])
@pytest.mark.parametrize("hidden", [16, 64])
@pytest.mark.parametrize("architecture", [80, 90])
def test_that_of_vector_channels_compiles_for_gpus_that_are_not_here(architecture, hidden, which, require):
    require("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from fastegnn_md.nn.messages.triton_carried import carried as program

    types = {"sender": "*i64", "rows": "*i64", "nodes": "i32"}
    constants = {"HIDDEN": hidden, "CHANNELS": 4, "ATTRIBUTES": 16, "FEATURES": 32, "OUTPUTS": 16, "WEIGHTED": True}
    launch = getattr(gpu_kernel, which)
    constants |= {"BLOCK": launch["BLOCK"]}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in program.arg_names}
    options = {key: value for key, value in launch.items() if key.startswith("num")}
    options |= {"enable_fp_fusion": True}
    made = compile(
        ASTSource(program, signature, constants), target=GPUTarget("cuda", architecture, 32), options=options
    )
    assert f".target sm_{architecture}" in made.asm["ptx"]
    assert made.metadata.shared <= 99 * 1024, "what the smallest GPUs since 2020 give a program"


@pytest.mark.parametrize(
    ("dtype", "hidden", "width", "fits"),
    [
        (torch.float32, 64, 64, True),
        (torch.float32, 16, 0, True),
        (torch.bfloat16, 32, 32, True),
        (torch.float16, 128, 128, True),
        (torch.float64, 64, 64, False),
        (torch.float32, 48, 48, False),
        (torch.float32, 64, 48, False),
        (torch.float32, 48, 64, False),
        (torch.float32, 128, 128, False),
        (torch.bfloat16, 256, 256, False),
    ],
)
def test_widths_and_precisions_it_was_written_for(dtype, hidden, width, fits):
    inputs, _ = case(hidden, width, False, False, 2, 1, dtype=dtype)
    assert gpu_kernel.fits(inputs) == fits


def test_it_serves_what_fits_on_a_gpu_where_triton_is_installed(require, monkeypatch):
    require("triton")
    inputs, _ = case(64, 64, False, False, 2, 1)
    assert gpu_kernel.serves(inputs) == (DEVICE == "cuda")

    class OnGPU:
        """The last matrix of the inputs, as it would look on a GPU."""

        is_cuda, shape, dtype = True, inputs.head.shape, inputs.head.dtype

    there = inputs._replace(head=OnGPU())
    assert gpu_kernel.serves(there)
    assert not gpu_kernel.serves(there._replace(second=torch.zeros(48, 48)))
    monkeypatch.setattr(gpu_kernel, "find_spec", lambda name: None)
    assert not gpu_kernel.serves(there)
