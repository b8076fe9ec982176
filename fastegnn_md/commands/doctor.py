"""``fastegnn-md doctor``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import typer

from .._extras import EXTRA_OF, how_to_get

# Of the dependencies, those whose release explains a difference. Every component of an extra is looked at.
_BASE = ("torch", "numpy", "scipy", "MDAnalysis", "vesin", "h5py", "safetensors")
_ENGINES = ("ase", "openmm", "openmmtorch")
# Compiled for one release of torch: being there is not enough.
_BOUND_TO_TORCH = ("openmmtorch", "torch_scatter")
# A driver can crash the process that asks it, and OpenCL on POCL changes its locale.
_MAKE_CONTEXT = """
import sys, openmm
system = openmm.System()
system.addParticle(1.0)
platform = openmm.Platform.getPlatformByName(sys.argv[1])
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
name = "DeviceName"
print(platform.getPropertyValue(context, name) if name in platform.getPropertyNames() else "")
"""
_SECONDS = 60  # for a Context; POCL compiles a while when it is asked for the first time


class Finding(NamedTuple):
    """What is looked at, what was found, and the command that brings what is missing."""

    name: str
    found: str
    command: str = ""


def doctor() -> None:
    """Show versions, engines, compiler and GPU, what is missing and the command that brings it.

    The exit code is 0 if a shipped model moves a small crystal as it should, else 1.
    """
    main_path, error = _main_path()
    sections = {
        "versions": _collected(_versions),
        "engines": _collected(_engines),
        "machine": _collected(_machine),
        "main path": [main_path],
    }
    for line in _lines(sections):
        typer.echo(line)
    if error:
        typer.echo(f"fastegnn-md: error: the main path fails: {error}", err=True)
        raise typer.Exit(1)


def _collected(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Everything up to what cannot be looked at, and why it cannot."""
    findings = []
    try:
        for finding in look():
            findings.append(finding)
    except Exception as problem:  # whatever it is, a doctor says it and goes on
        findings.append(Finding("the rest", "cannot be looked at", f"({_first_line(problem)})"))
    return findings


def _lines(sections: dict[str, list[Finding]]) -> Iterator[str]:
    """All sections with common columns; the last one is left where nothing is missing."""
    rows = [row for section in sections.values() for row in section]
    name = max(len(row.name) for row in rows)
    found = max((len(row.found) for row in rows if row.command), default=0)
    for k, (title, section) in enumerate(sections.items()):
        if k:
            yield ""
        yield title
        for row in section:
            yield f"  {row.name:{name}}  {row.found:{found}}  {row.command}".rstrip()


def _versions() -> Iterator[Finding]:
    yield Finding("fastegnn-md", version("fastegnn-md"))
    yield Finding("Python", platform.python_version())
    for component in (*_BASE, *EXTRA_OF):
        if component not in (*_ENGINES, *_BOUND_TO_TORCH):  # those have a place below
            yield _component(component)


def _component(name: str) -> Finding:
    """The release of a component."""
    if importlib.util.find_spec(name) is None:
        return Finding(name, "missing", how_to_get(name) or "pip install fastegnn-md")
    found = Finding(name, _release(name))
    if name not in _BOUND_TO_TORCH:
        return found
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(name, f"{found.found} does not load", f"{how_to_get(name)}  ({_first_line(error)})")
    return found


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # conda has other names for some
        return "found"


def _engines() -> Iterator[Finding]:
    yield _component("ase")._replace(name="ASE")
    if importlib.util.find_spec("openmm") is None:
        yield _component("openmm")._replace(name="OpenMM")
        return
    import openmm

    yield Finding("OpenMM", openmm.Platform.getOpenMMVersion())
    there = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
    for name in there:
        yield _platform(name)
    if "OpenCL" not in there:
        yield Finding("OpenMM OpenCL", "missing", how_to_get("OpenMM platform OpenCL"))
    if "CUDA" not in there and shutil.which("nvidia-smi"):
        yield Finding("OpenMM CUDA", "missing", "pip install 'openmm[cuda13]' (or cuda12, as the driver has it)")
    yield _component("openmmtorch")._replace(name="openmm-torch")


def _platform(name: str) -> Finding:
    """Whether OpenMM can make a Context on one of its platforms."""
    label = f"OpenMM {name}"
    command = [sys.executable, "-c", _MAKE_CONTEXT, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding(label, "no answer", f"its driver took more than {_SECONDS} s")
    if done.returncode == 0:
        return Finding(label, f"works {done.stdout.strip()}".strip())
    if done.returncode < 0:
        return Finding(label, "crashes", f"signal {-done.returncode}; look for another driver")
    last = done.stderr.strip().splitlines()[-1:]
    how = how_to_get(f"OpenMM platform {name}")
    return Finding(label, "no Context", "  ".join(filter(None, (how, f"({last[0]})" if last else ""))))


def _machine() -> Iterator[Finding]:
    import torch

    from ..nn.compiler import find_compiler, has_headers

    capability = torch.backends.cpu.get_cpu_capability()
    cores = os.cpu_count() or 1
    yield Finding("system", f"{platform.system()} {platform.machine()}, {cores} cores, {capability}")
    yield Finding("threads of torch", str(torch.get_num_threads()))
    compiler = find_compiler()
    yield Finding("C++ compiler", compiler or "missing", "" if compiler else how_to_get("C++ compiler"))
    headers = has_headers()
    yield Finding(
        "headers of Python", "found" if headers else "missing", "" if headers else how_to_get("headers of Python")
    )
    yield _gpu()
    yield _component("torch_scatter")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return Finding("GPU", f"{', '.join(names)} (CUDA {torch.version.cuda})")
    if torch.backends.mps.is_available():
        return Finding("GPU", "MPS")
    if shutil.which("nvidia-smi"):
        built = (
            "is built for the CPU" if torch.version.cuda is None else f"for CUDA {torch.version.cuda} finds no device"
        )
        return Finding("GPU", "not usable", f"torch {built}: install the torch that fits the driver (pytorch.org)")
    return Finding("GPU", "none")


def _main_path() -> tuple[Finding, str]:
    """A shipped model moves a small crystal: what was found, and what is wrong in a sentence."""
    name = "copper-emt"
    try:
        done, error = _jump(name)
    except Exception as problem:  # as above
        done, error = "", _first_line(problem)
    return Finding(name, "fails" if error else done), error


def _jump(name: str) -> tuple[str, str]:
    """One jump of 108 atoms of copper: what was done, and what is wrong with its end."""
    import numpy as np
    import torch

    from ..integrators import check_jump
    from ..mechanics.thermal import thermal_velocities
    from ..propagator import Propagator
    from ..propagator.catalogue import Catalogue
    from ..state import State
    from ..units import format_time

    propagator = Propagator.load(name)
    side, edge = 3, 3.61  # cells, Å
    cells = torch.cartesian_prod(*[torch.arange(float(side))] * 3)
    corner = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    positions = edge * (cells[:, None] + corner).reshape(-1, 3)
    masses = torch.full((len(positions),), 63.546)
    temperature = Catalogue().entries[name].temperature_K[0]
    start = State(
        positions=positions,
        velocities=thermal_velocities(masses, temperature, np.random.default_rng(0)),
        numbers=torch.full((len(positions),), 29),
        masses=masses,
        cell=side * edge * torch.eye(3)[None],
    )
    report = check_jump(start, propagator(start), propagator.limits)
    atom = "" if report.atom is None else f"atom {report.atom}: "
    return (
        f"{len(positions)} atoms moved by {format_time(propagator.timestep)}",
        "" if report.ok else atom + report.message,
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
