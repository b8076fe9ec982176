"""Is a propagator at home in a system? What its training data were, against what it is to move."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from fastegnn_md.errors import CompatibilityError, Remedy
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.fragments import molecules
from fastegnn_md.propagator.provenance import Provenance, SystemKind, across_angles, share_of_kinds, symbol_of
from fastegnn_md.state import State

_HOTTER = 1.5  # times the highest temperature of training
_ALIKE = 0.98  # of two temperatures
_DENSER = 0.05  # share beyond the range of volumes per atom
_LARGER = 1.5  # times the most atoms of training
_ALL, _NONE = 0.95, 0.05  # shares of held distances that count as all and none


class UnlikeTrainingWarning(UserWarning):
    """A system differs from the training data in a way that may be meant."""


def check_home(
    provenance: Provenance | None,
    state: State,
    constraints: Constraints,
    *,
    temperature: float | None = None,
    engine: str = "ASE",
    theory: str = "",
    charge: float | None = None,
    multiplicity: int | None = None,
    unusual_forces: Sequence[str] = (),
    lenient: bool = False,
    holds_atoms: bool = False,
    drawn: bool = False,
) -> None:
    """Compare a system with the training data of a propagator.

    Parameters
    ----------
    provenance : Provenance, optional
        None, of files that do not say it, compares nothing.
    state : State
        The system.
    constraints : Constraints
        Of the system.
    temperature : float, optional
        K, of the run.
    engine : {"ASE", "OpenMM"}
    theory : str
        What computes forces here, in the words of the provenance; empty if nobody knows.
    charge : float, optional
        Total charge here, e.
    multiplicity : int, optional
        2S + 1 here.
    unusual_forces : sequence of str
        Forces here beyond those of a force field, which the engine names.
    lenient : bool
        Warn of what would be an error: the user has switched the guards off.
    holds_atoms : bool
        Whether frozen atoms and restraints do no harm: the propagator gets forces, or classical steps follow jumps.
    drawn : bool
        Whether jumps are drawn from a distribution, which is that of one temperature.

    Raises
    ------
    CompatibilityError
        If constraints, frozen atoms, charge, spin or molecule are others than in training.

    Warns
    -----
    UnlikeTrainingWarning
        Of another temperature, density or theory, of a much larger molecule, or of several that were one.
    """
    if provenance is None:
        return
    wrong = [
        *_molecule(provenance, state),  # first: of another molecule the rest says little
        *_constraints(provenance, state, constraints),
        *([] if holds_atoms else _frozen(provenance, constraints)),
        *([] if holds_atoms else _restraints(unusual_forces)),
        *_charge(provenance, charge),
        *_spin(provenance, state, charge, multiplicity),
    ]
    if wrong and not lenient:
        raise CompatibilityError(wrong[0])
    doubts = [
        *wrong,
        *_temperature(provenance, temperature, drawn),
        *_volume(provenance, state),
        *_size(provenance, state),
        *_molecules(provenance, state),
        *_theory(provenance, engine, theory),
    ]
    for doubt in doubts:
        warnings.warn(doubt, UnlikeTrainingWarning, stacklevel=6)


def _constraints(provenance: Provenance, state: State, constraints: Constraints) -> list[str]:
    here = _held_here(state, constraints)
    for kind in provenance.held_distances:
        share = here.get((kind.elements, kind.apart))
        if share is None:
            continue
        names = "–".join(symbol_of(number) for number in kind.elements)
        what = f"{names} bonds" if kind.apart == 1 else f"{names} distances across an angle"
        if kind.share >= _ALL and share < _ALL:
            return [
                _constraints_as_trained(
                    f"this propagator was trained with {what} of fixed length, here {1 - share:.0%} of them are free: "
                    "train with free bonds, or hold them (",
                    provenance,
                )
            ]
        if kind.share <= _NONE and share > _NONE:
            return [
                _constraints_as_trained(
                    f"this propagator was trained with free {what}, here {share:.0%} of them have a fixed length: "
                    "train with these constraints, or leave them out (",
                    provenance,
                )
            ]
    return []


def _constraints_as_trained(fact: str, provenance: Provenance) -> Remedy:
    """The fact, and the constraints of the training data as engines and the command line call them."""
    bonds = {kind.elements: kind.share >= _ALL for kind in provenance.held_distances if kind.apart == 1}
    hydrogens = {elements: held for elements, held in bonds.items() if 1 in elements}
    if all(bonds.values()):
        names = ("app.AllBonds", "FixBondLengths of all bonds", "AllBonds")
    elif hydrogens and all(hydrogens.values()):
        names = ("app.HBonds", "FixBondLengths of bonds to hydrogen", "HBonds")
    else:
        names = ("None", "no FixBondLengths", "none")
    openmm, ase, shell = names
    return Remedy(fact, f"OpenMM: constraints={openmm}; ASE: {ase})", f"--constraints {shell})")


def _held_here(state: State, constraints: Constraints) -> dict[tuple[tuple[int, int], int], float]:
    """Share of distances that are held, by elements and number of bonds between; what is not there is left out."""
    n = state.n_atoms
    # Bonds that are held are known to be bonds, whatever the topology says.
    held = constraints.bonds.sort(dim=1).values
    known = [] if state.bonds is None else [(1, state.bonds), (2, across_angles(state.bonds, n))]
    found: dict[tuple[tuple[int, int], int], float] = {}
    for apart, pairs in known:
        if len(pairs) == 0:
            continue
        ends = pairs.sort(dim=1).values
        chosen = torch.isin(ends[:, 0] * n + ends[:, 1], held[:, 0] * n + held[:, 1])
        # two frozen atoms keep their distance by themselves
        moves = ~constraints.frozen[pairs].all(dim=1)
        if bool(moves.any()):
            shares = share_of_kinds(state.numbers, pairs[moves], chosen[moves])
            found |= {(kind, apart): share for kind, share in shares.items()}
    if state.bonds is None and len(held):
        shares = share_of_kinds(state.numbers, held, torch.ones(len(held), dtype=torch.bool))
        found |= {(kind, 1): share for kind, share in shares.items()}
    return found


def _frozen(provenance: Provenance, constraints: Constraints) -> list[str]:
    count = int(constraints.frozen.sum())
    if not count or provenance.held_atoms:
        return []
    return [
        Remedy(
            f"{count} atoms are frozen and this force-free propagator has never seen an atom held: free atoms would "
            "cool. Use a force-informed propagator, train with these atoms held, or put classical steps between jumps",
            ": schedule=Schedule(10, 1, classical=…)",
            ", as --engine openmm does with --classical-steps of 1 or more",
        )
    ]


def _restraints(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        Remedy(
            f"the System has forces beyond a force field: {', '.join(names)}. Jumps of a force-free propagator do not "
            "feel them: remove them, take a force-informed propagator, or ",
            "put classical steps between jumps (schedule=Schedule(10, 1))",
            "put classical steps between jumps (--engine openmm --classical-steps 10)",
        )
    ]


def _charge(provenance: Provenance, charge: float | None) -> list[str]:
    if charge is None or provenance.charge is None or abs(charge - provenance.charge) < 1e-6:
        return []
    return [
        f"the system has a charge of {charge:g} e, the training data had {provenance.charge:g}: train with this "
        "charge, or run the engine alone"
    ]


def _spin(provenance: Provenance, state: State, charge: float | None, multiplicity: int | None) -> list[str]:
    trained = provenance.multiplicity
    if trained is None or state.periodic or state.n_systems > 1:
        return []
    if multiplicity is not None and multiplicity != trained:
        return [
            f"the system has the spin multiplicity {multiplicity}, the training data had {trained}: add "
            "a missing atom, correct its magnetic moments or the calculator, or train with this spin"
        ]
    electrons = round(int(state.numbers.sum()) - (charge or 0.0))
    if (electrons + trained) % 2 == 0:  # one of two is odd where the other is not
        return [
            f"the system has {electrons} electrons with a charge of {charge or 0.0:g} e, which cannot have the spin "
            f"multiplicity of the training data, {trained}: add the missing atom; ions and radicals need a model that "
            "was trained on them, or the engine alone"
        ]
    return []


def _molecule(provenance: Provenance, state: State) -> list[str]:
    if not provenance.systems or (provenance.volume_per_atom is not None and not state.periodic):
        return []  # a missing box is what the propagator itself refuses, in words of its own
    for system in state.split():
        here = SystemKind.of(system)
        formulas = [kind.formula for kind in provenance.systems]
        if state.periodic:  # surfaces, defects and mixtures are the business of the guard of surroundings
            continue
        if here.formula not in formulas:
            return [
                f"the system is {here.formula}, this propagator has seen {', '.join(dict.fromkeys(formulas))} only and "
                "knows no other molecule: train with it, or on many molecules"
            ]
        alike = [kind.bonds for kind in provenance.systems if kind.formula == here.formula]
        if here.bonds is not None and None not in alike and here.bonds not in alike:
            return [
                f"the system is {here.formula}, as in training, but with other bonds: another isomer, or bonds that "
                "are missing; give its bonds as they are, or train with it"
            ]
    return []


def _temperature(provenance: Provenance, temperature: float | None, drawn: bool) -> list[str]:
    if temperature is None or provenance.temperature_K is None:
        return []
    low, high = provenance.temperature_K
    if drawn:
        if _ALIKE * low <= temperature <= high / _ALIKE:
            return []
        trained = f"{low:g} K" if low == high else f"{low:g} to {high:g} K"
        return [
            f"the temperature is {temperature:g} K, jumps are drawn from what the training data did at {trained}, "
            "whatever is asked for: run at that, or train on trajectories at this one"
        ]
    if temperature <= _HOTTER * high:
        return []
    return [f"the temperature is {temperature:g} K, the training data had {low:g} to {high:g} K: train at this one too"]


def _volume(provenance: Provenance, state: State) -> list[str]:
    if state.cell is None:
        return []
    return doubt_volume(provenance, float(torch.linalg.det(state.cell.double()).abs().sum()) / state.n_atoms)


def doubt_volume(provenance: Provenance, volume: float) -> list[str]:
    """What is to be said of a box of so many Å³ per atom: nothing, or one warning."""
    if provenance.volume_per_atom is None:
        return []
    low, high = provenance.volume_per_atom
    if (1 - _DENSER) * low <= volume <= (1 + _DENSER) * high:
        return []
    return [
        f"the box has {volume:.4g} Å³ per atom, the training data had {low:.4g} to {high:.4g} Å³: jumps of atoms whose "
        "surroundings are unlike those of training are refused"
    ]


def _size(provenance: Provenance, state: State) -> list[str]:
    if (
        provenance.atoms is None
        or state.periodic
        or state.n_systems > 1
        or state.n_atoms <= _LARGER * provenance.atoms[1]
    ):
        return []
    fewest, most = provenance.atoms
    return [
        f"the system has {state.n_atoms} atoms, the training data had {fewest} to {most}: look at the audits of a "
        "short run, or adapt the model to it"
    ]


def _molecules(provenance: Provenance, state: State) -> list[str]:
    if state.periodic or state.n_systems > 1:
        return []
    here = molecules(state)
    if here is None or len(here) <= (provenance.molecules or 1):
        return []
    sizes = ", ".join(map(str, here[:6])) + (", …" if len(here) > 6 else "")
    most = provenance.molecules or 1
    return [
        f"the system is {len(here)} molecules (of {sizes} atoms), the training data had {most} at a time: the model "
        "has not seen the forces between them, and they may drift apart. Run them one by one, or train on such systems"
    ]


def _theory(provenance: Provenance, engine: str, theory: str) -> list[str]:
    # One potential has other names in another engine.
    foreign = (engine == "OpenMM") != provenance.engine.startswith("OpenMM")
    if foreign or not theory or not provenance.theory or theory == provenance.theory:
        return []
    return [
        f"forces come from {theory} here, the propagator learned those of {provenance.theory}: jumps and classical "
        "steps follow two different potentials"
    ]
