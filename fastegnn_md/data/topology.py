"""Who the atoms are: an MDAnalysis universe is opened and its topology becomes plain arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import MDAnalysis as mda
import numpy as np
from MDAnalysis.exceptions import NoDataError, SelectionError
from MDAnalysis.guesser.default_guesser import DefaultGuesser
from MDAnalysis.guesser.tables import Z2SYMB
from MDAnalysis.guesser.tables import masses as STANDARD_MASSES

from ..errors import DataError, MissingDependencyError, Remedy, brief
from .ase_files import ase_format, ase_universe
from .xdr import check_gromacs

_SYMBOL_TO_Z = {symbol.upper(): number for number, symbol in Z2SYMB.items()} | {"D": 1}
_Z_TO_MASS = {_SYMBOL_TO_Z[s.upper()]: m for s, m in STANDARD_MASSES.items() if s.upper() in _SYMBOL_TO_Z and s != "D"}

# What MDAnalysis warns about and this package handles itself, by an error or by a note in the provenance.
_HANDLED_WARNINGS = (
    "DCDReader currently makes independent timesteps",
    "Reader has no dt information",
    "Guessed all Masses",
    "Element information is missing",
    "ATOMIC_NUMBER record not found",
    "Unknown masses are set to 0.0",
    "Unknown element",
    "Failed to guess the mass",
    "there is no reference attributes",
    "No coordinate reader found",
    "The TRZ reader is deprecated",
    "Unit cell dimensions not found",
    "1 A\\^3 CRYST1 record",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of MDAnalysis' readers that this package turns into errors or provenance notes."""
    with warnings.catch_warnings():
        for message in _HANDLED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


