"""Velocities, classical forces and a jump through the eye of a needle: an OpenMM Force sees positions only.

A CustomIntegrator moves the particles to where their displacement encodes what the network needs, asks this force, and
moves them back. The phase of the protocol is a global parameter:

==========  =======================  ==========================================
phase       positions                answer
==========  =======================  ==========================================
-1          any                      zero: the force is idle
1           x + τ v                  zero; stored
2           x + σ f                  zero; stored (force-informed propagators)
3           x                        1024 (Δx - Δt v) in nm, from the network
4           any                      1024 Δv in nm/ps
==========  =======================  ==========================================

Differences of positions are exact also where a platform hands out wrapped molecules: within one step of an integrator
every call gets the same images. Of Δx the free flight, which the integrator knows, is left out: mixed precision
keeps seven digits of an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from openmm import CustomIntegrator

# τ in ps and σ in nm per kJ/mol/nm. GPU platforms hand out positions in single precision: displacements of some nm are
# large beside its resolution and small beside its range. On the others, in double precision, displacements stay within
# the margin of the neighbour list, which those platforms would build anew whatever force is asked.
_WIDE, _NARROW = (4.0, 1e-3), (4e-3, 1e-6)
_DOUBLE = ("Reference", "CPU")
# GPU platforms sum forces in steps of 2⁻³² kJ/mol/nm.
SCALE = 1024.0

FORCE_NAME = "LearnedJump"  # of the jump force
# Names that say what to do: a Context made without the jump force ends with "Unknown global variable: …".
PHASE, TOKEN = "phase_needs_LearnedSimulation", "context_needs_LearnedSimulation"
IDLE, VELOCITIES, FORCES, POSITIONS, KICK = -1, 1, 2, 3, 4

Jump = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], tuple[Tensor, Tensor]]


class Register:
    """What a jump of one Context remembers between the calls of its force.

    Parameters
    ----------
    jump : callable
        Positions (N, 3) in nm, velocities (N, 3) in nm/ps, forces (N, 3) in kJ/mol/nm or None, box (3, 3) in nm or
        None → Δx (N, 3) in nm and Δv (N, 3) in nm/ps; all float64.
    forces : bool
        Whether it needs forces.
    flight : float
        Time in ps for which the integrator adds free flight to the answer, Δt or zero.
    platform : str
        Of the Context.

    Attributes
    ----------
    tau, sigma : float
        Scales of the displacements, in ps and nm per kJ/mol/nm.
    token : int
        Tells the Contexts of a process apart: value of the parameter :data:`TOKEN` in calls meant for this register.
    error : BaseException or None
        What the last jump raised. The force never raises: OpenMM would leave the particles displaced by τ v.
    """

    tau: float
    sigma: float

    def __init__(self, jump: Jump, forces: bool, flight: float, platform: str):
        self._jump, self._forces, self._flight = jump, forces, flight
        self.tau, self.sigma = _NARROW if platform in _DOUBLE else _WIDE
        self.token: int = next(_TOKENS)
        self.error: BaseException | None = None
        self._stored: dict[int, Tensor] = {}
        self._result: tuple[Tensor, Tensor] | None = None
        _REGISTERS[self.token] = self

    def evaluate(self, phase: int, positions: Tensor | None, box: Tensor | None) -> Tensor | None:
        """Answer of the force, shape (N, 3), or None for zero; the same again if a platform asks twice.

        Parameters
        ----------
        phase : int
        positions : Tensor, shape (N, 3), nm
            Of the atoms that jump; not kept. Phase 4 does not need them.
        box : Tensor, shape (3, 3), nm, optional
            Phase 3 needs it, in a periodic System.
        """
        if phase in (VELOCITIES, FORCES) and positions is not None:
            if phase == VELOCITIES:
                self._result, self.error = None, None
                self._stored.clear()
            self._stored[phase] = positions.detach().to(torch.float64, copy=True)
            return None
        if phase == POSITIONS and positions is not None and self._result is None and self._stored:
            self._result = self._compute(positions.detach().double(), box)
        if self._result is None or phase not in (POSITIONS, KICK):
            return None
        return self._result[0] if phase == POSITIONS else self._result[1]

    def _compute(self, x: Tensor, box: Tensor | None) -> tuple[Tensor, Tensor]:
        try:
            velocities = (self._stored[VELOCITIES] - x) / self.tau
            forces = (self._stored[FORCES] - x) / self.sigma if self._forces else None
            moved, kick = self._jump(x, velocities, forces, None if box is None else box.double())
            return SCALE * (moved - self._flight * velocities), SCALE * kick
        except BaseException as error:
            self.error = error
            return torch.zeros_like(x), torch.zeros_like(x)


def register_of(token: float) -> Register | None:
    """The register a call is meant for, None if its Context was never bound in this process."""
    return _REGISTERS.get(int(token))


_TOKENS = itertools.count(1)
_REGISTERS: WeakValueDictionary[int, Register] = WeakValueDictionary()


# What one step of the jump integrator does, value of its global variable "mode".
JUMP, BACK_SHIFT, RESTORE, BETWEEN = 0, 1, 2, 3


def write_protocol(integrator: CustomIntegrator, group: int, forces: bool, flight: float) -> None:
    """Write the integrator's side of the protocol into an empty CustomIntegrator.

    There is no constraint step in it: on GPU platforms one defers earlier writes of x, and the network would see
    velocities of zero. Global variables: ``mode`` (a jump, the shift back to half-step velocities, everything as
    before the jump, or what acts between steps, such as a barostat) and ``half_step``, half a classical time step
    in ps where velocities are those of half a step ago (else zero): v(t) = v(t - δ/2) + δ f / 2m; ``tau`` and
    ``sigma``, see :class:`Register`. The per-DOF variable ``flies`` is zero for particles that do not jump.
    """
    for name in ("mode", "half_step", "tau", "sigma"):
        integrator.addGlobalVariable(name, 0)
    for name in ("x0", "v0", "classical"):
        integrator.addPerDofVariable(name, 0)
    integrator.addPerDofVariable("flies", 1)
    answer = f"f{group}"
    integrator.beginIfBlock(f"mode = {JUMP}")
    integrator.addComputePerDof("x0", "x")
    integrator.addComputePerDof("v0", "v")
    if forces:
        integrator.addComputePerDof("classical", "f")
    integrator.beginIfBlock("half_step > 0")
    if not forces:
        integrator.addComputePerDof("classical", "f")
    integrator.addComputePerDof("v", "v + half_step*classical/m")
    integrator.endBlock()
    # Up to phase 2 the answer is zero. Each statement takes as long as a call of the force, so these ask on the way.
    integrator.addComputePerDof("x", "x0 + tau*v")
    integrator.addComputeGlobal(PHASE, str(VELOCITIES))
    if forces:
        integrator.addComputePerDof("x", f"x0 + sigma*classical + {answer}")
        integrator.addComputeGlobal(PHASE, str(FORCES))
    integrator.addComputePerDof("x", f"x0 + {answer}")
    integrator.addComputeGlobal(PHASE, str(POSITIONS))
    integrator.addComputePerDof("x", f"x0 + flies*{flight!r}*v + {answer}/{SCALE}")
    integrator.addComputeGlobal(PHASE, str(KICK))
    integrator.addComputePerDof("v", f"v + {answer}/{SCALE}")
    integrator.addComputeGlobal(PHASE, str(IDLE))
    integrator.endBlock()
    integrator.beginIfBlock(f"mode = {BACK_SHIFT}")
    integrator.addComputePerDof("v", "v - half_step*f/m")
    integrator.endBlock()
    integrator.beginIfBlock(f"mode = {RESTORE}")
    integrator.addComputePerDof("x", "x0")
    integrator.addComputePerDof("v", "v0")
    integrator.endBlock()
    integrator.beginIfBlock(f"mode = {BETWEEN}")
    integrator.addUpdateContextState()
    integrator.endBlock()
