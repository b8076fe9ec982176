"""What an engine was asked and how long it took, counted in a file: over processes, and over a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
else:
    try:
        from ase.calculators.calculator import Calculator
    except ImportError:  # the class is still importable; who counts calls has asked for ASE before
        Calculator = object

_SECONDS = np.dtype("<f4")


class Ledger:
    """Calls of an engine: the seconds of each, appended to a file by whichever process made it.

    Parameters
    ----------
    path : path
        Made with the first call.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path)

    def write(self, seconds: float) -> None:
        """Count a call.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, np.array(seconds, dtype=_SECONDS).tobytes())  # at the end, whole: no other mixes in
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(f"cannot count calls in {self.path}: {error.strerror or error}") from error

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(self._read())

    @property
    def seconds(self) -> float:
        """Seconds of all calls together."""
        return float(self._read().sum(dtype=np.float64))

    @property
    def typical(self) -> float:
        """Median of the seconds of a call; 0 without any."""
        read = self._read()
        return float(np.median(read)) if len(read) else 0.0

    def _read(self) -> np.ndarray:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return np.zeros(0, dtype=_SECONDS)
        return np.frombuffer(content[: len(content) // _SECONDS.itemsize * _SECONDS.itemsize], dtype=_SECONDS)


class CountedFactory:
    """A calculator factory whose calculators are counted; it travels to other processes where the factory does.

    Parameters
    ----------
    factory : callable
        Without arguments; returns an ASE calculator.
    path : path
        Of the :class:`Ledger`.
    """

    func: Callable[[], Any]
    args: tuple[()]

    def __init__(self, factory: Callable[[], Any], path: str | os.PathLike[str]):
        # As functools.partial has them, by which a harvest tells factories apart.
        self.func, self.args = factory, ()
        self.keywords: dict[str, Any] = {}
        self._path = os.fspath(path)
        self.__qualname__ = getattr(factory, "__qualname__", None) or repr(factory)

    def __call__(self) -> CountedCalculator:
        """A new calculator, counted.

        Raises
        ------
        DataError
            If the factory fails, or what it returns is no ASE calculator with energy and forces.
        """
        from ..engines.ase.calculators import new_calculator

        return CountedCalculator(new_calculator(self.func), Ledger(self._path))


class CountedCalculator(Calculator):
    """Asks a calculator for energy and forces together, once for each geometry, and counts that as one call.

    Parameters
    ----------
    counted : ase calculator
    ledger : Ledger
    """

    counted: Any

    implemented_properties: list[str] = ["energy", "forces"]  # noqa: RUF012  (as ASE declares it)

    def __init__(self, counted: Any, ledger: Ledger):
        super().__init__()
        self.counted, self._ledger = counted, ledger

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = None) -> None:
        """See ASE."""
        super().calculate(atoms)
        begun = time.perf_counter()
        try:
            forces = self.counted.get_forces(self.atoms)
            energy = self.counted.get_potential_energy(self.atoms)
        finally:
            self._ledger.write(time.perf_counter() - begun)
        self.results: dict[str, Any] = {"energy": energy, "forces": forces}

    def reset(self) -> None:
        """See ASE; resets what is counted too."""
        super().reset()
        if hasattr(getattr(self, "counted", None), "reset"):  # ASE calls this before there is one
            self.counted.reset()
