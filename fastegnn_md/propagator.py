"""The learned map State → State after Δt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .config import PropagatorConfig
from .domain import Domain, centre_of_mass
from .errors import CompatibilityError, DataError
from .graph import EdgeList, bessel_basis, bond_distance, cutoff_envelope, neighbour_list
from .limits import JumpLimits
from .linear import LinearPredictor
from .models import build_model
from .nn.scatter import segment_mean
from .state import State
from .thermal import thermal_velocities
from .units import format_time

if TYPE_CHECKING:
    from .data import TrajectoryPairs


# Atoms that ranges and linear predictors are measured on, for systems of any size.
_SAMPLE_ATOMS = 500_000


class Residual(NamedTuple):
    """Errors of a batch in units of the residual scale of each element (predicted minus true)."""

    x: Tensor  # (N, 3)
    v: Tensor | None  # (N, 3)
    z: Tensor | None  # (B, C, 3), Å, in the frame of the positions


class Propagator(nn.Module):
    """Advance systems by the time step it was trained for.

    x′ = x + Δq,  √m Δq = √m Δq_linear + σ_q ŷ_q;  √m v′ = √m v_linear + σ_p ŷ_p,

    where the linear predictor (:mod:`fastegnn_md.linear`) and the scales σ belong to the element and ŷ is the network's
    output. In position mode Δq is the network's alone and v′ is drawn from the Maxwell-Boltzmann distribution.

    Parameters
    ----------
    config : PropagatorConfig
    timestep : float
        Δt in ps.
    domain : Domain
    seed : int
        Seed of the initial weights.

    Attributes
    ----------
    fingerprint : str
        SHA-256 of the training data, empty before training.
    metrics : dict
        Errors on held-out pairs, as reported at the end of training.
    """

    _species_index: Tensor

    def __init__(self, config: PropagatorConfig, timestep: float, domain: Domain, *, seed: int = 0):
        super().__init__()
        self.config, self.timestep, self.domain = config, timestep, domain
        self.species = domain.species
        self.fingerprint = ""
        self.metrics: dict[str, Any] = {}
        self.linear = LinearPredictor(len(self.species), timestep)
        full = config.mode == "full"
        with torch.random.fork_rng(devices=[]):  # the initial weights are the seed's, the caller's RNG stays as it is
            torch.manual_seed(seed)  # noqa: TID251 - nn.Module initialisers take no generator
            self.network = build_model(
                config.architecture,
                node_features=len(self.species) + 1,
                edge_features=config.radial_functions + 4,
                hidden=config.hidden,
                layers=config.layers,
                virtual_nodes=config.virtual_nodes,
                edge_dropping=config.edge_dropping,
                vector_channels=config.vector_channels if full else 0,
                virtual_geometry=not domain.periodic,
                average_neighbours=domain.neighbours if full else None,
            )
        index = torch.full((max(self.species) + 1,), -1, dtype=torch.int64)
        index[list(self.species)] = torch.arange(len(self.species))
        self.register_buffer("_species_index", index, persistent=False)

    @property
    def needs_forces(self) -> bool:
        """Whether a state must carry forces."""
        return self.config.forces

    @property
    def predicts_velocities(self) -> bool:
        """False in position mode, where velocities are redrawn."""
        return self.config.mode == "full"

    @property
    def uses_bonds(self) -> bool:
        """Whether a state must carry bonds."""
        return self.domain.bonds

    @property
    def periodic(self) -> bool:
        """Whether the map is for periodic systems (else for isolated ones)."""
        return self.domain.periodic

    @property
    def limits(self) -> JumpLimits:
        """Ranges of displacements and bond lengths in the training data, for guards."""
        return self.domain.limits

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.linear.scale.dtype

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the training data.

        Raises
        ------
        CompatibilityError
            Unknown element, mass outside the range of training, isolated instead of periodic or the reverse, mixed
            boundaries, bonds or forces missing.
        """
        self.domain.check(state, forces=self.needs_forces)

    @torch.no_grad()
    def forward(
        self, state: State, *, generator: torch.Generator | None = None, temperature: float | None = None
    ) -> State:
        """Advance a state by :attr:`timestep`.

        Parameters
        ----------
        state : State
            One system or a batch; not modified.
        generator : torch.Generator, optional
            Source of random numbers: velocities in position mode, and whatever a stochastic propagator draws.
        temperature : float, optional
            K; needed in position mode only.

        Returns
        -------
        State
            Positions (unwrapped) and velocities after Δt, without forces, in the dtype of ``state``.

        Raises
        ------
        CompatibilityError
            As :meth:`check`; or position mode without generator and temperature.
        StateError
            If the network gives values that are not finite.
        """
        self.check(state)
        displacement, velocities, _ = self._predict(state)
        if velocities is None:
            velocities = self._redraw(state, generator, temperature)
        return state.replace(
            positions=state.positions + displacement.to(state.dtype),
            velocities=velocities.to(state.dtype),
            forces=None,
        )

    def residual(self, start: State, end: State) -> Residual:
        """Errors of a batch of training pairs, with gradients.

        Parameters
        ----------
        start, end : State
            The same systems at t and t + Δt; ``end`` unwrapped relative to ``start``.
        """
        displacement, velocities, z = self._predict(start)
        weight = start.masses.sqrt()[:, None].to(self.dtype) / self.residual_scale(start)
        error_x = (displacement - (end.positions - start.positions).to(self.dtype)) * weight[:, :1]
        error_v = None
        if velocities is not None:
            error_v = (velocities - end.velocities.to(self.dtype)) * weight[:, 1:]
        return Residual(error_x, error_v, z)

    def residual_scale(self, state: State) -> Tensor:
        """Unit of :meth:`residual` for each atom, shape (N, 2): amu^½ Å and amu^½ Å/ps."""
        return self.linear.scale.index_select(0, self._species_index[state.numbers])

    def _predict(self, state: State) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Displacement (N, 3) in Å, velocity (N, 3) in Å/ps or None, virtual nodes (B, C, 3) in Å or None."""
        edges = neighbour_list(state, self.config.cutoff)
        if self.predicts_velocities:
            return self._move(state, edges)
        displacement, z = self._displace(state, edges)
        return displacement, None, z

    def _displace(self, state: State, edges: EdgeList) -> tuple[Tensor, Tensor | None]:
        """Position mode: the network of the paper, in Å, with velocities of zero."""
        origin, x = self._centred(state)
        output = self.network(
            x=x, v=torch.zeros_like(x), edge_vector=edges.vector.to(self.dtype), **self._invariants(state, edges)
        )
        return output.x - x, _shifted_back(output.z, origin)

    def _move(self, state: State, edges: EdgeList) -> tuple[Tensor, Tensor, Tensor | None]:
        """Full mode: the network's two vectors on top of the linear predictor, without the motion of the centre."""
        dtype, unit = self.dtype, self.config.cutoff
        drift = self._drift(state)
        moving = state.replace(velocities=state.velocities - drift).to(dtype=dtype)
        vectors = None
        if not self.needs_forces:
            moving = moving.replace(forces=None)
        elif moving.forces is not None:
            vectors = (moving.forces / (moving.masses.sqrt()[:, None] * self.domain.force_scale))[:, None]
        v = moving.velocities / self.domain.velocity_scale
        origin, x = self._centred(state)
        # In units of the cutoff squared lengths are of the order of one, which the first layers learn faster from.
        x = x / unit
        output = self.network(
            x=x,
            v=v,
            vectors=vectors,
            edge_vector=edges.vector.to(dtype) / unit,
            edge_weight=cutoff_envelope(edges.distance.to(dtype), unit)[:, 0],
            **self._invariants(state, edges),
        )
        species = self._species_index[state.numbers]
        displacement, velocities = self.linear(moving, species)
        scale = self.linear.scale.index_select(0, species) / moving.masses.sqrt()[:, None]
        displacement = self._without_drift(displacement + scale[:, :1] * (output.x - x), moving)
        velocities = self._without_drift(velocities + scale[:, 1:] * (output.v - v), moving)
        drift = drift.to(dtype)
        z = None if output.z is None else _shifted_back(output.z * unit, origin)
        return displacement + self.timestep * drift, velocities + drift, z

    def _invariants(self, state: State, edges: EdgeList) -> dict[str, Tensor]:
        """The inputs of the network that both modes share."""
        dtype = self.dtype
        element = nn.functional.one_hot(self._species_index[state.numbers], len(self.species)).to(dtype)
        radial = bessel_basis(edges.distance.to(dtype), self.config.cutoff, self.config.radial_functions)
        assert state.batch is not None  # set by State
        return {
            "h": torch.cat([element, state.masses.log()[:, None].to(dtype)], dim=1),
            "edge_index": edges.edge_index,
            "edge_attr": torch.cat([radial, self._hops(state, edges.edge_index)], dim=1),
            "batch": state.batch,
        }

    def _centred(self, state: State) -> tuple[Tensor | None, Tensor]:
        """Origin of each system (B, 3) and positions about it (N, 3).

        Atoms of periodic systems all get the origin: the network then sees displacements and edge vectors only, and
        nothing depends on the image an atom is given in.
        """
        if self.periodic:
            return None, torch.zeros_like(state.positions, dtype=self.dtype)
        assert state.batch is not None  # set by State
        origin = segment_mean(state.positions, state.batch, state.n_systems)
        return origin, (state.positions - origin.index_select(0, state.batch)).to(self.dtype)

    def _hops(self, state: State, index: Tensor) -> Tensor:
        if not self.uses_bonds or state.bonds is None:
            return torch.zeros(index.shape[1], 4, dtype=self.dtype, device=index.device)
        return bond_distance(index, state.bonds, state.n_atoms).to(self.dtype)

    def _drift(self, state: State) -> Tensor:
        """Velocity of the centre of mass of each atom's system, where the map commutes with it, else zero."""
        if not self.domain.conserves_momentum:
            return torch.zeros_like(state.velocities)
        return centre_of_mass(state.velocities, state)

    def _without_drift(self, vectors: Tensor, state: State) -> Tensor:
        return vectors - centre_of_mass(vectors, state) if self.domain.conserves_momentum else vectors

    def _redraw(self, state: State, generator: torch.Generator | None, temperature: float | None) -> Tensor:
        if generator is None or temperature is None:
            raise CompatibilityError(
                "this propagator predicts positions only and redraws velocities: give generator and temperature (K)"
            )
        return thermal_velocities(state.masses, temperature, generator)

    def save(self, path: str | Path) -> None:
        """Write weights and manifest to a safetensors file, replacing it only when the new one is complete."""
        from .checkpoint import save_propagator

        save_propagator(self, path)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Propagator:
        """Read a saved propagator; raises :class:`~fastegnn_md.errors.CheckpointError` for a file that is not one."""
        from .checkpoint import load_propagator

        return load_propagator(path).to(device)

    @classmethod
    def from_pairs(
        cls, pairs: TrajectoryPairs, config: PropagatorConfig, *, seed: int = 0, sample: int = 4096
    ) -> Propagator:
        """Make an untrained propagator that fits a data set.

        Masses, linear predictor, scales and limits come from about ``sample`` pairs drawn with ``seed``, fewer of large
        systems, and at least one of each system.

        Raises
        ------
        DataError
            If the configuration asks for velocities or forces that the pairs lack.
        """
        if config.mode == "full" and not pairs.has_velocities:
            raise DataError(
                "mode 'full' needs velocities, these pairs have none: harvest bursts, or use mode 'position'"
            )
        if config.forces and not pairs.has_forces:
            raise DataError(
                "forces=True needs forces at each frame, these pairs have none: harvest bursts, or forces=False"
            )
        start, end = pairs.batch(_sample(pairs, min(sample, max(1, _SAMPLE_ATOMS // pairs.n_atoms)), seed))
        domain = Domain.from_pairs(start, end, config)
        propagator = cls(config, pairs.lag, domain, seed=seed)
        species = propagator._species_index[start.numbers]
        drift = propagator._drift(start)
        propagator.linear.fit(
            start.replace(velocities=start.velocities - drift),
            end.replace(positions=end.positions - pairs.lag * drift, velocities=end.velocities - drift),
            species,
            velocities=config.mode == "full",
            forces=config.forces,
        )
        propagator.fingerprint = pairs.fingerprint
        return propagator

    def describe(self) -> str:
        """One line for people."""
        kind = "force-informed" if self.needs_forces else "force-free"
        kind = kind if self.predicts_velocities else "position-only"
        where = "periodic" if self.periodic else "isolated"
        return f"{kind} {self.config.architecture}, Δt = {format_time(self.timestep)}, {where}, elements {self.species}"


def _sample(pairs: TrajectoryPairs, count: int, seed: int) -> list[int]:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    system = pairs.frame_indices(order.numpy())[:, 0]
    one_of_each = np.unique(system, return_index=True)[1]
    return sorted({*order[:count].tolist(), *order[one_of_each].tolist()})


def _shifted_back(z: Tensor | None, origin: Tensor | None) -> Tensor | None:
    return None if z is None or origin is None else z + origin[:, None].to(z.dtype)
