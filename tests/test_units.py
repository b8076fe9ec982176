"""Units: CODATA values and reading quantities."""

from __future__ import annotations

import ase.units
import pytest

from fastegnn_md import units
from fastegnn_md.errors import UnitError


def test_constants_agree_with_ase():
    internal_energy = ase.units._amu * (1e-10 / 1e-12) ** 2  # amu Å²/ps² in joule
    assert ase.units._e / internal_energy == pytest.approx(units.EV, rel=1e-7)
    assert ase.units._k / internal_energy == pytest.approx(units.BOLTZMANN, rel=1e-6)
    assert 1e3 / ase.units._Nav / internal_energy == pytest.approx(units.KJ_PER_MOL, rel=1e-7)
    assert 1e5 * ase.units.Pascal * units.EV == pytest.approx(units.BAR, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("10 fs", "time", 0.010),
        ("0.5ps", "time", 0.5),
        (" 2e-3 ns ", "time", 2.0),
        ("0.35 nm", "length", 3.5),
        ("3.5 A", "length", 3.5),
        ("10/ps", "friction", 10.0),
        (".01 /fs", "friction", 10.0),
        ("1 bar", "pressure", 1.0),
        ("-0.5 GPa", "pressure", -5000.0),
        ("1 atm", "pressure", 1.01325),
    ],
)
def test_quantities(text, dimension, value):
    assert units.parse_quantity(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [("10", "no unit"), ("fs", "cannot read"), ("10 nm", "unit 'nm'"), ("", "cannot read"), ("1 0 fs", "unit|cannot")],
)
def test_wrong_quantities_are_refused(text, message):
    with pytest.raises(UnitError, match=message):
        units.parse_quantity(text, "time")
