"""The four systems whose trained propagators come with the package: how they are built, simulated and sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from tqdm import tqdm

from fastegnn_md.engines.mdanalysis import RolloutWriter


def xtb() -> Any:
    """GFN2-xTB."""
    from tblite.ase import TBLite  # OpenMP threads are the caller's: OMP_NUM_THREADS

    return TBLite(method="GFN2-xTB", verbosity=0)


def emt() -> Any:
    """ASE's effective medium theory."""
    return EMT()


def ethanol() -> Atoms:
    """One molecule."""
    return molecule("CH3CH2OH")


def copper(repeats: int = 3) -> Atoms:
    """Face-centred cubic, 4 n³ atoms, periodic."""
    return bulk("Cu", a=3.61, cubic=True) * (repeats, repeats, repeats)


@dataclasses.dataclass(frozen=True)
class ASESystem:
    """A system whose engine is an ASE calculator; times in fs, temperatures in K, frictions in 1/ps."""

    name: str
    build: Callable[[], Atoms]
    calculator: Callable[[], Any]
    calculator_name: str  # to the command line
    temperature: float
    timestep: float  # of classical dynamics and bursts
    lag: float
    frames_per_burst: int
    starts: dict[float, int]  # temperature of the sampling runs -> starting frames
    start_every: float
    reference_runs: int
    reference_span: float
    learned_span: float
    learned_every: int  # jumps between saved frames
    nve_span: float
    bonded: bool

    def atoms(self) -> Atoms:
        """Relaxed atoms with their calculator."""
        atoms = self.build()
        atoms.calc = self.calculator()
        FIRE(atoms, logfile=None).run(fmax=0.02, steps=200)
        return atoms

    def classical(
        self, path: Path, *, temperature: float, friction: float, span: float, every: float, seed: int, settle: float
    ) -> None:
        """Langevin dynamics; a frame with velocities of the same time every ``every`` fs, to TRR."""
        if path.exists():
            return
        atoms, rng = self.atoms(), np.random.default_rng(seed)
        thermalize_momenta(atoms, temperature, rng=rng)
        dynamics = Langevin(
            atoms,
            self.timestep * units.fs,
            temperature_K=temperature,
            friction=friction / (1000 * units.fs),
            rng=rng,
            fixcm=False,
        )
        dynamics.run(round(settle / self.timestep))
        part, steps = path.with_suffix(".part.trr"), round(every / self.timestep)
        with RolloutWriter(part) as writer:
            for frame in tqdm(range(round(span / every)), desc=path.name, mininterval=10):
                dynamics.run(steps)
                writer.write(atoms, 1e-3 * (frame + 1) * every)
        part.rename(path)

    def write_topology(self, path: Path) -> None:
        """Elements and positions, for MDAnalysis."""
        self.atoms().write(path)

    def universe(self, topology: Path, trajectories: list[Path]) -> mda.Universe:
        """Trajectories one after the other."""
        universe = mda.Universe(str(topology), [str(path) for path in trajectories])
        if self.bonded:
            universe.atoms.guess_bonds()
        return universe


ETHANOL = ASESystem(
    name="ethanol-xtb",
    build=ethanol,
    calculator=xtb,
    calculator_name="tblite",
    temperature=400.0,
    timestep=0.5,
    lag=8.0,
    frames_per_burst=8,
    starts={400.0: 3000, 600.0: 1182},
    start_every=20.0,
    reference_runs=4,
    reference_span=50_000.0,
    learned_span=200_000.0,
    learned_every=1,
    nve_span=50_000.0,
    bonded=True,
)
COPPER = ASESystem(
    name="copper-emt",
    build=copper,
    calculator=emt,
    calculator_name="emt",
    temperature=600.0,
    timestep=5.0,
    lag=40.0,
    frames_per_burst=8,
    starts={600.0: 300, 800.0: 200},
    start_every=200.0,
    reference_runs=4,
    reference_span=50_000.0,
    learned_span=1_000_000.0,
    learned_every=2,
    nve_span=20_000.0,
    bonded=False,
)
# The same metal in a larger box, for the propagator that was trained on the small one.
LARGE_COPPER = dataclasses.replace(
    COPPER,
    name="copper-emt-2048",
    build=lambda: copper(8),
    reference_runs=1,
    reference_span=10_000.0,
    learned_span=100_000.0,
    learned_every=5,
    nve_span=0.0,
)
ASE_SYSTEMS = {system.name: system for system in (ETHANOL, COPPER, LARGE_COPPER)}
