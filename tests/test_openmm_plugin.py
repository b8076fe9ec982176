"""openmm-torch from PyPI, in a process of its own; runs where it is installed (make test-openmm-torch)."""

from __future__ import annotations

import subprocess
import sys

import openmm_cases as cases
import pytest

SCRIPT = """
import openmm
from openmm import app, unit
import sys
sys.path.insert(0, {helpers!r})
from fastegnn_md.engines.openmm import find_jump_force
from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule
import openmm_cases as cases
topology, system, positions = cases.peptide()
integrator = LearnedIntegrator(cases.StandIn(), schedule=Schedule(5, 1, classical=cases.langevin()), seed=1)
simulation = LearnedSimulation(topology, system, integrator, openmm.Platform.getPlatformByName("CPU"), backend="torch")
simulation.context.setPositions(positions)
simulation.step(60)
assert integrator.statistics.tried == 10, integrator.statistics
assert integrator.statistics.accepted > 0, integrator.statistics
assert find_jump_force(system, topology, cases.StandIn()).backend == "torch"
print("jumped")
"""

pytestmark = pytest.mark.skipif(not cases.PLUGIN, reason="elsewhere: openmm-torch (make test-openmm-torch)")


def test_torchforce_works_where_openmm_was_imported_before_torch():
    """OpenMM loads its plugins when it is imported, and this one not before torch is there."""
    script = SCRIPT.format(helpers=cases.__file__.rpartition("/")[0])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "jumped"
