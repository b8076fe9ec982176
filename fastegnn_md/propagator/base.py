"""What propagators of every kind share: a network, what it corrects, whom it is for, its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, StateError
from ..graph import BondDistance, EdgeList, NeighbourSearch, one_hot
from ..mechanics.motion import centre_of_mass
from ..nn.compiler import require_compiler, require_headers
from ..nn.messages import cpu as cpu_kernel
from ..segments import Segments
from ..state import State
from ..units import format_time
from .catalogue import find_model
from .compiled import Atoms, CompiledMove, Move, Near
from .config import PropagatorConfig
from .domain import Domain
from .draws import Generators
from .edge_inputs import edge_inputs
from .file import manifest_of, read_model, write_model
from .learned_map import LearnedMap
from .linear import LinearPredictor
from .network import build_network
from .prediction import Prediction, Residual, Trust
from .provenance import Provenance, symbol_of
from .recorded import Recorder
from .surroundings import Surroundings

_CLASSES: dict[str, type[Propagator]] = {}  # by kind; a subclass enters itself when it is defined


class Propagator(LearnedMap):
    """A learned map that is one network: advances systems by the time step it was trained for.

    Each kind has a class of its own, which :meth:`build` finds; :meth:`load` reads any.

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
    provenance : Provenance or None
        What the training data were; None where the file does not say.
    surroundings : Surroundings or None
        Of atoms in the training data; None where they were not measured.
    kinds : tuple of str
        Kinds of a configuration that this class serves.
    """

    config: PropagatorConfig
    timestep: float
    domain: Domain
    kinds: ClassVar[tuple[str, ...]] = ()
    _species_index: Tensor

    def __init__(self, config: PropagatorConfig, timestep: float, domain: Domain, *, seed: int = 0):
        super().__init__()
        if config.kind not in self.kinds:
            raise ConfigError(
                f"{type(self).__name__} has no kind {config.kind!r}, it has {', '.join(self.kinds) or 'none'}; make "
                "propagators with Propagator.build"
            )
        self.config, self.timestep, self.domain = config, timestep, domain
        self.species: tuple[int, ...] = domain.species
        self.fingerprint = ""
        self.provenance: Provenance | None = None
        self.surroundings: Surroundings | None = None
        self._checked: tuple[Tensor | None, ...] | None = None  # numbers, masses and pbc that were found fit
        self._neighbours = NeighbourSearch(config.cutoff)
        self._bond_distance: BondDistance | None = None  # of the last system
        self._compiled: CompiledMove | None = None
        self._recorder: Recorder | None = None
        self.metrics: dict[str, Any] = {}
        self.linear: LinearPredictor = LinearPredictor(len(self.species), timestep)
        with torch.random.fork_rng(devices=[]):  # the initial weights are the seed's, the caller's RNG stays as it is
            torch.manual_seed(seed)  # noqa: TID251 - nn.Module initialisers take no generator
            width = len(self.species) + 1 + self._more_features
            made = build_network(config, domain, node_features=width, edge_features=self._edge_features)
            self.network: torch.nn.Module = made
        index = torch.full((max(self.species) + 1,), -1, dtype=torch.int64)
        index[list(self.species)] = torch.arange(len(self.species))
        self.register_buffer("_species_index", index, persistent=False)

    @property
    def _more_features(self) -> int:
        """Features of a node beside element and mass."""
        return 0

    @property
    def _edge_features(self) -> int:
        """Radial functions and distance along bonds."""
        return self.config.radial_functions + 4

    @property
    def skin(self) -> float:
        """Verlet skin of the neighbour list in Å; see :class:`~fastegnn_md.graph.NeighbourSearch`.

        By default 0, for kind "kick-drift" 0.5.
        """
        return self._neighbours.skin

    @skin.setter
    def skin(self, skin: float) -> None:
        self._neighbours = NeighbourSearch(self.config.cutoff, skin)

    @property
    def audited(self) -> bool:  # type: ignore[override]  # of other maps a plain attribute
        """False before training: what jumps do to the energy is then no question."""
        return bool(self.metrics)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.linear.scale.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.linear.scale.device

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the training data; see :meth:`LearnedMap.check`."""
        # Jumps of the same atoms share these tensors, and looking into them would wait for a GPU each time.
        system = (state.numbers, state.masses, state.pbc)
        lacking = (self.uses_bonds and state.bonds is None) or (
            self.wants_forces is not None and self.forces_of(state) is None
        )
        if (
            lacking
            or self._checked is None
            or any(one is not other for one, other in zip(system, self._checked, strict=True))
        ):
            super().check(state)
            self._checked = system

    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """What the network says of a state on the device of the weights; see :meth:`LearnedMap.predict`."""
        self._check_device(state)
        self.check(state)
        if not torch.is_grad_enabled() and (found := self._jump(state)) is not None:
            return found
        prediction = self._predict(state)
        if self.surroundings is None or prediction.edges is None:
            return prediction
        return prediction._replace(trust=Trust(unlike=self.surroundings(state.numbers, prediction.edges)))

    def _check_device(self, state: State) -> None:
        if state.device != self.device:
            raise StateError(
                f"the state is on {state.device}, the propagator on {self.device}; move one of them, for example "
                f"state.to({str(self.device)!r})"
            )

    @torch.no_grad()
    def with_trust(
        self, state: State, *, generator: Generators | None = None, temperature: float | None = None
    ) -> tuple[State, Trust]:
        """Where a state comes to, and how far that can be trusted; see :meth:`LearnedMap.with_trust`."""
        if self._recorder is not None and state.device == self.device:
            self.check(state)
            ended = self._recorder(self, state)
            if ended is not None:
                return ended
        return super().with_trust(state, generator=generator, temperature=temperature)

    @torch.no_grad()
    def virtual_nodes(self, state: State) -> Tensor | None:
        """Where the virtual nodes come to lie at the end of a step, shape (B, C, 3), Å; None without such nodes.

        Raises
        ------
        CompatibilityError
            As :meth:`check`.
        """
        self.check(state)
        return self._predict(state).z

    @torch.no_grad()
    def clusters(self, state: State) -> Tensor | None:
        """Share of each atom in each cluster, shape (N, P), for networks that pool; None for others.

        Raises
        ------
        CompatibilityError
            As :meth:`check`.
        """
        self.check(state)
        seen: list[Tensor | None] = []
        hook = self.network.register_forward_hook(lambda module, inputs, output: seen.append(output.clusters))
        try:
            self._predict(state)
        finally:
            hook.remove()
        return seen[0]

    def compile(self) -> None:
        """Translate the jump, where that is worth waiting for.

        On the CPU nothing is left to do for FastEGNN: its jumps are calls of the C++ library
        (:mod:`fastegnn_md.nn.native`) without being asked. Where the library does not serve (no compiler, another
        architecture) ``torch.compile`` translates the jump of a small system, which takes half a minute in the first
        jump, and the edges of larger ones are left to a kernel of their own
        (:func:`fastegnn_md.nn.messages.cpu.build`). On a GPU jumps of up to 2,048 atoms, or of as many pairs in
        replicas of one size, are recorded as CUDA graphs, a fraction of a second for each system; torch.compile serves
        the others.

        Raises
        ------
        ConfigError
            If there is no C++ compiler for a propagator on the CPU, or no Python.h; or if the locale is not UTF-8.
        MissingDependencyError
            If ninja (extra ``compile``) is not installed, for a propagator on the CPU.
        """
        on_cpu = self.linear.scale.device.type == "cpu"
        if on_cpu and self._served():
            return
        require_compiler(on_cpu)
        arithmetic = self._arithmetic()
        if on_cpu:
            if arithmetic is not None:
                require_headers()
            cpu_kernel.build()
        if arithmetic is not None:
            self._compiled = CompiledMove(arithmetic, self.config.cutoff, on_cpu=on_cpu)
            self._recorder = None if on_cpu else Recorder(list(self.parameters()))

    def _apply(self, *given: Any, **keywords: Any) -> Propagator:
        # On its way to another device or precision what was recorded loses its weights.
        if self._recorder is not None:
            self._recorder = Recorder(list(self.parameters()))
        return super()._apply(*given, **keywords)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has weights of its own to compile, and lists of neighbours are found anew.
        return {
            **super().__getstate__(),
            "_compiled": None,
            "_recorder": None,
            "_neighbours": NeighbourSearch(self.config.cutoff, self.skin),
        }

    def residual(self, start: State, end: State, *, generator: torch.Generator | None = None) -> Residual:
        """Errors of a batch of training pairs, which are not checked; see :meth:`LearnedMap.residual`."""
        return self._predict(start).residual(start, end, self.residual_scale(start))

    def residual_scale(self, state: State) -> Tensor:
        """Unit of :meth:`residual` for each atom, shape (N, 2): amu^½ Å and amu^½ Å/ps."""
        return self.linear.scale.index_select(0, self._species_index[state.numbers])

    def _predict(self, state: State) -> Prediction:
        """What the network says of a state that was checked."""
        raise NotImplementedError

    def _whole(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, atoms: Atoms, near: Near
    ) -> tuple[Tensor, Tensor]:
        """Displacement and velocities (N, 3) of kinds that predict both, without a look at a value."""
        raise NotImplementedError

    def _jump(self, state: State) -> Prediction | None:
        """The same without gradients, as one call of the C++ library, which says nothing of virtual nodes.

        None where it does not serve.
        """
        return None

    def _served(self) -> bool:
        """Whether the C++ library serves jumps on the CPU, so that nothing is left to translate."""
        return False

    def _arithmetic(self) -> Move | None:
        """What is compiled: from tensors to tensors; None if nothing is."""
        return None

    def _translated(self, move: Move, edges: EdgeList, atoms: int) -> tuple[Move, EdgeList]:
        """The arithmetic and its edges, or its translation where there is one that is faster."""
        if self._compiled is None or not self._compiled.pays(edges):
            return move, edges
        return self._compiled, self._compiled.sized(edges, atoms)

    def _invariants(
        self, species: Tensor, masses: Tensor, systems: Segments, edges: EdgeList, hops: Tensor
    ) -> dict[str, Any]:
        """The inputs of the network that all kinds share; those of edges beside ``edge_index`` follow the envelope."""
        dtype, config = self.dtype, self.config
        return {
            "h": self._features(species, masses),
            "edge_index": edges.edge_index,
            **edge_inputs(edges, hops, config.cutoff, config.radial_functions, dtype),
            "batch": systems.index,
            "systems": systems.size,
        }

    def _features(self, species: Tensor, masses: Tensor) -> Tensor:
        """Element and mass of each atom, as the network sees them."""
        element = one_hot(species, len(self.species)).to(self.dtype)
        return torch.cat([element, masses.log()[:, None].to(self.dtype)], dim=1)

    def _hops(self, state: State, edges: EdgeList) -> Tensor:
        """Distance along bonds, one-hot, shape (E, 4); zeros for propagators without bonds."""
        index = edges.edge_index
        if not self.uses_bonds or state.bonds is None:
            return torch.zeros(index.shape[1], 4, dtype=torch.int64, device=index.device)
        if self._bond_distance is None or not self._bond_distance.fits(state.bonds, state.n_atoms):
            self._bond_distance = BondDistance(state.bonds, state.n_atoms)
        return self._bond_distance(index)

    def save(self, path: str | Path) -> None:
        """Write weights and manifest to a safetensors file, replacing it only when the new one is complete.

        Raises
        ------
        CheckpointError
            If the folder is missing or read-only, or the disk is full.
        """
        weights, reach = self.state_dict(), None
        if self.surroundings is not None:
            weights, reach = weights | self.surroundings.tensors(), self.surroundings.shape.reach
        manifest = manifest_of(
            self.config,
            self.timestep,
            self.domain,
            self.dtype,
            fingerprint=self.fingerprint,
            metrics=self.metrics,
            provenance=self.provenance,
            surroundings_reach=reach,
        )
        write_model(path, manifest, weights)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> Propagator:
        """Read a saved propagator; see :func:`fastegnn_md.load`."""
        return load(path, device)

    @staticmethod
    def build(config: PropagatorConfig, timestep: float, domain: Domain, *, seed: int = 0) -> Propagator:
        """An untrained propagator of the class that its kind asks for; parameters are those of the class."""
        return _CLASSES[config.kind](config, timestep, domain, seed=seed)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _CLASSES.update(dict.fromkeys(cls.kinds, cls))

    @torch.no_grad()
    def measure(self, start: State, end: State) -> None:
        """Fit the linear predictor, and with it the residual scale, to one batch of pairs."""
        drift = centre_of_mass(start.velocities, start)
        if not self.domain.conserves_momentum:
            drift = torch.zeros_like(drift)
        self.linear.fit(
            start.replace(velocities=start.velocities - drift, forces=self.forces_of(start)),
            end.replace(positions=end.positions - self.timestep * drift, velocities=end.velocities - drift),
            self._species_index[start.numbers],
            velocities=self.predicts_velocities,
            forces=self.wants_forces is not None,
        )

    def describe(self) -> str:
        """One line for people."""
        where = "periodic" if self.periodic else "isolated"
        about = f"Δt = {format_time(self.timestep)}, {where}, {', '.join(map(symbol_of, self.species))}"
        return f"{self.kind} {self.config.architecture}, {about}"


def load(path: str | Path, device: torch.device | str = "cpu") -> Propagator:
    """Read a saved propagator.

    Parameters
    ----------
    path : str or Path
        A file, or the name of a model that comes with the package (``fastegnn-md models`` lists them).
    device : torch.device or str
        Where it is to compute.

    Returns
    -------
    Propagator
        Of the class that its kind asks for, in evaluation mode.

    Raises
    ------
    CheckpointError
        If there is no such file or name, or the file is not a propagator.
    """
    propagator, surroundings, manifest = read_model(find_model(path), Propagator.build)
    propagator.fingerprint, propagator.metrics = manifest.training_data, manifest.metrics
    propagator.provenance, propagator.surroundings = manifest.provenance, surroundings
    return propagator.eval().to(device)
