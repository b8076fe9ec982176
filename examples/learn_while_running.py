"""Learn while it runs: a calculator, a start, and nothing else; jumps as soon as they are good enough.

    python examples/learn_while_running.py                    # copper with EMT, a minute: shows what happens
    python examples/learn_while_running.py --case silicon     # CHGNet (pip install chgnet)
    python examples/learn_while_running.py --case salt        # molten NaCl with CHGNet
    python examples/learn_while_running.py --case molecule    # formaldehyde with PBE (pip install pyscf)

EMT takes a millisecond, so that nothing is gained with copper; what the other three cost and gain is in
docs/learning-cases.md. Each goes on from its restart file when it was interrupted: run the same command again.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.io import Trajectory
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md.integrators import Learning, LearningDynamics
from fastegnn_md.propagator import PropagatorConfig


def chgnet(atoms: Atoms) -> Calculator:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def pbe(atoms: Atoms) -> Calculator:
    from pyscf import dft, gto
    from pyscf.pbc.tools.pyscf_ase import PySCF

    places = [[atom.symbol, atom.position] for atom in atoms]
    method = dft.RKS(gto.M(atom=places, basis="def2-svp", verbose=0), xc="pbe").density_fit()
    return PySCF(method=method)


# start, calculator, K, classical step, jump, cutoff in Å (a short one is fast; it should reach the second neighbours)
CASES = {
    "copper": (bulk("Cu", cubic=True) * 2, lambda atoms: EMT(), 600, "5 fs", "20 fs", 4.0),
    "silicon": (bulk("Si", a=5.46, cubic=True) * 2, chgnet, 600, "2 fs", "20 fs", 4.5),
    "salt": (bulk("NaCl", "rocksalt", a=6.389, cubic=True) * 2, chgnet, 1200, "2 fs", "20 fs", 5.5),
    "molecule": (molecule("H2CO"), pbe, 350, "1 fs", "4 fs", 4.0),
}


def main(case: str, output: Path, target: float, updates: int, jumps: int, steps: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    atoms, engine, kelvin, timestep, lag, cutoff = CASES[case]
    atoms.calc = engine(atoms)
    restart = output / f"{case}.restart"
    if restart.exists():
        dynamics = LearningDynamics.restart(restart, atoms, restart_file=restart)
    else:
        thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(0))
        model = PropagatorConfig(cutoff=cutoff, virtual_nodes=1, use_bonds=False)
        options = {"temperature_K": kelvin, "friction": "10/ps", "learning": Learning(target=target, updates=updates)}
        dynamics = LearningDynamics(atoms, lag, timestep=timestep, model=model, rng=0, restart_file=restart, **options)

    while dynamics.phase != "frozen":
        dynamics.run(20)
        print(dynamics.report_line(), flush=True)
        if dynamics.phase == "jumping" and dynamics.account.jumps >= jumps:
            dynamics.freeze()
    dynamics.save_model(output / f"{case}.safetensors")

    # The model is what it is from here on: these frames are for statistics.
    with Trajectory(output / f"{case}.traj", "a") as frames:
        for _ in range(steps):
            dynamics.run(1)
            frames.write(atoms)
    print(dynamics.report_line())
    dynamics.report(output / f"{case}.html")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="copper")
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--target", type=float, default=3.0, help="error of a jump, %% of the thermal velocity")
    parser.add_argument("--updates", type=int, default=20, help="of the model after each new segment")
    parser.add_argument("--jumps", type=int, default=100, help="jumps after which learning ends")
    parser.add_argument("--steps", type=int, default=500, help="jumps of the frozen model")
    main(**vars(parser.parse_args()))
