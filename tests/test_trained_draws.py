"""The shipped generative models of alanine dipeptide: how often they change its state, and what they leave intact."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from fastegnn_md import Propagator, State

# 64 frames with ψ between -120 and 50 degrees and 64 others of run 3 of benchmarks/peptides/simulate.py, and how often
# frames of runs 2 and 3 (160 ns) are on the same side 10 ps later.
REFERENCE = np.load(Path(__file__).parent / "data" / "ala2_obc_starts.npz")
PSI = (6, 8, 14, 16)
CENTRE = (8, 6, 10, 14)  # the stereocentre, and three of its neighbours


@pytest.fixture(scope="module")
def pdb(require):
    app = require("openmm.app")
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        return app.PDBFile(str(path))


@pytest.fixture(scope="module")
def starts(pdb) -> State:
    atoms = list(pdb.topology.atoms())
    assert [atoms[k].name for k in PSI] == ["N", "CA", "C", "N"]
    assert [atoms[k].name for k in CENTRE] == ["CA", "N", "CB", "C"]
    positions = torch.from_numpy(REFERENCE["positions"])
    return State.concatenate(
        [
            State(
                positions=one,
                velocities=torch.zeros_like(one),
                numbers=torch.tensor([atom.element.atomic_number for atom in atoms]),
                masses=torch.tensor([atom.element.mass._value for atom in atoms]),
                bonds=torch.tensor([(bond[0].index, bond[1].index) for bond in pdb.topology.bonds()]),
            )
            for one in positions
        ]
    )


def is_alpha(positions: torch.Tensor) -> np.ndarray:
    from MDAnalysis.lib.distances import calc_dihedrals

    x = positions.numpy().astype(np.float64).reshape(-1, 22, 3)
    angle = np.degrees(calc_dihedrals(*(np.ascontiguousarray(x[:, k]) for k in PSI)))
    return (angle > -120) & (angle < 50)


def handedness(positions: torch.Tensor) -> torch.Tensor:
    x = positions.view(-1, 22, 3)
    a, b, c = (x[:, k] - x[:, CENTRE[0]] for k in CENTRE[1:])
    return (torch.linalg.cross(a, b) * c).sum(1)


def stays(model: Propagator, starts: State, draws: int, network: bool = True) -> tuple[float, float]:
    """Shares of draws that stay on their side of ψ."""
    found = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        found.append(is_alpha(starts.positions + model.displacements(starts, generator, network=network)))
    share, of_alpha = np.mean(found, axis=0), REFERENCE["is_alpha"]
    return float(share[of_alpha].mean()), float(1 - share[~of_alpha].mean())


def test_psi_turns_within_10_ps_as_often_as_in_classical_dynamics(starts):
    truth = float(REFERENCE["stays_alpha"]), float(REFERENCE["stays_extended"])
    model = Propagator.load("ala2-obc-10ps")
    assert stays(model, starts, 4) == pytest.approx(truth, abs=0.1)  # 64 starts: standard error 0.03 to 0.04
    assert stays(model, starts, 4, network=False) != pytest.approx(truth, abs=0.1)


def test_within_100_ps_it_has_forgotten_where_it_was(starts):
    """So both sides lead to the populations of equilibrium, which the chances of 10 ps imply."""
    leave = 1 - float(REFERENCE["stays_alpha"]), 1 - float(REFERENCE["stays_extended"])
    alpha = leave[1] / (leave[0] + leave[1])
    stay_alpha, stay_extended = stays(Propagator.load("ala2-obc-100ps"), starts, 4)
    assert stay_alpha == pytest.approx(alpha, abs=0.1)
    assert stay_extended == pytest.approx(1 - alpha, abs=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", ["ala2-obc-10ps", "ala2-obc-100ps"])
def test_chains_of_draws_keep_bonds_and_hands(name, mirrored, starts):
    model = Propagator.load(name)
    reflection = torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0])
    state = starts.replace(positions=starts.positions * reflection)
    before, generator = handedness(state.positions).sign(), torch.Generator().manual_seed(1)
    for _ in range(3):
        state = model(state, generator=generator, temperature=300.0)
    assert torch.equal(handedness(state.positions).sign(), before)
    first, second = starts.bonds.T
    lengths, usual = (
        (one.positions[first] - one.positions[second]).norm(dim=1).view(128, -1) for one in (state, starts)
    )
    assert (lengths.mean(0) - usual.mean(0)).abs().max() < 0.03
    share = (is_alpha(state.positions * reflection)).mean()
    assert 0.2 < share < 0.6