@dataclass(frozen=True, eq=False)
class Topology:
    """Identity of the atoms of one system.

    Attributes
    ----------
    numbers : ndarray of int64, shape (N,)
        Atomic numbers.
    masses : ndarray of float64, shape (N,), amu
        Masses.
    charges : ndarray of float64, shape (N,), e, or None
        Partial charges.
    types : ndarray of str, shape (N,), or None
        Names of the topology types.
    bonds : ndarray of int64, shape (M, 2), or None
        Bonded pairs, each once, the lower index first.
    notes : dict of str
        Where elements and masses come from.
    """

    numbers: np.ndarray
    masses: np.ndarray
    charges: np.ndarray | None = None
    types: np.ndarray | None = None
    bonds: np.ndarray | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def sha256(self) -> str:
        """Hash of everything but the notes."""
        digest = hashlib.sha256()
        for name in ("numbers", "masses", "charges", "types", "bonds"):
            value = getattr(self, name)
            digest.update(name.encode())
            if value is not None and name == "types":
                digest.update("\n".join(value).encode())
            elif value is not None:
                digest.update(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


def load_universe(
    topology: str | os.PathLike[str], *trajectories: str | os.PathLike[str], **reader_options: object
) -> mda.Universe:
    """Open a topology and its trajectories with MDAnalysis, or with ASE what only ASE reads whole.

    These are .traj, extended XYZ (.extxyz, and .xyz with a cell or columns), POSCAR and crystallographic .cif files:
    see :func:`~fastegnn_md.data.ase_files.ase_universe`.

    Parameters
    ----------
    topology : path
        Any topology or structure file MDAnalysis or ASE reads.
    *trajectories : path
        Trajectory files, read one after the other.
    **reader_options
        Passed on to :class:`MDAnalysis.Universe`, for example ``dt``, ``format``, ``topology_format``; of files of ASE
        ``dt`` alone.

    Raises
    ------
    DataError
        If a file is missing, damaged or unreadable, or topology and trajectory do not have the same atoms.

    Warns
    -----
    UserWarning
        If the topology has a cell and the trajectories have none: the system is then taken as isolated.
    """
    paths = [os.fspath(path) for path in (topology, *trajectories)]
    for path in paths:
        if not os.path.exists(path):
            raise DataError(f"{path!r} does not exist; give the path of a topology or trajectory file")
        if nothing := nothing_in(path):
            raise DataError(nothing)
    check_gromacs(*paths)
    try:
        with quiet():
            if "format" not in reader_options and any(ase_format(path) for path in paths):
                universe = ase_universe(paths[0], paths[1:], **reader_options)  # type: ignore[arg-type]
            else:
                universe = mda.Universe(*paths, **reader_options)
            if len(paths) > 1 and _cell_is_lost(paths[0], universe):
                warnings.warn(
                    f"{paths[0]} has a cell, {paths[1]} has none: the atoms are taken as isolated. If they are "
                    "periodic, give a trajectory that holds the cell (.xtc, .trr, .dcd, .extxyz)",
                    stacklevel=2,
                )
            return universe
    except (DataError, MissingDependencyError):
        raise
    except Exception as error:  # readers raise errors of any class, StopIteration for a truncated .prmtop
        text, names = " ".join(str(error).split()), [", ".join(map(repr, part)) for part in (paths[1:], paths)]
        if "same number of atoms" in text or "n_atoms" in text:
            counts = " and ".join(re.findall(r"(?i)number of atoms (\d+)", text)) or brief(text, quoted=False)
            raise DataError(
                f"topology {paths[0]!r} and trajectory {names[0]} do not have the same number of atoms ({counts}); "
                "give the topology the trajectory was written with, or write a topology of the saved atoms only"
            ) from error
        if "Cannot find an appropriate coordinate reader" in text and len(paths) > 1:
            raise DataError(
                f"MDAnalysis reads no coordinates from {names[0]}; the topology comes first, then trajectories"
            ) from error
        raise DataError(f"MDAnalysis cannot read {names[1]}: {brief(text, quoted=False)}") from error


def nothing_in(path: str | os.PathLike[str]) -> str | None:
    """What to say of a folder and of an empty file, whose readers' own errors name neither; None of other files."""
    if os.path.isdir(path):
        return f"{os.fspath(path)!r} is a folder; give the path of a topology or trajectory file"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return f"{os.fspath(path)!r} is empty; copy or write it again"
    return None


def _cell_is_lost(structure: str, universe: mda.Universe) -> bool:
    """Whether the first frame of a trajectory has no cell although the structure it is read with has one."""
    if getattr(universe, "dimensions", None) is not None:
        return False
    try:
        if ase_format(structure):
            return ase_universe(structure).dimensions is not None
        return mda.coordinates.core.reader(structure, n_atoms=len(universe.atoms)).ts.dimensions is not None
    except Exception:  # a topology without coordinates, of whichever format
        return False


def select_atoms(source: mda.Universe | mda.AtomGroup, select: str) -> mda.AtomGroup:
    """Select atoms, in the order of the topology.

    Raises
    ------
    DataError
        If there are no coordinates, the selection string is not valid or selects nothing, or the group changes its
        atoms from frame to frame.
    """
    static(source)
    if not hasattr(source.universe, "trajectory"):
        raise DataError("the topology comes without coordinates; give a structure or a trajectory with it")
    try:
        atoms = source.atoms if select == "all" else source.select_atoms(select)
    except (SelectionError, AttributeError, NoDataError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"selection {select!r} is not valid for this topology: {error}") from error
    if len(atoms) == 0:
        raise DataError(
            f"selection {select!r} is empty; the topology has {source.universe.atoms.n_atoms} atoms, "
            "check names with universe.atoms.names"
        )
    if isinstance(atoms, mda.AtomGroup) and len(np.unique(atoms.ix)) != len(atoms):
        raise DataError("the atom group holds an atom twice; pass atoms.unique")
    return atoms


def static(atoms: mda.Universe | mda.AtomGroup) -> mda.Universe | mda.AtomGroup:
    """The same; a DataError if it is no universe or group, or its atoms change from frame to frame."""
    if not isinstance(atoms, (mda.Universe, mda.AtomGroup)):
        raise DataError(
            f"a {type(atoms).__name__} was given where an MDAnalysis Universe or AtomGroup is expected; "
            "fastegnn_md.data.load_universe(file) makes one of the files of MDAnalysis and ASE"
        )
    if isinstance(atoms, mda.core.groups.UpdatingAtomGroup):
        raise DataError(
            "the atom group is an updating one: other atoms in other frames, whose masses, bonds and velocities would "
            "be mixed. Select without updating=True, or take the atoms of one frame: group.universe.atoms[group.ix]"
        )
    return atoms


def read_topology(atoms: mda.AtomGroup) -> Topology:
    """Elements, masses, charges, types and bonds of an atom group as arrays.

    Elements are taken from ``atoms.elements``, else from the masses of the topology, else from types and names
    through MDAnalysis' guesser. Bonds that leave the group are dropped.

    Raises
    ------
    DataError
        If an element or a mass cannot be known, or an atom has no mass (virtual sites).
    """
    notes: dict[str, str] = {}
    masses = _masses(atoms)
    massless = np.flatnonzero(masses == 0) if masses is not None else np.empty(0, dtype=int)
    numbers, notes["elements"] = _numbers(atoms, masses)
    if len(massless):
        raise DataError(
            Remedy(
                f"{len(massless)} atoms have no mass, the first is {describe(atoms, massless[0])}; virtual sites and "
                "unknown atoms cannot be propagated: select them away, for example ",
                "select='not name MW', or set universe.atoms.masses",
                '--select "not name MW"',
            )
        )
    guessed = "masses" in _guessed_attributes(atoms)
    if masses is None or (np.all(masses == 1.0) and np.any(numbers != 1)):
        # MDAnalysis gives every atom of a LAMMPS dump the mass 1; the elements know better
        masses = np.array([_Z_TO_MASS[int(z)] for z in numbers])
        notes["masses"] = "standard atomic masses of the elements"
    else:
        notes["masses"] = "guessed by MDAnalysis from types" if guessed else "topology"
    return Topology(
        numbers=numbers,
        masses=masses,
        charges=_optional(atoms, "charges"),
        types=None if not hasattr(atoms, "types") else np.asarray(atoms.types, dtype=str),
        bonds=_bonds(atoms),
        notes=notes,
    )


def describe(atoms: mda.AtomGroup, index: int) -> str:
    """Name one atom of a group for an error message."""
    atom = atoms[int(index)]
    parts = [f"atom {atom.index}"]
    if hasattr(atom, "name"):
        parts.append(f"{atom.name}")
    if hasattr(atom, "resname"):
        parts.append(f"of {atom.resname} {atom.resid}")
    return " ".join(parts)


def _masses(atoms: mda.AtomGroup) -> np.ndarray | None:
    masses = _optional(atoms, "masses")
    if masses is None:
        return None
    bad = np.flatnonzero(~np.isfinite(masses) | (masses < 0))
    if len(bad):
        raise DataError(f"{describe(atoms, bad[0])} has mass {masses[bad[0]]}; set universe.atoms.masses in amu")
    return masses


def _numbers(atoms: mda.AtomGroup, masses: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Atomic numbers and the way they were found."""
    if hasattr(atoms, "elements") and all(str(e).upper() in _SYMBOL_TO_Z for e in set(atoms.elements)):
        return _from_symbols(atoms, np.asarray(atoms.elements, dtype=str)), "topology"
    if masses is not None and "masses" not in _guessed_attributes(atoms):
        numbers = _from_masses(masses)
        if numbers is not None:
            return numbers, "from the masses of the topology"
    for attribute in ("names", "types"):
        if not hasattr(atoms, attribute):
            continue
        labels = np.asarray(getattr(atoms, attribute), dtype=str)
        with quiet():
            guess = DefaultGuesser(None).guess_types(labels)
        if all(str(g).upper() in _SYMBOL_TO_Z for g in set(guess)):
            return _from_symbols(atoms, guess.astype(str)), f"guessed by MDAnalysis from {attribute}"
    first, label = _unknown(atoms)
    massless = masses is not None and masses[first] == 0
    raise DataError(
        Remedy(
            f"the element of {describe(atoms, first)} is not known ({label}); "
            + ("it has no mass and may be a virtual site, to be selected away; else " if massless else ""),
            "give elements: universe.add_TopologyAttr('elements', [...]), one symbol per atom of the topology",
            "give a structure or topology that has elements; to run, --topology beside a START of coordinates only",
        )
    )


def _unknown(atoms: mda.AtomGroup) -> tuple[int, str]:
    """The first atom whose label is no element, and the label."""
    for attribute in ("elements", "names", "types"):
        if hasattr(atoms, attribute):
            found = [str(one) for one in getattr(atoms, attribute)]
            unknown = [index for index, one in enumerate(found) if one.upper() not in _SYMBOL_TO_Z]
            first = unknown[0] if unknown else 0
            return first, f"{attribute[:-1]} {found[first]!r}"
    return 0, "no element, name or type"


def _from_symbols(atoms: mda.AtomGroup, symbols: np.ndarray) -> np.ndarray:
    return np.array([_SYMBOL_TO_Z[symbol.upper()] for symbol in symbols], dtype=np.int64)


def _from_masses(masses: np.ndarray) -> np.ndarray | None:
    """Elements whose standard mass is the given one; None where masses are repartitioned, unknown or all 1.

    Repartitioned hydrogens (more than 1.1 and less than 4 amu) make the masses of their neighbours misleading: a
    nitrogen that gave 1.99 amu away has the mass of a carbon.
    """
    if np.any((masses > 1.1) & (masses < 4.0)) or np.all(masses == 1.0):
        return None
    z = np.array(sorted(_Z_TO_MASS))
    standard = np.array([_Z_TO_MASS[int(number)] for number in z])
    unique, inverse = np.unique(masses, return_inverse=True)
    nearest = np.abs(unique[:, None] - standard[None, :]).argmin(axis=1)
    if np.any(np.abs(unique - standard[nearest]) > 0.05):
        return None
    return z[nearest][inverse].astype(np.int64)


def _optional(atoms: mda.AtomGroup, name: str) -> np.ndarray | None:
    if not hasattr(atoms, name):
        return None
    values = np.array(getattr(atoms, name), dtype=np.float64)
    return values if name == "masses" or np.all(np.isfinite(values)) else None


def _bonds(atoms: mda.AtomGroup) -> np.ndarray | None:
    if not hasattr(atoms, "bonds"):
        return None
    try:
        pairs = atoms.universe.bonds.to_indices() if len(atoms.universe.bonds) else np.empty((0, 2), dtype=np.int64)
    except (NoDataError, AttributeError):
        return None
    position = np.full(atoms.universe.atoms.n_atoms, -1, dtype=np.int64)
    position[atoms.ix] = np.arange(len(atoms))
    local = position[np.asarray(pairs, dtype=np.int64)].reshape(-1, 2)
    local = local[(local >= 0).all(axis=1)]
    if not len(local) and not len(pairs):
        return None
    return np.unique(np.sort(local, axis=1), axis=0)


def join_bonds(*sources: np.ndarray | None) -> np.ndarray | None:
    """Bonds (M, 2) of several sources together, each once and the lower index first; None if no source has any.

    A topology may have some of its bonds only, and nothing shows it: a PDB file lists those of unusual residues.
    """
    known = [np.sort(np.asarray(one, dtype=np.int64).reshape(-1, 2), axis=1) for one in sources if one is not None]
    return np.unique(np.concatenate(known), axis=0) if known else None


def _guessed_attributes(atoms: mda.AtomGroup) -> set[str]:
    return {attribute.attrname for attribute in atoms.universe._topology.guessed_attributes}
