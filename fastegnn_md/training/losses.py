"""What training minimises: the scaled residual and, optionally, the MMD between real and virtual nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ConfigError
from ..propagator.along_energy import EnergyPropagator
from ..propagator.kick_drift import KickDriftPropagator
from ..segments import Segments

if TYPE_CHECKING:
    from ..propagator.learned_map import LearnedMap
    from ..propagator.prediction import Residual
    from ..state import State
    from .config import TrainingConfig

# Weight of the error half a jump ahead: the engine is asked where the map believes the system to be then, while in
# training the force is that of where it was.
_MIDDLE = 0.3


def residual_loss(residual: Residual, velocity_weight: float = 1.0) -> Tensor:
    """Mean squared error in mass-scaled units.

    The residual is already divided by the scale of its species and carries the square root of the mass, so every
    species weighs the same: L = mean(x²) + w mean(v²).

    Parameters
    ----------
    residual : Residual
        Predicted minus true, ``x`` and ``v`` of shape (N, 3), no unit; ``v`` may be None.
    velocity_weight : float
        The weight w.

    Returns
    -------
    Tensor, shape ()
        The loss.
    """
    loss = residual.x.square().mean()
    if residual.v is not None:
        loss = loss + velocity_weight * residual.v.square().mean()
    return loss


def step_loss(
    config: TrainingConfig, residual: Residual, end: State, share: float, generator: torch.Generator | None
) -> Tensor:
    """What the settings make of the errors of one jump.

    Parameters
    ----------
    config : TrainingConfig
    residual : Residual
    end : State
        The true one.
    share : float
        Factor of the squared errors.
    generator : torch.Generator, optional
        CPU generator, for the MMD.

    Raises
    ------
    ConfigError
        If a term is asked for that the propagator does not have.
    """
    loss = residual_loss(residual, config.velocity_weight)
    if residual.middle is not None:
        loss = loss + _MIDDLE * residual.middle.square().mean()
    if share != 1.0:
        loss = share * loss
    if config.mmd_weight:
        if residual.z is None:
            raise ConfigError(
                "mmd_weight needs virtual nodes with positions, which this propagator does not have "
                "(periodic systems have none); set mmd_weight=0"
            )
        assert end.batch is not None  # set by State
        sigma, samples = config.mmd_sigma, config.mmd_samples
        discrepancy = virtual_node_mmd(
            end.positions, end.batch, residual.z, sigma=sigma, samples=samples, generator=generator
        )
        loss = loss + config.mmd_weight * discrepancy
    if config.connectivity_weight:
        if residual.connectivity is None:
            name = config.propagator.architecture
            raise ConfigError(f"connectivity_weight is for 'eghn', this is {name!r}; set connectivity_weight=0")
        loss = loss + config.connectivity_weight * residual.connectivity
    return loss


def force_loss(propagator: LearnedMap, state: State) -> Tensor:
    """Mean squared error of single kicks against the forces of a state, in mass-scaled units.

    Parameters
    ----------
    propagator : KickDriftPropagator or EnergyPropagator
    state : State
        With forces.

    Returns
    -------
    Tensor, shape ()
        The loss; 1 for kicks of zero.

    Raises
    ------
    ConfigError
        If the propagator is of another kind.
    """
    if not isinstance(propagator, (KickDriftPropagator, EnergyPropagator)):
        raise ConfigError(
            "force_updates is for kinds 'kick-drift', 'symplectic' and 'conservative', this is "
            f"{propagator.kind!r}; set it to 0"
        )
    return propagator.force_residual(state).square().mean()


def virtual_node_mmd(
    real: Tensor,
    batch: Tensor,
    virtual: Tensor,
    *,
    sigma: float,
    samples: int | None = None,
    generator: torch.Generator | None = None,
    published: bool = False,
) -> Tensor:
    """Maximum mean discrepancy between real and virtual nodes, mean over the systems of a batch.

    For one system with n drawn real nodes x and C virtual nodes z (FastEGNN, the term of λ in the loss)::

        (1/C²) Σ_ij k(z_i, z_j) − (1/(nC)) Σ_ij k(x_i, z_j),   k(a, b) = exp(−|a − b|²/(2σ²))

    Parameters
    ----------
    real : Tensor, shape (N, 3), Å
        Positions of the real nodes: the true ones at the end of the jump in the paper's form, the predicted ones in
        the published code's.
    batch : Tensor of int64, shape (N,)
        System of each real node, from 0 without gaps.
    virtual : Tensor, shape (B, C, 3), Å
        Predicted positions of the virtual nodes.
    sigma : float
        Width of the kernel, Å.
    samples : int, optional
        Real nodes drawn per system without replacement, fewer where a system is smaller; all by default.
        ``published`` draws ``samples`` · C.
    generator : torch.Generator, optional
        CPU generator of the draw; needed with ``samples``.
    published : bool
        The form of the published code: k(a, b) = exp(−|a − b|/(2σ²)) and twice the cross term.

    Returns
    -------
    Tensor, shape ()
        The discrepancy, without the constant term of the real nodes among themselves (it has no gradient).

    Raises
    ------
    ValueError
        If ``samples`` is given without a generator.
    """
    systems, channels = virtual.shape[:2]
    if samples is not None:
        if generator is None:
            raise ValueError("drawing real nodes needs a generator; give generator=torch.Generator()")
        drawn = _draw(batch, systems, samples * (channels if published else 1), generator)
        real, batch = real[drawn], batch[drawn]
    of = Segments(batch, systems)

    among = _kernel(virtual[:, :, None] - virtual[:, None, :], sigma, published).sum(dim=(1, 2)) / channels**2
    cross = _kernel(real[:, None] - virtual[batch], sigma, published).sum(dim=1)
    cross = of.mean(cross) / channels
    return (among - (2.0 if published else 1.0) * cross).mean()


def _kernel(difference: Tensor, sigma: float, published: bool) -> Tensor:
    # vector_norm has gradient 0 (not NaN) where a node meets itself
    distance = torch.linalg.vector_norm(difference, dim=-1) if published else difference.square().sum(dim=-1)
    return torch.exp(-distance / (2.0 * sigma**2))


def _draw(batch: Tensor, systems: int, samples: int, generator: torch.Generator) -> Tensor:
    """Indices of up to ``samples`` nodes of every system, drawn without replacement."""
    # one random key per node; the nodes with the smallest keys of each system are the draw. Drawn on the CPU in
    # float64, so that every device draws the same nodes.
    key = torch.rand(batch.shape[0], generator=generator, dtype=torch.float64).to(batch.device)
    order = torch.argsort(key + batch)
    count = torch.bincount(batch, minlength=systems)
    rank = torch.arange(batch.shape[0], device=batch.device) - (count.cumsum(0) - count)[batch[order]]
    return order[rank < samples]
