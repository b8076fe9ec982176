"""What the training data of a propagator were: what is compared with a system before it jumps."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from scipy import sparse
from torch import Tensor

from ..mechanics.fragments import molecules
from ..state import State
from ..units import BOLTZMANN
from .limits import bond_vectors

# More kinds of system than this and a propagator is for any of the kind.
_MANY = 8
# Å within a jump: constraints leave less, free distances change by more in all but a few percent of jumps.
_HELD = 2e-4
_LOOKED_AT = 200  # systems whose molecules are counted
_ROUNDS = 12  # of the labels of a bond graph: as far along bonds as they tell atoms apart
_AMU_PER_CUBIC_ANGSTROM = 1.66053907  # g/cm³


class SystemKind(BaseModel):
    """One kind of system.

    Attributes
    ----------
    formula : str
        Elements in the order of Hill; of a periodic system in lowest terms.
    bonds : str or None
        Digest of the graph of bonds, which does not depend on the order of atoms; None where bonds are not known, and
        for periodic systems.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    formula: str
    bonds: str | None = None

    @classmethod
    def of(cls, state: State) -> SystemKind:
        """The kind of one system."""
        counts = Counter(state.numbers.tolist())
        if state.periodic:
            divisor = math.gcd(*counts.values())
            counts = Counter({number: count // divisor for number, count in counts.items()})
        known = state.bonds is not None and not state.periodic
        return cls(formula=_formula(counts), bonds=_graph(state.numbers, state.bonds) if known else None)


class HeldDistances(BaseModel):
    """Distances of one kind that constraints hold.

    Attributes
    ----------
    elements : (int, int)
        Atomic numbers, the lower first.
    apart : int
        Bonds between the two atoms: 1, or 2 across an angle.
    share : float
        Share of these distances that do not change.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    elements: tuple[int, int]
    apart: int
    share: float


class Provenance(BaseModel):
    """Where a propagator comes from and what it has seen.

    Attributes
    ----------
    systems : tuple of SystemKind
        Kinds of system; empty for more than eight: the propagator is for many.
    held_distances : tuple of HeldDistances
        For each kind of bonded distance, the share that constraints held. Empty where bonds are not known.
    held_atoms : bool
        Whether some atoms never moved.
    temperature_K : (float, float) or None
        Lowest and highest kinetic temperature, without the fluctuations of small systems; None without velocities.
    volume_per_atom : (float, float) or None
        Å³, lowest and highest; None for isolated systems.
    density : (float, float) or None
        g/cm³.
    engine, theory : str
        What computed the forces; empty where the data do not say.
    charge : float or None
        Total charge, e; None where the data do not say.
    multiplicity : int or None
        2S + 1 of the electrons, 1 of closed shells; None where the data do not say.
    atoms : (int, int) or None
        Fewest and most atoms of an isolated system; None for periodic ones, and where nobody counted.
    molecules : int or None
        Most molecules in an isolated system, by its distances; None where they do not tell, or nobody counted.
    selection : str
        MDAnalysis selection of the atoms.
    package : str
        Version of this package, and the commit where it was installed from one.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    systems: tuple[SystemKind, ...] = ()
    held_distances: tuple[HeldDistances, ...] = ()
    held_atoms: bool = False
    temperature_K: tuple[float, float] | None = None
    volume_per_atom: tuple[float, float] | None = None
    density: tuple[float, float] | None = None
    engine: str = ""
    theory: str = ""
    charge: float | None = None
    multiplicity: int | None = None
    atoms: tuple[int, int] | None = None
    molecules: int | None = None
    selection: str = ""
    package: str = ""

    @classmethod
    def measure(
        cls, start: State, end: State, sources: Iterable[Mapping[str, Any]] = (), package: str = ""
    ) -> Provenance:
        """Measure a batch of training pairs, and take over what their sources say of themselves.

        Parameters
        ----------
        start, end : State
            The same systems before and after a jump.
        sources : iterable of mapping
            Provenance of the stores; its keys ``engine``, ``theory``, ``charge``, ``multiplicity``,
            ``temperature`` and ``selection`` are read.
        package : str
            Version of this package.
        """
        sources = list(sources)
        kinds = _kinds(start)
        moved = (end.positions - start.positions).abs().sum(1) + start.velocities.abs().sum(1)
        volumes = densities = sizes = None
        if start.periodic:
            assert start.cell is not None and start.batch is not None  # set by State
            volume = torch.linalg.det(start.cell.double()).abs()
            counts = torch.bincount(start.batch, minlength=start.n_systems)
            mass = torch.zeros_like(volume).index_add_(0, start.batch, start.masses.double())
            volumes = _range(volume / counts)
            densities = _range(_AMU_PER_CUBIC_ANGSTROM * mass / volume)
        elif start.batch is not None:
            counts = torch.bincount(start.batch, minlength=start.n_systems)
            sizes = int(counts.min()), int(counts.max())
        drawn = [float(source["temperature"]) for source in sources if source.get("temperature") is not None]
        return cls(
            systems=kinds,
            held_distances=held_distances(start, end),
            held_atoms=bool((moved == 0).any()) and bool((moved > 0).any()),
            temperature_K=(min(drawn), max(drawn)) if drawn else _temperatures(start, end),
            volume_per_atom=volumes,
            density=densities,
            engine=_said(sources, "engine"),
            theory=_said(sources, "theory"),
            charge=_shared(sources, "charge"),
            multiplicity=None if (spin := _shared(sources, "multiplicity")) is None else round(spin),
            atoms=sizes,
            molecules=_most_molecules(start),
            selection=_said(sources, "selection"),
            package=package,
        )


def held_distances(start: State, end: State) -> tuple[HeldDistances, ...]:
    """For each kind of bonded distance (directly, or across an angle) the share that a jump did not change."""
    if start.bonds is None or len(start.bonds) == 0:
        return ()
    rows = []
    for apart, pairs in ((1, start.bonds), (2, across_angles(start.bonds, start.n_atoms))):
        if len(pairs) == 0:
            continue
        lengths = [bond_vectors(one.replace(bonds=pairs)).norm(dim=1) for one in (start, end)]
        held = (lengths[1] - lengths[0]).abs() < _HELD
        rows += [
            HeldDistances(elements=kind, apart=apart, share=share)
            for kind, share in share_of_kinds(start.numbers, pairs, held).items()
        ]
    return tuple(rows)


def share_of_kinds(numbers: Tensor, pairs: Tensor, chosen: Tensor) -> dict[tuple[int, int], float]:
    """Share of the pairs (M, 2) of each two elements that are chosen (M,)."""
    kinds = numbers[pairs].sort(dim=1).values
    found = {}
    for kind in kinds.unique(dim=0).tolist():
        of_kind = (kinds == torch.tensor(kind, device=kinds.device)).all(dim=1)
        found[kind[0], kind[1]] = round(float(chosen[of_kind].double().mean()), 4)
    return found


def across_angles(bonds: Tensor, atoms: int) -> Tensor:
    """Pairs of atoms two bonds apart, shape (M, 2), each once, the lower index first."""
    ends = bonds.cpu().numpy()
    one = sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(atoms, atoms)).tocsr()
    one = one + one.T
    two = sparse.triu(one @ one, k=1).tocoo()
    row, column = two.coords
    far = ~np.isin(row * atoms + column, ends.min(axis=1) * atoms + ends.max(axis=1))
    return torch.tensor(np.stack([row[far], column[far]], axis=1), dtype=torch.int64, device=bonds.device)


def _kinds(start: State) -> tuple[SystemKind, ...]:
    kinds: dict[SystemKind, None] = {}
    seen = set()
    for system in start.split():
        key = (system.numbers.numpy().tobytes(), None if system.bonds is None else system.bonds.numpy().tobytes())
        if key not in seen:
            seen.add(key)
            kinds[SystemKind.of(system)] = None
    return tuple(kinds) if len(kinds) <= _MANY else ()


def symbol_of(number: int) -> str:
    """Symbol of an element, its number in brackets where there is none."""
    from MDAnalysis.guesser.tables import Z2SYMB  # slow to import, and seldom needed

    return Z2SYMB.get(number, f"[{number}]")


def _formula(counts: Counter[int]) -> str:
    """Carbon, hydrogen, then the others by symbol."""
    symbols = {symbol_of(number): count for number, count in counts.items()}
    first = [symbol for symbol in ("C", "H") if "C" in symbols and symbol in symbols]
    order = first + sorted(set(symbols) - set(first))
    return "".join(symbol + (str(symbols[symbol]) if symbols[symbol] > 1 else "") for symbol in order)


def _graph(numbers: Tensor, bonds: Tensor | None) -> str:
    """Digest of a graph of bonds by the labels of Weisfeiler and Leman (1968), which start from the elements."""
    neighbours: list[list[int]] = [[] for _ in range(len(numbers))]
    for a, b in [] if bonds is None else bonds.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    labels = [str(number) for number in numbers.tolist()]
    for _ in range(min(_ROUNDS, len(labels))):
        around = [",".join(sorted(labels[j] for j in near)) for near in neighbours]
        labels = [
            hashlib.sha256(f"{own}({near})".encode()).hexdigest()[:16] for own, near in zip(labels, around, strict=True)
        ]
    return hashlib.sha256(" ".join(sorted(labels)).encode()).hexdigest()[:16]


def _temperatures(start: State, end: State) -> tuple[float, float] | None:
    """Range of the temperatures of the systems: that of the kinetic ones, narrowed by what chance adds to them."""
    if not bool(start.velocities.any()) or start.batch is None:
        return None
    twice = (start.masses[:, None] * start.velocities.double().square()).sum(1).double()
    freedom = 3.0 * torch.bincount(start.batch, minlength=start.n_systems)
    held = held_bonds_of(start, end)
    if held is not None and len(held):
        freedom -= torch.bincount(start.batch[held[:, 0]], minlength=start.n_systems)
    freedom = freedom.clamp(min=1.0)
    each = torch.zeros(start.n_systems, dtype=torch.float64).index_add_(0, start.batch, twice) / (freedom * BOLTZMANN)
    mean = float((each * freedom).sum() / freedom.sum())
    by_chance = float((2 * mean**2 / freedom).mean())
    variance = float(each.var()) if len(each) > 1 else 0.0
    narrower = math.sqrt(max(0.0, 1 - by_chance / variance)) if variance > 0 else 0.0
    ends = torch.quantile(each, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    low, high = (round(mean + narrower * (one - mean), 1) for one in ends)
    return min(low, high), max(low, high)


def held_bonds_of(start: State, end: State) -> Tensor | None:
    """Rows of the bonds whose length a jump did not change; None without bonds."""
    if start.bonds is None:
        return None
    change = bond_vectors(end.replace(bonds=start.bonds)).norm(dim=1) - bond_vectors(start).norm(dim=1)
    return start.bonds[change.abs() < _HELD]


def _range(values: Tensor) -> tuple[float, float]:
    return round(float(values.min()), 6), round(float(values.max()), 6)


def _said(sources: list[Mapping[str, Any]], key: str) -> str:
    """What the sources say, each thing once."""
    return ", ".join(dict.fromkeys(str(source[key]) for source in sources if source.get(key)))


def _shared(sources: list[Mapping[str, Any]], key: str) -> float | None:
    """The number that all sources share."""
    given = [source.get(key) for source in sources]
    first = given[0] if given else None
    return None if first is None or any(one != first for one in given) else float(first)


def _most_molecules(start: State) -> int | None:
    """Of some of the systems, spread over all."""
    if start.periodic:
        return None
    systems = start.split() if start.n_systems > 1 else [start]
    found = [molecules(one) for one in systems[:: max(1, len(systems) // _LOOKED_AT)]]
    return None if None in found else max(len(one) for one in found if one is not None)
