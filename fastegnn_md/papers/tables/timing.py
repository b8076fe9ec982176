"""Relative times: what architectures cost on the graph of the protein benchmark, over EGNN with all of its edges."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..._files import write_atomically
from ...errors import MissingDependencyError
from ...models import available_models, build_model, hyperparameters_of
from ...nn.native.library import library
from ..datasets.protein import ProteinSteps
from .data import protein_graphs
from .rows import Row
from .run import check_device, describe_machine
from .train import build_network

DROPPED = (0.0, 0.5, 0.75, 0.9, 1.0)
_VIRTUAL = 3
_WARM_UP = 3


def in_turn(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of calls made in turn, after a warm-up: what slows the machine down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + _WARM_UP):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if repeat >= _WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def relative_times(
    steps: ProteinSteps, *, device: str = "cpu", repeats: int = 10, dropped: Sequence[float] = DROPPED
) -> list[dict[str, Any]]:
    """Time of one forward pass of each architecture on the first frame, hidden width 64, four layers.

    Parameters
    ----------
    steps : ProteinSteps
        In Table 1 the backbone of AdK, 855 atoms.
    device : str
        ``cpu`` or ``cuda``.
    repeats : int
        Measurements of each, made in turn; the median counts.
    dropped : sequence of float
        Edge dropping rates p.

    Returns
    -------
    list of dict
        One per architecture whose packages are installed: ``model``, ``ms`` and ``relative``, the last two by p.
        ``relative`` is over EGNN at p = 0.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    check_device(device)
    calls: dict[str, Callable[[], object]] = {}
    names = [name for name in available_models() if _installed(name)]
    for p in dropped:
        batch = protein_graphs(steps, p).batch([0], device)
        for name in names:
            options = {"virtual_nodes": _VIRTUAL} if "virtual_nodes" in hyperparameters_of(name) else {}
            model = build_network(Row(name, "adk", name, options), batch).to(device).eval()
            calls[f"{name} {p:g}"] = _forward(model, batch.inputs, device)
    times = {name: statistics.median(values) for name, values in in_turn(calls, repeats).items()}
    unit = times[f"egnn {dropped[0]:g}"]
    return [
        {
            "model": name,
            "ms": {f"{p:g}": times[f"{name} {p:g}"] for p in dropped},
            "relative": {f"{p:g}": times[f"{name} {p:g}"] / unit for p in dropped},
        }
        for name in names
    ]


def _installed(name: str) -> bool:
    """Whether the packages that an architecture needs are there."""
    try:
        build_model(name, **{key: 2 for key in ("node_features",) if key in hyperparameters_of(name)})
    except MissingDependencyError:
        return False
    return True


def _forward(model: torch.nn.Module, inputs: dict[str, Any], device: str) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            model(**inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def short_adk() -> ProteinSteps:
    """The AdK trajectory that MDAnalysisTests brings: the same 855 backbone atoms, 98 frames.

    Raises
    ------
    MissingDependencyError
        If MDAnalysisTests is not installed.
    """
    from ...data.topology import load_universe
    from ..datasets.protein import protein_steps

    try:
        from MDAnalysisTests.datafiles import DCD, PSF
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "relative times need the AdK structure of MDAnalysisTests, which is not installed; "
            "install it: pip install MDAnalysisTests"
        ) from error
    return protein_steps(load_universe(PSF, DCD), systems=(1, 1, 1), ahead=1, progress=False)["train"]


def write_relative_times(output: Path, device: str) -> Path:
    """Measure and write ``table1-times.json`` and ``.md`` into a folder; returns the Markdown file."""
    rows = relative_times(short_adk(), device=device)
    machine = describe_machine(device)
    machine["fastegnn"] = "C++ library" if device == "cpu" and library() is not None else "operations of torch"
    lines = [
        "# Relative time of Table 1 of FastEGNN",
        "",
        "One forward pass on the 855 backbone atoms of AdK (58,732 edges at 10 Å), over EGNN with all edges.",
        "",
        "| architecture | " + " | ".join(f"p = {p:g}" for p in DROPPED) + " |",
        "|---|" + "---|" * len(DROPPED),
    ]
    for row in rows:
        cells = (f"{row['relative'][f'{p:g}']:.3f} ({row['ms'][f'{p:g}']:.3g} ms)" for p in DROPPED)
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    lines += ["", f"Hardware: {machine['hardware']}, torch {machine['torch']}. FastEGNN: {machine['fastegnn']}.", ""]
    output.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
    write_atomically(output / "table1-times.json", content.encode())
    write_atomically(output / "table1-times.md", "\n".join(lines).encode())
    return output / "table1-times.md"
