"""The jump force: a Force of an OpenMM System that hands positions to a propagator, by one of four back-ends."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CompatibilityError, ConfigError, MissingDependencyError
from ..optional import naming_extras
from .openmm_register import IDLE, PHASE, TOKEN, register_of
from .openmm_system import JumpSystem, read_system

if TYPE_CHECKING:
    from openmm.app import Topology

    from ..propagator import Propagator

with naming_extras(__name__):
    import openmm

FORCE_NAME = "LearnedJump"
DEFAULT_GROUP = 31
BACKENDS = ("host", "python", "torch", "python_torch")
_OLDEST = (8, 6)  # earlier releases hold their CUDA context while Python runs, and lack parts of PythonForce


@dataclass(frozen=True, eq=False)
class JumpForce:
    """How a System and a propagator meet.

    Attributes
    ----------
    backend : {"host", "python", "torch", "python_torch"}
    group : int
        Force group of the jump force; no other force may be in it.
    part : JumpSystem
        The atoms that jump.
    """

    backend: str
    group: int
    part: JumpSystem


def add_jump_force(
    system: openmm.System,
    topology: Topology,
    propagator: Propagator,
    atoms: Iterable[Any] | None = None,
    backend: str = "auto",
    group: int = DEFAULT_GROUP,
    *,
    platform: openmm.Platform | None = None,
) -> JumpForce:
    """Make a System ready for learned jumps.

    Parameters
    ----------
    system : openmm.System
        Gets one more force. It acts in jumps only, its energy is zero.
    topology : openmm.app.Topology
        Elements and bonds.
    propagator : Propagator
    atoms : iterable of int or of openmm.app.topology.Atom, optional
        Atoms that jump; the others stand still meanwhile. Default: all but virtual sites.
    backend : {"auto", "host", "python", "torch", "python_torch"}
        ``host`` reads and writes the Context between steps, its force is empty. ``python`` is OpenMM's PythonForce,
        ``torch`` the TorchForce of openmmtorch, ``python_torch`` the PythonTorchForce of openmm-torch after 1.5;
        the last two leave positions on a GPU. ``auto`` takes ``host`` on the platforms Reference and CPU; on others
        ``python_torch`` where it is installed, else ``python``.
    group : int
        Force group of the force, 0 to 31, not used by another force.
    platform : openmm.Platform, optional
        That the Context will have; ``auto`` looks at it. Default: the fastest, which is OpenMM's choice as well.

    Returns
    -------
    JumpForce

    Raises
    ------
    CompatibilityError
        If the propagator does not fit (see :func:`~fastegnn_md.engines.openmm_system.read_system`), the System has a
        jump force or the group is in use.
    ConfigError
        If back-end or group do not exist.
    MissingDependencyError
        If OpenMM is older than 8.6, or a plugin is not installed.
    """
    check_version()
    if not (isinstance(group, int) and 0 <= group <= 31):
        raise ConfigError(f"group is {group!r}; OpenMM has the force groups 0 to 31")
    backend = choose_backend(backend, platform)
    _refuse_second(system)
    check_group(system, group, None)
    part = read_system(system, topology, propagator, atoms)
    force = _MAKERS[backend](part, system.usesPeriodicBoundaryConditions())
    force.setName(FORCE_NAME)
    force.setForceGroup(group)
    system.addForce(force)
    return JumpForce(backend, group, part)


def find_jump_force(system: openmm.System, topology: Topology, propagator: Propagator) -> JumpForce | None:
    """The jump force that a System has already, as one that was read from XML; None if it has none.

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the System.
    """
    index = _index(system)
    if index is None:
        return None
    force = system.getForce(index)
    if type(force) is openmm.Force:  # a class of a plugin, which OpenMM's own wrapper does not know
        force = _cast(force)
    backend = {
        "CustomExternalForce": "host",
        "PythonForce": "python",
        "PythonTorchForce": "python_torch",
        "TorchForce": "torch",
    }[type(force).__name__]
    if backend == "host":
        particles = [force.getParticleParameters(k)[0] for k in range(force.getNumParticles())]
    elif backend == "torch":
        particles = force.getModule().particles.tolist()
    else:
        particles = list(force.getParticles())
    sites = sum(system.isVirtualSite(i) for i in range(system.getNumParticles()))
    everything = len(particles) in (0, system.getNumParticles() - sites)
    part = read_system(system, topology, propagator, None if everything else particles)
    return JumpForce(backend, force.getForceGroup(), part)


def choose_backend(backend: str, platform: openmm.Platform | None) -> str:
    """Resolve ``auto``, and look whether a back-end is installed.

    Raises
    ------
    ConfigError
        If there is no such back-end.
    MissingDependencyError
        If its plugin is not installed.
    """
    if backend == "auto":
        if platform is None:
            known = [openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms())]
            platform = max(known, key=lambda one: one.getSpeed())
        if platform.getName() in ("Reference", "CPU"):
            return "host"
        return "python_torch" if _plugin_has("PythonTorchForce") else "python"
    if backend not in BACKENDS:
        raise ConfigError(f"unknown back-end {backend!r}; expected auto, {', '.join(BACKENDS)}")
    if backend == "torch" and not _plugin_has("TorchForce"):
        raise MissingDependencyError(
            "the back-end 'torch' needs TorchForce of openmm-torch: pip install 'fastegnn-md[openmm-torch]', with the "
            "release of torch it was built for; or use backend='python', which needs no plugin"
        )
    if backend == "python_torch" and not _plugin_has("PythonTorchForce"):
        raise MissingDependencyError(
            "the back-end 'python_torch' needs PythonTorchForce of openmm-torch, which release 1.5 does not have yet: "
            "build openmm-torch from source, or use backend='python', which needs no plugin"
        )
    return backend


def check_version() -> None:
    """Refuse an OpenMM that is too old; raises :class:`~fastegnn_md.errors.MissingDependencyError`."""
    found = openmm.Platform.getOpenMMVersion()
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers < _OLDEST:
        raise MissingDependencyError(
            f"learned jumps need OpenMM {_OLDEST[0]}.{_OLDEST[1]} or later, this is {found}: pip install -U openmm"
        )


def check_group(system: openmm.System, group: int, jump_force: int | None) -> None:
    """Refuse a force group that a force other than the jump force is in."""
    users = [
        type(force).__name__
        for index, force in enumerate(system.getForces())
        if force.getForceGroup() == group and index != jump_force
    ]
    if users:
        raise CompatibilityError(
            f"force group {group} is used by {', '.join(users)}; jumps need a group of their own: give another group"
        )


def _index(system: openmm.System) -> int | None:
    names = [force.getName() for force in system.getForces()]
    return names.index(FORCE_NAME) if FORCE_NAME in names else None


def _refuse_second(system: openmm.System) -> None:
    index = _index(system)
    if index is not None:
        raise CompatibilityError(
            f"the System has a jump force already (force {index}, group {system.getForce(index).getForceGroup()}); "
            "one is enough, remove it first: system.removeForce"
        )


def check_binding(system: openmm.System, force: JumpForce) -> None:
    """Look whether a jump force belongs to the System of a Context.

    Raises
    ------
    CompatibilityError
        If the System has none, has another number of particles, or another force has joined the group.
    """
    index = _index(system)
    check_group(system, force.group, index)
    if index is None:
        raise CompatibilityError(
            "the System of this Context has no jump force: call add_jump_force on it before the Context is made, and "
            "bind what it returns"
        )
    if force.part.n_particles != system.getNumParticles():
        raise CompatibilityError(
            f"the jump force is for {force.part.n_particles} particles, this Context has "
            f"{system.getNumParticles()}; bind what add_jump_force returned for its System"
        )


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
        positions = torch.from_numpy(state.getPositions(asNumpy=True)._value)
        answer = register.evaluate(phase, positions, _box(state))
        return 0.0, self.zeros if answer is None else answer.cpu().numpy()


class _TensorCallback(_Callback):
    """The same on tensors, for PythonTorchForce."""

    def __call__(self, state: openmm.State, positions: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        parameters = state.getParameters()
        phase, energy = int(parameters[PHASE]), positions.new_zeros((), requires_grad=False)
        register = None if phase == IDLE else register_of(parameters[TOKEN])
        answer = None
        if register is not None:
            box = _box(state)
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
    import openmmtorch

    force = openmmtorch.PythonTorchForce(_TensorCallback(len(part.atoms)), {PHASE: float(IDLE), TOKEN: 0.0})
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
    import openmmtorch

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


def _plugin_has(name: str) -> bool:
    if importlib.util.find_spec("openmmtorch") is None:
        return False
    import openmmtorch

    return hasattr(openmmtorch, name)


def _cast(force: Any) -> Any:
    import openmmtorch

    for name in ("PythonTorchForce", "TorchForce"):
        kind = getattr(openmmtorch, name, None)
        if kind is not None and kind.isinstance(force):
            return kind.cast(force)
    raise CompatibilityError(f"the force named {FORCE_NAME} of this System is not a jump force; rename it")
