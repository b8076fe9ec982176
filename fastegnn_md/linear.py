"""The best linear predictor of each element, whose residual the network learns.

For mass m, velocity v and force f, with coefficients a, b, c, d per element fitted by least squares,

    Δq = a v Δt + b f Δt²/m        v′ = c v + d f Δt/m

b and d are zero for force-free propagators; in position mode all four are, as velocities are redrawn. As Δt → 0, a and
c tend to one (free flight).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .state import State


class LinearPredictor(nn.Module):
    """Coefficients per element and the scale of what they leave unexplained.

    Parameters
    ----------
    species : int
        Number of elements S.
    timestep : float
        Δt in ps.

    Attributes
    ----------
    coefficients : Tensor, shape (S, 4)
        a, b, c, d of the module's formula.
    scale : Tensor, shape (S, 2)
        RMS residual of Δq in amu^½ Å and of v′ in amu^½ Å/ps, both mass-scaled: √m times the residual.
    """

    coefficients: Tensor
    scale: Tensor

    def __init__(self, species: int, timestep: float):
        super().__init__()
        self.timestep = timestep
        self.register_buffer("coefficients", torch.zeros(species, 4))
        self.register_buffer("scale", torch.ones(species, 2))

    def forward(self, state: State, species: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted displacement (N, 3) in Å and velocity (N, 3) in Å/ps."""
        a, b, c, d = self.coefficients.index_select(0, species).split(1, dim=1)
        displacement, velocity = a * self.timestep * state.velocities, c * state.velocities
        if state.forces is not None:
            impulse = self.timestep * state.forces / state.masses[:, None]
            displacement, velocity = displacement + b * self.timestep * impulse, velocity + d * impulse
        return displacement, velocity

    @torch.no_grad()
    def fit(self, start: State, end: State, species: Tensor, *, velocities: bool, forces: bool) -> None:
        """Fit by least squares in float64.

        Parameters
        ----------
        start, end : State
            Batches of pairs.
        species : Tensor of int64, shape (N,)
            Index of the element of each atom.
        velocities, forces : bool
            Which inputs may be used.
        """
        dt = self.timestep
        root = start.masses.double().sqrt()[:, None]
        v = start.velocities.double()
        columns: list[Tensor] = []
        if velocities:
            columns.append(root * v * dt)
        if forces and start.forces is not None:
            columns.append(root * dt * dt * start.forces.double() / start.masses.double()[:, None])
        targets = (root * (end.positions.double() - start.positions.double()), root * end.velocities.double() * dt)
        for index in range(self.coefficients.shape[0]):
            of_element = species == index
            for kind, target in enumerate(targets):
                y = target[of_element].reshape(-1)
                used: list[Tensor] = []
                if columns and (velocities or kind == 0):
                    matrix = torch.stack([column[of_element].reshape(-1) for column in columns], dim=1)
                    used = list(torch.linalg.lstsq(matrix, y[:, None], driver="gelsd").solution[:, 0])
                    y = y - matrix @ torch.stack(used)
                first = 2 * kind + (0 if velocities else 1)
                for offset, value in enumerate(used):
                    self.coefficients[index, first + offset] = value
                unit = 1.0 if kind == 0 else dt
                # An element that moves exactly linearly would divide by zero; its residual then counts in plain units.
                self.scale[index, kind] = (y.square().mean().sqrt() / unit).clamp(min=1e-12)
