"""One unit system inside: Å, ps, amu, elementary charge, K. Engines convert at their border and nowhere else.

Derived units: velocity Å/ps, momentum amu Å/ps, force amu Å/ps², energy amu Å²/ps². Pressures are given in bar.
CODATA 2018 values; ``EV`` and ``KJ_PER_MOL`` give the energy of one eV and of one kJ/mol in amu Å²/ps², ``BAR`` that of
one bar Å³.
"""

from __future__ import annotations

import re

from .errors import UnitError

BOLTZMANN = 0.8314462618  # amu Å²/ps² per K
KJ_PER_MOL = 100.0  # amu Å²/ps²
EV = 9648.533212331  # amu Å²/ps²
BAR = 6.02214076208e-3  # amu/(Å ps²)

_SCALES = {
    "time": {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6},
    "length": {"A": 1.0, "Å": 1.0, "angstrom": 1.0, "nm": 10.0, "pm": 0.01, "bohr": 0.529177210903},
    "friction": {"/ps": 1.0, "/fs": 1e3, "/ns": 1e-3},
    "pressure": {"bar": 1.0, "kbar": 1e3, "atm": 1.01325, "Pa": 1e-5, "kPa": 1e-2, "MPa": 10.0, "GPa": 1e4},
}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")


def parse_quantity(text: str, dimension: str) -> float:
    """Read a number with a unit, such as ``"10 fs"``, ``"0.5nm"`` or ``"10/ps"``.

    Parameters
    ----------
    text : str
        Number and unit.
    dimension : {"time", "length", "friction", "pressure"}
        What the quantity must be.

    Returns
    -------
    float
        The value in ps, Å, 1/ps or bar.

    Raises
    ------
    UnitError
        If there is no number, no unit, or the unit is not one of the dimension.
    """
    scales = _SCALES[dimension]
    known = ", ".join(scales)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"cannot read {text!r} as a {dimension}: expected a number and a unit ({known})")
    number, unit = match.groups()
    if unit not in scales:
        given = f"unit {unit!r}" if unit else "no unit"
        raise UnitError(f"{text!r} has {given}; a {dimension} needs one of: {known}")
    return float(number) * scales[unit]


def format_time(picoseconds: float) -> str:
    """Write a time in the unit a chemist would use (fs below one ps)."""
    # Times of trajectories in other units come back as 0.99999 ps.
    return f"{picoseconds * 1e3:g} fs" if abs(picoseconds) < 0.9995 else f"{picoseconds:g} ps"
