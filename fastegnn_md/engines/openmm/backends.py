"""The four back-ends of the jump force: what OpenMM calls, and how it hands positions over."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._extras import naming_extras
from ...errors import CompatibilityError
from .register import IDLE, KICK, PHASE, POSITIONS, TOKEN, register_of
from .system import JumpSystem

with naming_extras(__name__):
    import openmm


def make_force(backend: str, part: JumpSystem, periodic: bool) -> Any:
    """A force without name and group; ``periodic`` says whether the System is."""
    return _MAKERS[backend](part, periodic)


def read_force(force: Any) -> tuple[str, list[int]]:
    """Back-end of a jump force and the particles it is restricted to; none means all.

    Raises
    ------
    CompatibilityError
        If it is no jump force.
    """
    if type(force) is openmm.Force:  # a class of a plugin, which OpenMM's own wrapper does not know
        force = _cast(force)
    kind = type(force).__name__
    if kind == "CustomExternalForce":
        return "host", [force.getParticleParameters(k)[0] for k in range(force.getNumParticles())]
    if kind == "TorchForce":
        return "torch", force.getModule().particles.tolist()
    if kind in ("PythonForce", "PythonTorchForce"):
        return {"PythonForce": "python", "PythonTorchForce": "python_torch"}[kind], list(force.getParticles())
    raise CompatibilityError(f"the {kind} named {force.getName()} of this System is not a jump force; rename it")


def plugin_has(name: str) -> bool:
    """Whether openmm-torch is installed and has a class of this name."""
    if importlib.util.find_spec("openmmtorch") is None:
        return False
    import openmmtorch

    return hasattr(openmmtorch, name)


# No force at all ---------------------------------------------------------------------------------------------------


def _empty_force(part: JumpSystem, periodic: bool) -> openmm.Force:
    """Nothing but the parameters that the jump integrator names, and the atoms that jump."""
    force = openmm.CustomExternalForce("0")
    force.addGlobalParameter(PHASE, IDLE)
    force.addGlobalParameter(TOKEN, 0)
    if not part.whole_system:
        for particle in part.atoms:
            force.addParticle(int(particle))
    return force


# PythonForce -------------------------------------------------------------------------------------------------------


class _Callback:
    """What OpenMM calls, and pickles into XML: it holds nothing but the number of atoms."""

    def __init__(self, n_atoms: int):
        self.zeros = np.zeros((n_atoms, 3))

    def __getstate__(self) -> dict[str, int]:
        return {"n_atoms": len(self.zeros)}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["n_atoms"])  # type: ignore[misc]

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        parameters = state.getParameters()
        phase = int(parameters[PHASE])
        if phase == IDLE:
            return 0.0, self.zeros
        register = register_of(parameters[TOKEN])
        if register is None:
            return 0.0, self.zeros
        positions = None if phase == KICK else torch.from_numpy(state.getPositions(asNumpy=True)._value)
        answer = register.evaluate(phase, positions, _box(state) if phase == POSITIONS else None)
        return 0.0, self.zeros if answer is None else answer.cpu().numpy()


class _TensorCallback(_Callback):
    """The same on tensors, for PythonTorchForce."""

    def __call__(self, state: openmm.State, positions: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        parameters = state.getParameters()
        phase, energy = int(parameters[PHASE]), positions.new_zeros((), requires_grad=False)
        register = None if phase == IDLE else register_of(parameters[TOKEN])
        answer = None
        if register is not None:
            box = _box(state) if phase == POSITIONS else None
            answer = register.evaluate(phase, positions, None if box is None else box.to(positions.device))
        if answer is None:
            return energy, torch.zeros_like(positions, requires_grad=False)
        answer = answer.to(positions.device, positions.dtype).contiguous()
        if answer.is_cuda:  # OpenMM reads it in a stream of its own
            torch.cuda.current_stream(answer.device).synchronize()
        return energy, answer


def _box(state: openmm.State) -> Tensor | None:
    try:
        return torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value)
    except openmm.OpenMMException:  # the force is not periodic
        return None


def _python_force(part: JumpSystem, periodic: bool) -> openmm.Force:
    force = openmm.PythonForce(_Callback(len(part.atoms)), {PHASE: float(IDLE), TOKEN: 0.0})
    return _restricted(force, part, periodic)


def _python_torch_force(part: JumpSystem, periodic: bool) -> Any:
    force = _openmmtorch().PythonTorchForce(_TensorCallback(len(part.atoms)), {PHASE: float(IDLE), TOKEN: 0.0})
    return _restricted(force, part, periodic)


def _restricted(force: Any, part: JumpSystem, periodic: bool) -> Any:
    if not part.whole_system:
        force.setParticles(part.atoms.tolist())
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force


# TorchForce --------------------------------------------------------------------------------------------------------


class _Bridge(torch.nn.Module):
    """TorchScript that calls back into this process: the network itself is never compiled."""

    def __init__(self, particles: np.ndarray):
        super().__init__()
        self.register_buffer("particles", torch.from_numpy(particles.astype(np.int64)))

    def forward(self, positions: Tensor, phase: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        box = torch.zeros(0, 3, dtype=positions.dtype)
        return torch.ops.fastegnn_md.learned_jump(positions, box, phase, token, self.particles)


class _PeriodicBridge(_Bridge):
    def forward(  # type: ignore[override]
        self, positions: Tensor, box: Tensor, phase: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.fastegnn_md.learned_jump(positions, box, phase, token, self.particles)


def _learned_jump(
    positions: Tensor, box: Tensor, phase: Tensor, token: Tensor, particles: Tensor
) -> tuple[Tensor, Tensor]:
    energy = torch.zeros((), dtype=positions.dtype, device=positions.device)
    forces = torch.zeros_like(positions, requires_grad=False)
    now = int(phase)
    register = None if now == IDLE else register_of(float(token))
    if register is None:
        return energy, forces
    particles = particles.to(positions.device)
    answer = register.evaluate(now, positions.detach()[particles], box if len(box) else None)
    if answer is not None:
        forces[particles] = answer.to(forces.device, forces.dtype)
    return energy, forces


_LIBRARY: torch.library.Library | None = None


def _torch_force(part: JumpSystem, periodic: bool) -> Any:
    global _LIBRARY
    openmmtorch = _openmmtorch()
    if _LIBRARY is None:
        _LIBRARY = torch.library.Library("fastegnn_md", "DEF")
        _LIBRARY.define(
            "learned_jump(Tensor positions, Tensor box, Tensor phase, Tensor token, Tensor particles)"
            " -> (Tensor, Tensor)"
        )
        _LIBRARY.impl("learned_jump", _learned_jump, "CompositeExplicitAutograd")
    with warnings.catch_warnings():  # TorchForce takes nothing but TorchScript, which newer releases of torch deplore
        warnings.simplefilter("ignore", DeprecationWarning)
        force = openmmtorch.TorchForce(torch.jit.script((_PeriodicBridge if periodic else _Bridge)(part.atoms)))
    force.setOutputsForces(True)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.addGlobalParameter(PHASE, float(IDLE))
    force.addGlobalParameter(TOKEN, 0.0)
    return force


_MAKERS = {"host": _empty_force, "python": _python_force, "python_torch": _python_torch_force, "torch": _torch_force}


def _openmmtorch() -> Any:
    """The plugin, its kernels loaded: OpenMM cannot load them where it was imported before torch."""
    import openmmtorch

    for failure in openmm.Platform.getPluginLoadFailures():
        found = re.search(r"(/\S*OpenMMTorch\w*\.(?:so|dylib))", failure)
        if found is not None and found[1] not in _LOADED:
            _LOADED.add(found[1])
            with contextlib.suppress(openmm.OpenMMException):  # of a platform that is not here
                openmm.Platform.loadPluginLibrary(found[1])
    return openmmtorch


_LOADED: set[str] = set()


def _cast(force: Any) -> Any:
    openmmtorch = _openmmtorch()
    for name in ("PythonTorchForce", "TorchForce"):
        kind = getattr(openmmtorch, name, None)
        if kind is not None and kind.isinstance(force):
            return kind.cast(force)
    return force
