"""Forces of OpenMM in triclinic boxes against a sum over all images: bursts and jumps are no better than they are."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
import pytest
from all_images import CLOSED, every_pair

from fastegnn_md.data import Store
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.bursts import Start
from fastegnn_md.harvest.recipe import burst_recipe

STRENGTH = 100.0  # kJ/mol


def soft_spheres(require, n, cutoff):
    """A System of E = k (1 - r/r_c)² below the cutoff (nm), smooth there."""
    openmm = require("openmm")
    system, force = openmm.System(), openmm.CustomNonbondedForce("k*(1-r/cutoff)^2")
    force.addGlobalParameter("k", STRENGTH)
    force.addGlobalParameter("cutoff", cutoff)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(cutoff)
    for _ in range(n):
        system.addParticle(39.948)
        force.addParticle([])
    system.addForce(force)
    return system


def forces_over_all_images(x, box, cutoff):
    """Of the soft spheres, kJ/mol/nm."""
    forces = np.zeros_like(x)
    for (i, j, *shift), r in every_pair(x, box, CLOSED, cutoff).items():
        forces[i] += 2 * STRENGTH / cutoff * (1 - r / cutoff) / r * (x[i] - x[j] - np.array(shift) @ box)
    return forces


def forces_by(require, system, x, box, platform):
    openmm = require("openmm")
    settings = {"Threads": "1"} if platform == "CPU" else {}
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform), settings
    )
    context.setPositions(x)
    return context.getState(forces=True).getForces(asNumpy=True)._value


def some_box(rng, skew):
    """In the form OpenMM asks for, off-diagonal elements that share of the diagonal, edges in nm."""
    a, b, c = rng.uniform(2.0, 6.0, 3)
    signs = rng.choice([-1.0, 1.0], 3)
    return np.array([[a, 0, 0], [signs[0] * skew * a, b, 0], [signs[1] * skew * a, signs[2] * skew * b, c]])


@pytest.mark.parametrize(("platform", "skew"), [("CPU", 0.0), ("CPU", 0.3), ("CPU", 0.499), ("Reference", 0.0)])
def test_no_neighbour_is_missed(platform, skew, require):
    """OpenMM 8.5.1's CPU fails here with a skew of 0.499, 8.6.1's Reference would with one of 0.2."""
    require("openmm")
    rng = np.random.default_rng(1)
    for case in range(30):
        box, n = some_box(rng, skew), int(rng.integers(2, 60))
        cutoff = rng.uniform(0.2, 0.499) * box.diagonal().min()
        x = rng.uniform(0, 1, (n, 3)) @ box + rng.integers(-2, 3, (n, 3)) @ box
        expected = forces_over_all_images(x, box, cutoff)
        found = forces_by(require, soft_spheres(require, n, cutoff), x, box, platform)
        error = np.abs(found - expected).max()
        # single precision on the CPU: of positions some 20 nm from the origin, and of r near 0
        assert error <= 1e-4 * max(STRENGTH / cutoff, np.abs(expected).max()), f"case {case}: {error}"


@pytest.mark.parametrize(("angles", "platform"), [((90.0, 90.0, 90.0), "Reference"), ((60.0, 60.0, 60.0), "CPU")])
def test_bursts_of_small_systems_run_where_no_neighbour_is_missed(angles, platform, require, tmp_path):
    require("openmm")
    rng, n, cutoff = np.random.default_rng(2), 40, 0.9
    universe = mda.Universe.empty(n, trajectory=False)
    universe.add_TopologyAttr("elements", ["Ar"] * n)
    universe.add_TopologyAttr("masses", np.full(n, 39.948))
    dimensions = np.tile(np.array([30.0, 22.0, 26.0, *angles], dtype=np.float32), (3, 1))
    cell = mda.lib.mdamath.triclinic_vectors(dimensions[0])
    x = (rng.uniform(-1, 2, (3, n, 3)) @ cell).astype(np.float32)
    universe.load_new(x, dt=1.0, dimensions=dimensions)
    system = soft_spheres(require, n, cutoff)
    first = Start(positions=x[0], velocities=np.zeros((n, 3)), cell=cell.astype(float))
    recipe = burst_recipe(system, numbers=np.full(n, 18), masses=np.full(n, 39.948), timestep=0.002, first=first)
    assert recipe.platform == platform
    path = harvest(
        universe, system, store=tmp_path / "b.h5md", temperature=50.0, timestep="2 fs", interval="8 fs", progress=False
    )
    with Store(path) as store:
        for frame in range(store.n_frames):
            place, box = store.positions[frame].astype(float) / 10, np.array(store.cells[frame]) / 10
            expected = forces_over_all_images(place, box, cutoff)
            np.testing.assert_allclose(store.forces[frame] * 10, expected, atol=2e-4 * np.abs(expected).max())
