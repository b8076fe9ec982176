"""The folder of seeds: settings, what jumps visited, and one trajectory for each burst, all whole or not there."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from MDAnalysis.lib.formats.libdcd import DCDFile
from MDAnalysis.units import convert

from .._files import only_writer, write_atomically
from ..errors import ConfigError, DataError, OutputError
from .ledger import Ledger
from .spreading import Spread

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

_VERSION = 1


class SeedFolder:
    """Files of seeds.

    Parameters
    ----------
    path : Path
    group : AtomGroup
        Names for the topology.
    """

    path: Path

    def __init__(self, path: Path, group: AtomGroup):
        self.path, self._group = path, group
        self.ledger: Ledger = Ledger(path / "burst-seconds")

    @contextmanager
    def claimed(self, settings: dict[str, Any]) -> Iterator[None]:
        """Make the folder, or go on in it, with no other process writing there.

        Raises
        ------
        OutputError
            If it is a file, holds something else, cannot be made, or another process is writing there.
        ConfigError
            If it holds seeds of other settings.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"the output {self.path} is a file; give the name of a folder")
        settings = json.loads(json.dumps({"version": _VERSION, **settings}))
        known = self.path / "settings.json"
        if self.path.exists() and not known.exists() and any(self.path.iterdir()):
            raise OutputError(f"the output {self.path} is there already and holds no seeds; choose another folder")
        try:
            (self.path / "bursts").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        with only_writer(self.path / "seeds"):
            if known.exists():
                self._compare(known, settings)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of fields of PDB that a topology has not
                    self._group.write(str(self.path / "topology.pdb"))
                write_atomically(known, (json.dumps(settings, indent=1) + "\n").encode())
            yield

    def _compare(self, known: Path, settings: dict[str, Any]) -> None:
        try:
            before = json.loads(known.read_text(encoding="utf-8"))
            differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise OutputError(f"{known} cannot be read ({error}); choose another output") from error
        if differing:
            raise ConfigError(
                f"{self.path} holds seeds of other settings ({', '.join(differing)}); give those of the first call, or "
                "choose another output"
            )

    # what jumps visited -----------------------------------------------------------------------------------------------

    def save_spread(self, found: Spread, chosen: np.ndarray, interval: float) -> None:
        """Keep where jumps led, and the frames that bursts start from."""
        n_atoms = found.positions.shape[2]
        visited = found.positions.reshape(-1, n_atoms, 3)
        self._write(self.path / "visited.dcd", visited, interval)
        self._write(self.path / "starts.dcd", visited[chosen], interval)
        record = {
            "drawn": found.drawn,
            "refused": found.refused,
            "seconds": found.seconds,
            "chosen": chosen.tolist(),
        }
        write_atomically(self.path / "spread.json", (json.dumps(record) + "\n").encode())

    def spread(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]] | None:
        """Positions after each jump (frames, N, 3), starts (n, N, 3) and the record; None before the jumps."""
        try:
            record = json.loads((self.path / "spread.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / 'spread.json'} is damaged ({error}); delete it to jump anew") from error
        return read_dcd(self.path / "visited.dcd"), read_dcd(self.path / "starts.dcd"), record

    # bursts -----------------------------------------------------------------------------------------------------------

    def burst(self, index: int) -> Path:
        """Trajectory of a burst."""
        return self.path / "bursts" / f"{index:05d}.dcd"

    def done(self, index: int) -> bool:
        """Whether a burst was run, well or not."""
        return self.burst(index).exists() or self.failure(index).exists()

    def failure(self, index: int) -> Path:
        """What the engine said when a burst failed."""
        return self.burst(index).with_suffix(".failed")

    def save_burst(self, index: int, positions: np.ndarray, interval: float, error: str) -> None:
        """Keep a burst, or that it failed."""
        if error:
            write_atomically(self.failure(index), (error + "\n").encode())
        else:
            self._write(self.burst(index), positions, interval)

    def _write(self, path: Path, positions: np.ndarray, interval: float) -> None:
        partial = path.with_name(f".{path.stem}.partial.dcd")
        try:
            with DCDFile(str(partial), "w") as file:
                delta = float(convert(interval, "ps", "AKMA"))
                file.write_header("seeds", natoms=positions.shape[1], istart=0, nsavc=1, delta=delta, is_periodic=0)
                for x in positions:
                    file.write(np.ascontiguousarray(x, dtype=np.float32), np.zeros(6))
            os.replace(partial, path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}; what is finished is kept") from error


def read_dcd(path: Path) -> np.ndarray:
    """Positions of a trajectory, shape (n_frames, N, 3), Å.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    try:
        with DCDFile(str(path)) as file:
            positions: np.ndarray = np.array(file.readframes().xyz)
            return positions
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and call again, it is then made anew") from error
