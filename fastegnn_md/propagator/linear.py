"""The best linear predictor of each element, whose residual the network learns.

For mass m, velocity v and force f, with coefficients a, b, c, d per element fitted by least squares,

    Δq = a v Δt + b f Δt²/m        v′ = c v + d f Δt/m

b and d are zero for force-free propagators; for kind "position" all four are, as velocities are redrawn. As Δt → 0, a
and c tend to one (free flight).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..state import State


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

    def forward(
        self, velocities: Tensor, forces: Tensor | None, masses: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predicted displacement (N, 3) in Å and velocity (N, 3) in Å/ps.

        Parameters
        ----------
        velocities : Tensor, shape (N, 3), Å/ps
        forces : Tensor, shape (N, 3), amu Å/ps², or None
        masses : Tensor, shape (N,), amu
        species : Tensor of int64, shape (N,)
            Index of the element of each atom.
        """
        a, b, c, d = self.coefficients.index_select(0, species).split(1, dim=1)
        displacement, velocity = a * self.timestep * velocities, c * velocities
        if forces is not None:
            impulse = self.timestep * forces / masses[:, None]
            displacement, velocity = displacement + b * self.timestep * impulse, velocity + d * impulse
        return displacement, velocity

    @torch.no_grad()
    def fit(self, start: State, end: State, species: Tensor, *, velocities: bool, forces: bool) -> None:
        """Fit coefficients and scales to one batch of pairs; see :class:`LeastSquares`."""
        fit = LeastSquares(len(self.scale), self.timestep, velocities=velocities, forces=forces)
        fit.add(start, end, species)
        self.coefficients.copy_(fit.solve())
        displacement, velocity = self(start.velocities, start.forces if forces else None, start.masses, species)
        root = start.masses.double().sqrt()[:, None]
        left = (
            root * (end.positions.double() - start.positions.double() - displacement),
            root * (end.velocities.double() - velocity),
        )
        for index in range(len(self.scale)):
            for kind, residual in enumerate(left):
                # An element that moves exactly linearly would divide by zero; its residual then counts in plain units.
                rms = residual[species == index].square().mean().sqrt()
                self.scale[index, kind] = rms if float(rms) > 1e-12 else 1.0


class LeastSquares:
    """Normal equations of the coefficients of each element, summed batch by batch in float64.

    Parameters
    ----------
    species : int
        Number of elements S.
    timestep : float
        Δt in ps.
    velocities, forces : bool
        Which inputs the predictor may use.
    """

    def __init__(self, species: int, timestep: float, *, velocities: bool, forces: bool):
        self.timestep = timestep
        # Columns of the coefficients (a, b, c, d) that belong to the inputs in use: of Δq, and of v′ two further on.
        self.used: list[int] = [column for column, wanted in enumerate((velocities, velocities and forces)) if wanted]
        size = len(self.used)
        self._matrix = torch.zeros(species, size, size, dtype=torch.float64)
        self._vector = torch.zeros(species, size, 2, dtype=torch.float64)

    def add(self, start: State, end: State, species: Tensor) -> None:
        """Add the pairs of a batch; ``species`` (N,) is the index of the element of each atom."""
        if not self.used:
            return
        dt = self.timestep
        root = start.masses.double().sqrt()[:, None]
        inputs = [root * start.velocities.double() * dt]
        if len(self.used) == 2:
            assert start.forces is not None  # checked by who asks for forces
            inputs.append(start.forces.double() * dt * dt / root)
        moved = root * (end.positions.double() - start.positions.double())
        targets = torch.stack([moved, root * end.velocities.double() * dt], dim=-1)
        for index in range(len(self._matrix)):
            chosen = species == index
            columns = torch.stack([column[chosen].flatten() for column in inputs], dim=1)
            self._matrix[index] += columns.T @ columns
            self._vector[index] += columns.T @ targets[chosen].flatten(0, 1)

    def solve(self) -> Tensor:
        """Coefficients, shape (S, 4), float64; zero for inputs that are not used."""
        coefficients = torch.zeros(len(self._matrix), 4, dtype=torch.float64)
        if self.used:
            # A pseudo-inverse, as an input may be zero throughout (an element without forces).
            solution = torch.linalg.pinv(self._matrix, hermitian=True) @ self._vector
            for row, column in enumerate(self.used):
                coefficients[:, column], coefficients[:, column + 2] = solution[:, row, 0], solution[:, row, 1]
        return coefficients
