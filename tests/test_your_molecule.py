"""The page "Your molecule, your engine" from its first block to its last, with a stand-in for the engine it names."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import blocks

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("fastegnn-md")
PAGE = ROOT / "docs" / "your-molecule.md"
# tblite is not a part of the tests: springs between all atoms that are near in molecule.xyz take its name.
STAND_IN = """
import numpy as np
from ase.calculators.calculator import Calculator
from ase.io import read


class TBLite(Calculator):
    implemented_properties = ["energy", "forces"]
    default_parameters = {"method": "", "charge": None, "multiplicity": None, "verbosity": 1}

    def __init__(self, **parameters):
        super().__init__(**parameters)
        self.rest = read("molecule.xyz").positions

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        rest = self.rest
        i, j = np.triu_indices(len(rest), 1)
        length = np.linalg.norm(rest[i] - rest[j], axis=1)
        stiff = np.where(length < 1.7, 20.0, np.where(length < 3.0, 4.0, 0.2))
        vectors = atoms.positions[i] - atoms.positions[j]
        now = np.linalg.norm(vectors, axis=1)
        pull = (stiff * (now - length) / now)[:, None] * vectors
        forces = np.zeros_like(rest)
        np.add.at(forces, i, -pull)
        np.add.at(forces, j, pull)
        self.results = {"energy": 0.5 * float(np.sum(stiff * (now - length) ** 2)), "forces": forces}
"""
SMALLER = (
    (r"--steps \d+", "--steps 12"),
    (r"\.run\(\d+\)", ".run(120)"),
    (r"1000 calls", "520 calls"),
    (r"budget=1000", "budget=520"),
    (r"--runs \d+", "--runs 2 --nve-steps 12 --no-progress"),
)


def called(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def folder(require, tmp_path_factory) -> Path:
    """molecule.xyz, my_engine.py, the stand-in, and a model under the name that the page takes."""
    for component in ("ase", "lightning", "deeptime"):
        require(component)
    from ase.io import read

    from fastegnn_md.data import TrajectoryPairs, load_universe
    from fastegnn_md.harvest import harvest
    from fastegnn_md.training import TrainingConfig, fit

    path = tmp_path_factory.mktemp("page")
    (structure,) = blocks(PAGE, "text", SMALLER)
    (path / "molecule.xyz").write_text(structure)
    (path / "my_engine.py").write_text(blocks(PAGE, "python", SMALLER)[0])
    (path / "tblite").mkdir()
    (path / "tblite" / "__init__.py").touch()
    (path / "tblite" / "ase.py").write_text(STAND_IN)
    atoms, rng = read(path / "molecule.xyz"), np.random.default_rng(0)
    frames = []
    for _ in range(20):
        frames.append(atoms.copy())
        frames[-1].positions += 0.02 * rng.normal(size=(9, 3))
    from ase.io import write

    write(path / "frames.traj", frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(path)
        import my_engine

        times = {"burst": "8 fs", "interval": "4 fs", "midpoint": "4 fs", "timestep": "0.5 fs"}
        universe = load_universe(path / "frames.traj")
        store = harvest(universe, my_engine.calculator, store=path / "b.h5md", temperature=350.0, max_failed=0.5,
                        progress=False, **times)  # fmt: skip
    train, held_out, _ = TrajectoryPairs(store, lag="4 fs", time_reversal=True, progress=False).split()
    small = {"kind": "force-midpoint", "hidden": 16, "layers": 2, "virtual_nodes": 1, "use_bonds": False}
    config = TrainingConfig(propagator=small, updates=150, learning_rate=1e-2, logger="none")
    model = fit(train, held_out, config, progress=False).propagator
    assert model.provenance.theory == "TBLite (method=GFN2-xTB)"
    assert (model.provenance.charge, model.provenance.multiplicity) == (0.0, 1)
    model.save(path / "organic-xtb-4fs")  # a file of that name wins over the catalogue
    return path


@pytest.mark.slow
def test_the_page_runs_from_its_first_block_to_its_last(folder):
    engine, run, classical, adapting = blocks(PAGE, "python", SMALLER)
    validated = False
    for line in "".join(blocks(PAGE, "console", SMALLER)).replace("\\\n", " ").strip().splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "fastegnn-md"
        if command == "validate":
            done = called(folder, sys.executable, "-c", classical)
            assert done.returncode == 0, done.stderr
            validated = True
        done = called(folder, PROGRAM, command, *arguments)
        assert done.returncode in (0, 3), f"{line}\n{done.stderr}"  # 3: a small model after a short run
    assert validated
    for name in ("run.extxyz", "run.extxyz.restart", "validation/report.html", "adapted.safetensors"):
        assert (folder / name).stat().st_size > 0
    done = called(folder, sys.executable, "-c", run)
    assert done.returncode == 0, done.stderr
    (folder / "adapting.py").write_text(adapting)
    done = called(folder, sys.executable, "adapting.py")  # that of the command: found again, not run again
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("True", "False")
    assert "def calculator" in engine
