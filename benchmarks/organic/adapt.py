"""Adapt an organic model to other engines: force calls spent, error before and after, when it pays.

    python benchmarks/organic/adapt.py organic-xtb-4fs amber14
    python benchmarks/organic/adapt.py organic-xtb-4fs pbe --budget 800

Engines: ``gfn1`` (tblite, nitromethane), ``pbe`` (PySCF, PBE/def2-SVP with density fitting, water), ``chgnet`` (CHGNet
in a large box, methanol), ``amber14`` (OpenMM, alanine dipeptide, nothing constrained). Each needs its package.
``epoxide`` is the engine of the training data, GFN2-xTB, and glycidol of the exam, of a group that was held out; RDKit
builds it.
The result goes to benchmarks/results/adapt_ENGINE.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.io import read
from engine import about_machine, xtb
from lists import read_list, seed_of

from fastegnn_md import load
from fastegnn_md.harvest import adapt
from fastegnn_md.training.one_step import ratios

RESULTS = Path(__file__).resolve().parents[1] / "results"
_HARTREE, _BOHR = 27.211386245988, 0.529177210903


def gfn1() -> Calculator:
    """GFN1-xTB."""
    from tblite.ase import TBLite

    return TBLite(method="GFN1-xTB", verbosity=0)


class PBE(Calculator):
    """PBE/def2-SVP by PySCF, each call starting from the density of the last."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    _density: np.ndarray | None = None

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        from pyscf import dft, gto

        super().calculate(atoms)
        places = list(zip(atoms.symbols, atoms.positions.tolist(), strict=True))
        mean_field = dft.RKS(gto.M(atom=places, basis="def2-svp", verbose=0), xc="pbe").density_fit()
        mean_field.grids.level, mean_field.conv_tol = 2, 1e-9
        energy = mean_field.kernel(dm0=self._density)
        if not mean_field.converged:
            self._density = None
            raise CalculationFailed("SCF not converged")
        self._density = np.asarray(mean_field.make_rdm1())
        gradient = mean_field.nuc_grad_method().kernel()
        self.results = {"energy": energy * _HARTREE, "forces": -np.asarray(gradient) * _HARTREE / _BOHR}


class BoxedCHGNet(Calculator):
    """CHGNet, which is for periodic systems, on a molecule in a box of 15 Å."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self) -> None:
        from chgnet.model.dynamics import CHGNetCalculator

        super().__init__()
        self._inner = CHGNetCalculator(use_device="cpu")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms)
        boxed = Atoms(atoms.numbers, atoms.positions, cell=[15.0] * 3, pbc=True)
        boxed.calc = self._inner
        self.results = {"energy": float(boxed.get_potential_energy()), "forces": np.array(boxed.get_forces())}


def amber14() -> Calculator:
    """amber14 in vacuum, nothing constrained."""
    from openmm import app

    from fastegnn_md.engines.openmm import OpenMMCalculator

    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        pdb = app.PDBFile(str(path))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=None)
    return OpenMMCalculator(system, topology=pdb.topology, platform="Reference")


def dipeptide() -> Atoms:
    """Alanine dipeptide."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        atoms = read(path)
    return Atoms(atoms.numbers, atoms.positions)


def glycidol() -> Atoms:
    """An epoxide of the exam."""
    from sampling import conformers

    one = next(one for one in read_list("exam") if one.name == "glycidol")
    return conformers(one.smiles, seed_of(one.name), 1)[0][0]


CASES: dict[str, tuple[Any, Any]] = {
    "gfn1": (gfn1, lambda: molecule("CH3NO2")),
    "pbe": (PBE, lambda: molecule("H2O")),
    "chgnet": (BoxedCHGNet, lambda: molecule("CH3OH")),
    "amber14": (amber14, dipeptide),
    "epoxide": (xtb, glycidol),
}


def main() -> None:
    """Adapt and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or file")
    parser.add_argument("engine", choices=CASES)
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=350.0)
    parser.add_argument("--output", type=Path, default=Path("adapt-output"))
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    factory, start = CASES[options.engine]
    atoms, model = start(), load(options.model)
    found = adapt(
        model,
        atoms,
        factory,
        target=options.target,
        budget=options.budget,
        temperature=options.temperature,
        output=options.output / f"{options.engine}.safetensors",
    )
    pays = found.worth.pays_after_ps
    result = {
        "model": Path(options.model).stem,
        "kind": model.kind,
        "timestep_fs": 1e3 * model.timestep,
        "engine": options.engine,
        "system": atoms.get_chemical_formula(),
        "temperature_K": options.temperature,
        "target": options.target,
        "budget": options.budget,
        "reached": found.reached,
        "unchanged": found.unchanged,
        "bursts": found.bursts,
        "dropped": found.dropped,
        "engine_failed": found.failed,
        "exams": [one.error for one in found.rounds],
        "v_over_best_baseline": {"before": ratios(found.before)["v"], "after": ratios(found.after)["v"]},
        "one_step_before": {name: asdict(one) for name, one in found.before.items()},
        "one_step_after": {name: asdict(one) for name, one in found.after.items()},
        **asdict(found.worth),
        "gain_over_1_fs_steps": found.worth.gain,
        "pays_after_ps": pays if math.isfinite(pays) else None,
        "machine": about_machine(),
        "load": os.getloadavg()[0],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"adapt_{options.engine}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
