"""Restart files of earlier formats go on as the versions that wrote them did; their numbers are kept in tests/data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from fastegnn_md import Propagator

DATA = Path(__file__).parent / "data" / "formats"
CASES = ("langevin", "rescaling", "energy", "metropolis")


def system(case: str):
    from ase.build import bulk, molecule
    from ase.calculators.emt import EMT

    atoms = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3) if case == "energy" else molecule("CH3CH2OH")
    atoms.calc = EMT()
    atoms.rattle(0.3, seed=1)  # what the file holds replaces it
    return atoms, Propagator.load("copper-emt" if case == "energy" else "ethanol-xtb")


@pytest.mark.filterwarnings("ignore:forces come from EMT")
@pytest.mark.parametrize("case", CASES)
def test_runs_of_format_2_go_on(case, require, tmp_path):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics, MetropolizedDynamics

    atoms, propagator = system(case)
    kind = MetropolizedDynamics if case == "metropolis" else LearnedDynamics
    dynamics = kind.restart(DATA / f"restart-2-{case}.safetensors", atoms, propagator)
    assert dynamics.nsteps == 4
    if kind is LearnedDynamics and case != "energy":
        dynamics.guarded.audits = None  # the calculator is not what the model learned, on purpose
    dynamics.run(4)
    after = np.load(DATA / "restart-2-after.npz")
    # Networks in single precision: processors round differently. Other random numbers would differ by 0.1.
    np.testing.assert_allclose(atoms.get_positions(), after[f"{case}.positions"], atol=1e-4)
    np.testing.assert_allclose(atoms.get_momenta(), after[f"{case}.momenta"], atol=1e-3)


@pytest.mark.filterwarnings("ignore:forces come from EMT")
def test_runs_of_format_1_did_not_conserve_angular_momentum(require, tmp_path):
    """Format 1 had no rescaling, no angular momentum and no energy."""
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    data = (DATA / "restart-2-langevin.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["header"])
    header["format_version"] = 1
    for name in ("taut", "conserve_angular_momentum", "conserve_energy"):
        del header["options"][name]
    (tmp_path / "restart").write_bytes(save(load(data), {"header": json.dumps(header)}))
    atoms, propagator = system("langevin")
    dynamics = LearnedDynamics.restart(tmp_path / "restart", atoms, propagator)
    assert dynamics.guarded.conserve.angular_momentum is False
    dynamics.save_restart(tmp_path / "again")
    again = LearnedDynamics.restart(tmp_path / "again", system("langevin")[0], propagator)
    assert again.todict() == dynamics.todict()


def test_dynamics_of_jumps_shorter_than_the_usual_classical_step_go_on(tmp_path):
    from ase.build import molecule

    from fastegnn_md.integrators import LearnedDynamics, Schedule
    from fastegnn_md.propagator.fake import FakePropagator

    def flight(state):
        return state.positions + 2e-4 * state.velocities, state.velocities

    for schedule in (None, Schedule(classical="0.1 fs")):
        atoms, propagator = molecule("CO"), FakePropagator(flight, 2e-4)
        atoms.set_momenta([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
        dynamics = LearnedDynamics(atoms, propagator, schedule=schedule)
        dynamics.run(2)
        dynamics.save_restart(tmp_path / "restart")
        again = LearnedDynamics.restart(tmp_path / "restart", molecule("CO"), propagator)
        assert again.guarded.substep == dynamics.guarded.substep
        for one in (dynamics, again):
            one.run(3)
        assert (again.nsteps, dynamics.nsteps) == (5, 5)
        np.testing.assert_array_equal(again.atoms.positions, dynamics.atoms.positions)
