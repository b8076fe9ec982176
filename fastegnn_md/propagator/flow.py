"""A stochastic map for lags of picoseconds: where a molecule may be after Δt, drawn by a learned flow.

Conditional flow matching (Lipman et al., ICLR 2023) on straight paths from noise about the present positions to those
Δt later. With positions x at t and y at t + Δt, turned onto x, and w running from 1 (noise) to 0 (data),

    y_w = (1 - w) y + w (x + σ ε),    dy/d(1 - w) = y - x - σ ε,

a network learns the velocity. It is preconditioned as in Karras et al. (NeurIPS 2022, "EDM"): with u = y_w - x,
s = 1 - w, the RMS displacement S of the atom's kind at the lag, and var = s² S² + w² σ²,

    velocity = (s S² - w σ²)/var u + S σ/√var F,

F is what the network says. F = 0 is the best that is linear in u: a Gaussian of width S about x.

With collective noise the same is said of modes in place of atoms. C is the covariance of the displacements of a
molecule, the noise has the covariance C + (0.3 Å)² 1, and along an eigenvector of C of eigenvalue λ, S² = λ and
σ² = λ + (0.3 Å)². Errors count by λ^¼: turns of half a molecule weigh more than the width of a bond.

A path ends at a draw. Corrections put it back on a path, at w = 0.25 with new noise, and follow that to its end. Of a
velocity without error they leave the distribution as it is; of a learned one they mend what the first path left wrong
in bonds and angles, as the noise that is added in the samplers of Karras et al. does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import CompatibilityError
from ..graph import bessel_basis, cutoff_envelope
from ..mechanics.motion import centre_of_mass
from ..models.fastegnn import FastEGNN
from ..nn.native.network import plan_for
from ..segments import Segments
from ..state import State
from .alignment import aligned
from .base import Propagator
from .draws import Generators, normal
from .handedness import handedness, volumes
from .modes import Modes, ModesOf
from .molecules import Molecules
from .prediction import Prediction, Residual

SMALLEST_NOISE = 0.3  # Å, of the noise about the present positions; atoms that hardly move get that much
_LATEST = 0.02  # of w in training: closer to the data the velocity of a path says little
_JITTER = 0.05  # Å, of the present positions in training: those of a roll-out are never those of a trajectory
_BEND = 1.4  # exponent of the grid of w, denser at the end: stiff bonds get their width in the last steps
_AGAIN = (0.25, 0.08, 0.0)  # w of a correction: noise that can move an atom between its places, not a torsion
_MOST = 10.0  # of F, which has unit variance: a network says more only where it was never trained, and then anything
_TIMES = 4  # features of a node that tell w
_INNER = 0.8  # share of the cutoff within which all edges count alike


class _Sides(NamedTuple):
    """Of the present positions, what tells left from right."""

    tetrahedra: Tensor  # (T, 5)
    volumes: Tensor  # (T,)
    frames: Tensor  # (N, 3, 3), where neighbours one, two and three bonds away lie


class _Place(NamedTuple):
    """What the field needs of the present positions, and does not change while a path is followed."""

    x: Tensor  # (N, 3), centred
    systems: Segments
    h: Tensor  # features of nodes but for the time
    edge_index: Tensor
    fixed: Tensor  # attributes of edges that do not change
    weight: Tensor
    spread: Tensor  # (N, 1), S
    noise: Tensor  # (N, 1), σ
    sides: _Sides | None
    modes: Modes | None  # that S and σ are of; None if they are of atoms

    def into(self, vectors: Tensor) -> Tensor:
        """Vectors (N, 3) of atoms in the coordinates of S and σ."""
        return vectors if self.modes is None else self.modes.into(vectors)

    def back(self, vectors: Tensor) -> Tensor:
        """Undo :meth:`into`."""
        return vectors if self.modes is None else self.modes.back(vectors)


class FlowPropagator(Propagator):
    """Draw positions Δt later from what positions lead to; velocities from the Maxwell-Boltzmann distribution.

    Molecules keep their centre of mass and, as nearly as a draw allows, their orientation: drift and rotation are taken
    out of the training data. Like hydrogens of a methyl group may exchange their places cyclically. The network is
    FastEGNN with vector channels; because the present positions enter as vectors beside those of the sample, mirror
    images give mirrored distributions and nothing else is assumed of handedness.

    Parameters and attributes are those of :class:`~fastegnn_md.Propagator`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("flow",)
    _keys: Tensor
    _spreads: Tensor

    def __init__(self, *given: Any, **keywords: Any):
        super().__init__(*given, **keywords)
        known = sorted(self.domain.environments)
        self.register_buffer("_keys", torch.tensor(known, dtype=torch.int64), persistent=False)
        spreads = torch.tensor([self.domain.environments[key] for key in known])
        self.register_buffer("_spreads", spreads, persistent=False)
        self._modes_of = ModesOf(self.domain.covariances, bonds=self.uses_bonds)
        # of the last batch
        self._molecules: tuple[tuple[Tensor | None, ...], Molecules, Tensor, Modes | None] | None = None

    @property
    def _more_features(self) -> int:
        return len(self.domain.environments) + _TIMES + self.config.handedness

    @property
    def _edge_features(self) -> int:
        return 2 * self.config.radial_functions + 4  # of the sample, and of the present positions

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the training data; see :meth:`LearnedMap.check`.

        Raises
        ------
        CompatibilityError
            Beside what all kinds refuse: if an atom is bonded as none was in training; with collective noise, if a
            molecule is another.
        """
        super().check(state)
        self._known(state)

    def _served(self) -> bool:
        network = self.network
        if not isinstance(network, FastEGNN) or network.shape is None:
            return False
        return plan_for(network.shape, network.virtual_features) is not None

    def measure(self, start: State, end: State) -> None:
        """Nothing is fitted beside the domain."""

    def residual_scale(self, state: State) -> Tensor:
        """Ones: errors of the field have no unit."""
        return torch.ones(state.n_atoms, 2, dtype=self.dtype, device=state.device)

    def residual(self, start: State, end: State, *, generator: torch.Generator | None = None) -> Residual:
        """Errors of F at places drawn on the paths of a batch of pairs, shape (N, 3) without unit.

        Parameters
        ----------
        start, end : State
            The same molecules at t and t + Δt, as they lie in the data.
        generator : torch.Generator, optional
            On the CPU; by default always the same draws, for validation.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        target, found = self._matched(start, end, generator)
        return Residual(found - target, None, None)

    @torch.no_grad()
    def targets(self, start: State, end: State) -> Tensor:
        """What F should be where :meth:`residual` asks by default, (N, 3): the error of a Gaussian about x."""
        return self._matched(start, end, torch.Generator().manual_seed(0), network=False)[0]

    def _matched(
        self, start: State, end: State, generator: torch.Generator, *, network: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What F should be and what it is, at one drawn w for each molecule."""
        molecules, _, _ = self._known(start)
        device, dtype = start.device, self.dtype
        # Drawn on the CPU in one go, so that every device draws the same.
        draws = torch.randn(start.n_atoms, 6, generator=generator).to(device, dtype)
        w = _LATEST + (1 - _LATEST) * torch.rand(start.n_systems, 1, generator=generator)
        jitter = _JITTER * torch.rand(start.n_systems, 1, generator=generator)
        systems = Segments(start.batch, start.n_systems)  # type: ignore[arg-type]
        w, jitter = (systems.spread(one.to(device, dtype)) for one in (w, jitter))
        start = start.replace(positions=start.positions + (jitter * draws[:, 3:]).to(start.dtype))
        place = self._place(start)
        moved = (aligned(start, end, molecules.rotors).positions - start.positions).to(dtype)
        noise = _centred(place.back(place.noise * place.into(draws[:, :3])), start)
        u = (1 - w) * moved + w * noise
        var, along, across = _coefficients(w, place)
        target = (place.into(moved - noise) - along * place.into(u)) / across
        found = place.into(self._network(place, u, var, w)) if network else target
        if place.modes is None:
            return target, found
        weight = place.modes.weight.sqrt()
        return weight * target, weight * found

    @torch.no_grad()
    def _predict(self, state: State, generator: Generators | None = None) -> Prediction:
        """A draw; without a generator the most that is known without chance, no motion."""
        if generator is None:
            return Prediction(torch.zeros_like(state.positions, dtype=self.dtype), None)
        return Prediction(self.displacements(state, generator), None)

    @torch.no_grad()
    def displacements(self, state: State, generator: Generators, *, network: bool = True) -> Tensor:
        """Displacements (N, 3) of a draw, Å; without the network those of a Gaussian as wide as the training data."""
        place, steps = self._place(state), self.config.sampling_steps

        def noise() -> Tensor:
            return _centred(place.back(place.noise * place.into(normal(state, generator, self.dtype))), state)

        def follow(u: Tensor, grid: Sequence[float]) -> Tensor:
            for now, then in itertools.pairwise(grid):
                velocity = self._velocity(place, u, now, state, network)
                ahead = u + (now - then) * velocity
                if then > 0:  # Heun's method; the last step is Euler's, the velocity at w = 0 was never learned
                    ahead = u + 0.5 * (now - then) * (velocity + self._velocity(place, ahead, then, state, network))
                u = ahead
            return u

        u = follow(noise(), [(1 - k / steps) ** _BEND for k in range(steps + 1)])
        for _ in range(self.config.corrections):
            u = follow((1 - _AGAIN[0]) * u + _AGAIN[0] * noise(), _AGAIN)
        return u

    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """A draw from what the state leads to; see :meth:`LearnedMap.predict`.

        Raises
        ------
        CompatibilityError
            As :meth:`check`; or without a generator.
        """
        self._check_device(state)
        self.check(state)
        if generator is None:
            raise CompatibilityError("a jump of kind 'flow' is drawn: give a generator")
        return self._predict(state, generator)

    def _velocity(self, place: _Place, u: Tensor, w: float, state: State, network: bool = True) -> Tensor:
        times = u.new_full((len(u), 1), w)
        var, along, across = _coefficients(times, place)
        velocity = along * place.into(u)
        if network:
            found = place.into(self._network(place, u, var, times))
            velocity = velocity + across * found.clamp(-_MOST, _MOST)
        return _centred(place.back(velocity), state)

    def _network(self, place: _Place, u: Tensor, var: Tensor, w: Tensor) -> Tensor:
        """F (N, 3) of atoms at displacements u (N, 3) from the present positions, at w (N, 1)."""
        cutoff, y = self.config.cutoff, place.x + u
        vector = y.index_select(0, place.edge_index[0]) - y.index_select(0, place.edge_index[1])
        radial = bessel_basis(vector.norm(dim=1, keepdim=True).clamp(min=1e-3), cutoff, self.config.radial_functions)
        times = torch.cat([w, w.sqrt(), torch.cos(torch.pi * w), torch.cos(2 * torch.pi * w)], dim=1)
        h, v, vectors = [place.h, times], place.back(place.into(u) / var.sqrt()), None
        if place.sides is not None:
            side, way = handedness(y, place.sides.tetrahedra, place.sides.volumes)
            h.append(side)
            vectors = torch.cat([way[:, None], place.sides.frames], dim=1)
        output = self.network(
            x=y / cutoff,
            v=v,
            h=torch.cat(h, dim=1),
            edge_index=place.edge_index,
            edge_attr=torch.cat([radial, place.fixed], dim=1),
            edge_vector=vector / cutoff,
            edge_weight=place.weight,
            batch=place.systems.index,
            systems=place.systems.size,
            vectors=vectors,
        )
        found: Tensor = output.v - v
        return found

    def _place(self, state: State) -> _Place:
        molecules, kinds, modes = self._known(state)
        cutoff, dtype = self.config.cutoff, self.dtype
        systems = Segments(state.batch, state.n_systems)  # type: ignore[arg-type]
        x = (state.positions - centre_of_mass(state.positions, state)).to(dtype)
        index, hops = molecules.edge_index, molecules.hops
        distance = (x.index_select(0, index[0]) - x.index_select(0, index[1])).norm(dim=1, keepdim=True)
        near = distance[:, 0] < cutoff
        if not bool(near.all()):
            index, hops, distance = index[:, near], hops[near], distance[near]
        radial = bessel_basis(distance, cutoff, self.config.radial_functions)
        weight = cutoff_envelope((distance - _INNER * cutoff).clamp(min=0), (1 - _INNER) * cutoff)[:, 0]
        alike = torch.nn.functional.one_hot(kinds, len(self._keys)).to(dtype)
        if modes is None:
            spread = self._spreads.to(dtype).index_select(0, kinds)[:, None]
            noise = spread.clamp(min=SMALLEST_NOISE)
        else:
            spread, noise = modes.variance.sqrt(), (modes.variance + SMALLEST_NOISE**2).sqrt()
        return _Place(
            x,
            systems,
            torch.cat([self._features(self._species_index[state.numbers], state.masses), alike], dim=1),
            index,
            torch.cat([radial, hops.to(dtype)], dim=1),
            weight,
            spread,
            noise,
            self._sides(molecules, x, state.numbers),
            modes,
        )

    def _sides(self, molecules: Molecules, x: Tensor, numbers: Tensor) -> _Sides | None:
        if not self.config.handedness:
            return None
        found = molecules.tetrahedra
        return _Sides(found, volumes(x, found), molecules.frames(x, numbers))

    def _known(self, state: State) -> tuple[Molecules, Tensor, Modes | None]:
        """The graphs of a batch, the place of each atom's surroundings among those of training, shape (N,), modes."""
        of = (state.numbers, state.bonds, state.batch)
        if self._molecules is not None and all(a is b for a, b in zip(self._molecules[0], of, strict=True)):
            return self._molecules[1:]
        molecules = Molecules.of(state, bonds=self.uses_bonds)
        kinds = torch.searchsorted(self._keys, molecules.keys).clamp(max=len(self._keys) - 1)
        unknown = self._keys[kinds] != molecules.keys
        if bool(unknown.any()):
            atom = int(unknown.nonzero()[0])
            how = "has another place in its molecule than" if not self.uses_bonds else "is bonded otherwise than"
            raise CompatibilityError(
                f"atom {atom} (atomic number {int(state.numbers[atom])}) {how} any atom of the training data; a model "
                "of kind 'flow' knows the molecules it was trained on: train it with this one"
            )
        modes = self._modes_of(state, self.dtype) if self.config.collective else None
        self._molecules = of, molecules, kinds, modes
        return molecules, kinds, modes


def _coefficients(w: Tensor, place: _Place) -> tuple[Tensor, Tensor, Tensor]:
    """The variance of u, and what multiplies u and F in the velocity, each (N, 1)."""
    s, spread, noise = 1 - w, place.spread.square(), place.noise.square()
    var = s.square() * spread + w.square() * noise
    return var, (s * spread - w * noise) / var, place.spread * place.noise / var.sqrt()


def _centred(vectors: Tensor, state: State) -> Tensor:
    return vectors - centre_of_mass(vectors.to(state.dtype), state).to(vectors.dtype)
