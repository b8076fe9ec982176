"""What a System is beyond its atoms: constraints by kind of bond, held particles, forces beyond a force field."""

from __future__ import annotations

import numpy as np
import openmm_cases as cases
import pytest
from openmm import app

from fastegnn_md.engines.openmm import add_jump_force, describe_system
from fastegnn_md.engines.openmm.system import system_bonds

openmm = pytest.importorskip("openmm")


@pytest.mark.parametrize(
    ("asked", "name"), [(None, "none"), (app.HBonds, "HBonds"), (app.AllBonds, "AllBonds"), (app.HAngles, "HAngles")]
)
def test_constraints_are_called_as_create_system_calls_them(asked, name):
    topology, system, _ = cases.peptide(constraints=asked)
    described = describe_system(system, topology)
    assert described.constraints == name
    assert described.water == "absent"


def test_constraints_of_some_bonds_are_none_of_these():
    topology, system, _ = cases.peptide()
    system.removeConstraint(0)
    described = describe_system(system, topology)
    assert (described.constraints, described.hydrogen_bonds) == ("other", "some")


def test_rigid_water_is_no_constraint_of_the_solute():
    topology, system, _ = cases.solvated()
    described = describe_system(system, topology)
    assert (described.constraints, described.water) == ("HBonds", "all")
    assert describe_system(system, topology, atoms=range(22)).water == "absent"


def test_water_with_four_sites_is_rigid_and_its_sites_are_not_held_particles():
    topology, system, _ = cases.water(n=3, model="tip4pew")
    described = describe_system(system, topology)
    assert described.water == "all"
    assert described.massless == ()


def test_a_mass_of_zero_holds_a_particle():
    topology, system, _ = cases.peptide()
    system.setParticleMass(4, 0)
    assert describe_system(system, topology).massless == (4,)
    assert describe_system(system, topology, atoms=range(4)).massless == ()


@pytest.mark.parametrize("solvent", [None, "gbn2", "obc2"])
def test_a_force_field_is_nothing_unusual(solvent):
    topology, system, _ = cases.peptide(solvent=solvent)
    add_jump_force(system, topology, cases.StandIn(), backend="host")
    assert describe_system(system, topology).unusual_forces == ()


@pytest.mark.parametrize("files", [["amber99sb.xml"], ["amoeba2018.xml"]])
def test_other_force_fields_are_nothing_unusual_either(files):
    topology = cases.peptide_pdb().topology
    system = app.ForceField(*files).createSystem(topology)
    assert describe_system(system, topology).unusual_forces == ()


def external():
    force = openmm.CustomExternalForce("k*(x^2+y^2+z^2)")
    force.addGlobalParameter("k", 1000)
    force.addParticle(0, [])
    return force


def torsion():
    force = openmm.CustomTorsionForce("k*(theta-theta0)^2")
    for name in ("k", "theta0"):
        force.addPerTorsionParameter(name)
    force.addTorsion(4, 6, 8, 14, [100.0, -1.0])
    return force


def bias():
    force = openmm.CustomCVForce("k*phi")
    force.addGlobalParameter("k", 1)
    force.addCollectiveVariable("phi", torsion())
    return force


def spring():
    force = openmm.HarmonicBondForce()
    force.addBond(0, 18, 0.5, 1000)
    return force


def remote():
    force = openmm.CustomBondForce("1000*(r-0.5)^2")
    force.addBond(0, 18, [])
    return force


def umbrella():
    force = openmm.CustomAngleForce("k*(theta-2)^2")
    force.addGlobalParameter("k", 10)
    force.addAngle(4, 6, 8, [])
    return force


def centroid():
    force = openmm.CustomCentroidBondForce(2, "distance(g1,g2)")
    for group in ([0, 1], [18, 19]):
        force.addGroup(group)
    force.addBond([0, 1], [])
    return force


@pytest.mark.parametrize("make", [external, torsion, bias, spring, remote, umbrella, centroid])
def test_restraints_and_biases_are_named(make):
    topology, system, _ = cases.peptide()
    force = make()
    system.addForce(force)
    assert describe_system(system, topology).unusual_forces == (type(force).__name__,)
    system.getForce(system.getNumForces() - 1).setName("mine")
    assert describe_system(system, topology).unusual_forces == (f"{type(force).__name__} 'mine'",)


def test_what_acts_between_steps_is_named():
    topology, system, _ = cases.water(n=3, barostat=True)
    described = describe_system(system, topology)
    assert described.barostat == "MonteCarloBarostat"
    assert described.motion_remover == 1
    assert set(described.between_steps) == {"CMMotionRemover", "MonteCarloBarostat"}
    assert described.unusual_forces == ()


@pytest.mark.parametrize("asked", [app.HBonds, app.HAngles])
def test_urey_bradley_terms_and_fixed_angles_are_no_bonds(asked):
    topology, system, positions = cases.peptide(constraints=asked)
    terms = openmm.HarmonicBondForce()
    for force in system.getForces():
        for k in range(force.getNumAngles() if isinstance(force, openmm.HarmonicAngleForce) else 0):
            i, _, j = force.getAngleParameters(k)[:3]
            terms.addBond(i, j, float(np.linalg.norm(positions[i] - positions[j])), 1e4)
    assert terms.getNumBonds() > 20
    system.addForce(terms)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    bonds = {tuple(sorted(atom.index for atom in bond)) for bond in topology.bonds()}
    assert {tuple(pair) for pair in system_bonds(system, numbers).tolist()} == bonds
