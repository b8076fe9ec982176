"""Systems, propagators and back-ends that the OpenMM tests share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import types
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from fastegnn_md import Propagator
from fastegnn_md._extras import how_to_get
from fastegnn_md.graph import minimum_image
from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule
from fastegnn_md.propagator.config import Kind, PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

PLUGIN = importlib.util.find_spec("openmmtorch") is not None
if PLUGIN:
    import openmmtorch  # torch was imported before, or the plugin would not be found
REAL_PYTHON_TORCH = PLUGIN and hasattr(openmmtorch, "PythonTorchForce")
# Back-ends inside a Context that can be tested here; PythonTorchForce by a stand-in where it is not installed.
INSIDE = ["python", "python_torch", *(["torch"] if PLUGIN else [])]
# What is OpenCL here runs on CUDA where there is a GPU: both are OpenMM's common code.
_ON_GPU = os.environ.get("FASTEGNN_MD_TEST_GPU_PLATFORM", "OpenCL")
# Platform, its properties, and how well back-ends agree on it: nm and nm/ps.
PLATFORMS = {
    "Reference": ("Reference", {}, 1e-12),
    "CPU": ("CPU", {"Threads": "1", "DeterministicForces": "true"}, 1e-12),
    "OpenCL-single": (_ON_GPU, {"Precision": "single"}, 2e-6),
    "OpenCL-mixed": (_ON_GPU, {"Precision": "mixed"}, 1e-6),
    "OpenCL-double": (_ON_GPU, {"Precision": "double"}, 1e-8),
}


def works(platform: str, backend: str) -> bool:
    """False where the plugin has no kernel: openmmtorch 1.5 does not load its OpenCL library beside OpenMM 8.6.1."""
    return not (backend == "torch" and platform.startswith("OpenCL"))


def pairs(platforms: list[str], backends: list[str]) -> list[tuple[str, str]]:
    """Platforms and back-ends to test together."""
    return [(platform, backend) for platform in platforms for backend in backends if works(platform, backend)]


@cache
def _platform_works(name: str) -> bool:
    """OpenCL's library alone is not enough: without a driver there is the platform, and no Context on it."""
    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name not in known:
        return False
    system = openmm.System()
    system.addParticle(1.0)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(name))
    except openmm.OpenMMException:
        return False
    return True


def platform_of(name: str) -> tuple[openmm.Platform, dict[str, str]]:
    """Platform and properties, or a skip where the machine has none."""
    platform, properties, _ = PLATFORMS[name]
    if not _platform_works(platform):
        component = f"OpenMM platform {platform}"
        pytest.skip(f"missing: {component} ({how_to_get(component)})")
    return openmm.Platform.getPlatformByName(platform), properties


class _TensorWrapper:
    """PythonTorchForce's way of calling, on top of PythonForce."""

    def __init__(self, computation):
        self.computation = computation

    def __call__(self, state):
        positions = torch.tensor(state.getPositions(asNumpy=True)._value, requires_grad=True)
        energy, forces = self.computation(state, positions)
        assert energy.shape == ()
        assert forces.dtype == positions.dtype
        assert forces.is_contiguous()
        assert not forces.requires_grad
        positions.data.fill_(torch.nan)  # the real one reuses this memory
        return energy.item(), forces.numpy()


def stand_in_for_openmmtorch() -> types.ModuleType:
    module = types.ModuleType("openmmtorch")
    module.__spec__ = importlib.util.spec_from_loader("openmmtorch", loader=None)
    module.PythonTorchForce = lambda computation, parameters: openmm.PythonForce(
        _TensorWrapper(computation), parameters
    )
    return module


def provide(backend: str, monkeypatch) -> None:
    """Make a back-end available for one test."""
    if backend == "python_torch" and not REAL_PYTHON_TORCH:
        monkeypatch.setitem(sys.modules, "openmmtorch", stand_in_for_openmmtorch())


class StandIn(FakePropagator):
    """A map that looks at everything: bonds, velocities and, if asked, forces; knows light elements only.

    Bonds enter by their nearest image, so that the map does not change when a molecule is wrapped.
    """

    def __init__(self, *, move=None, timestep=0.008, periodic=False, limits=None, **options):
        domain = permissive_domain(periodic=periodic, bonds=True, limits=limits)
        light = {number: masses for number, masses in domain.masses.items() if number <= 20}
        domain = dataclasses.replace(domain, masses=light)
        super().__init__(move or self.drift, timestep, domain, **{"cutoff": 3.0, **options})

    def with_trust(self, state, **options):
        self.seen = state
        return super().with_trust(state, **options)

    @staticmethod
    def drift(state, timestep=0.008):
        a, b = state.bonds.unbind(1)
        bond = state.positions[a] - state.positions[b]
        if state.cell is not None:
            m = len(bond)
            bond = minimum_image(bond, state.cell.expand(m, 3, 3), state.pbc.expand(m, 3))
        pull = torch.zeros_like(state.positions).index_add(0, a, bond).index_add(0, b, -bond)
        kick = 20.0 * torch.tanh(pull) - 0.2 * state.velocities
        if state.forces is not None:
            kick = kick + timestep * state.forces / state.masses[:, None]
        velocities = state.velocities + 0.1 * kick
        return state.replace(positions=state.positions + timestep * velocities, velocities=velocities)


def rotation(angle: float, axis=(1.0, 2.0, 3.0)):
    """A map that turns each molecule (its bonds) about its first atom by an angle, and its velocities with it."""
    axis = torch.tensor(axis, dtype=torch.float64)
    k = axis / axis.norm()
    cross = torch.tensor([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]], dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross

    def move(state):
        first = torch.arange(state.n_atoms)
        for a, b in state.bonds.tolist():  # bonds of the tests go outwards from the first atom
            first[max(a, b)] = first[min(a, b)]
        arms = state.positions - state.positions[first]
        wobble = 1.0 + 0.01 * torch.sin(torch.arange(state.n_atoms, dtype=torch.float64))[:, None]
        return state.replace(
            positions=state.positions[first] + wobble * (arms @ matrix.T), velocities=state.velocities @ matrix.T
        )

    return move


def small_network(kind: Kind = "force-free", seed: int = 1) -> Propagator:
    """An untrained network for the peptide, in float64, with displacements that matter."""
    masses = {1: (1.0, 3.1), 6: (6.0, 12.1), 7: (9.0, 14.1), 8: (15.9, 16.1)}
    domain = Domain(
        masses=masses,
        limits=JumpLimits({}),
        periodic=False,
        bonds=True,
        conserves_momentum=True,
        neighbours=10.0,
        velocity_scale=10.0,
        force_scale=1e4,
    )
    config = PropagatorConfig(kind=kind, hidden=8, layers=2, radial_functions=4)
    propagator = Propagator.build(config, 0.008, domain, seed=seed).double()
    propagator.linear.scale.data[:] = torch.tensor([0.002, 0.2], dtype=torch.float64)
    return propagator


@cache
def peptide_pdb() -> app.PDBFile:
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        return app.PDBFile(str(path))


def peptide(hydrogen_mass: float | None = None, constraints=app.HBonds, solvent: str | None = None):
    """Topology, System, positions in nm: alanine dipeptide, 22 atoms, in vacuum or implicit solvent."""
    pdb = peptide_pdb()
    files_ = ["amber14-all.xml", *([f"implicit/{solvent}.xml"] if solvent else [])]
    system = app.ForceField(*files_).createSystem(
        pdb.topology,
        constraints=constraints,
        hydrogenMass=None if hydrogen_mass is None else hydrogen_mass * unit.dalton,
    )
    return pdb.topology, system, np.array(pdb.getPositions(asNumpy=True)._value)


def without_remover(case):
    """The same case without its CMMotionRemover, which acts between jumps."""
    system = case[1]
    kinds = [type(force).__name__ for force in system.getForces()]
    system.removeForce(kinds.index("CMMotionRemover"))
    return case


def water(n: int = 4, model: str = "tip3p", triclinic: bool = False, barostat: bool = False, seed: int = 0):
    """A box of n³ rigid waters on a lattice; molecules lie in random periodic images."""
    topology, chain, positions = app.Topology(), None, []
    chain = topology.addChain()
    rng, spacing = np.random.default_rng(seed), 0.40
    shape = np.array([[0.09572, 0, 0], [-0.02399872, 0.09266272, 0]])
    box = n * spacing * np.eye(3)
    if triclinic:
        box[1, 0], box[2, 0], box[2, 1] = 0.3 * box[0, 0], -0.25 * box[0, 0], 0.2 * box[0, 0]
    oxygen, hydrogen = app.element.oxygen, app.element.hydrogen
    for place in np.stack(np.meshgrid(*[range(n)] * 3, indexing="ij"), -1).reshape(-1, 3):
        residue = topology.addResidue("HOH", chain)
        atoms = [topology.addAtom(name, e, residue) for name, e in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen))]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        at = (place / n) @ box + rng.integers(-1, 2, 3) @ box
        positions += [at, *(at + shape @ turn)]
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    force_field = app.ForceField(f"amber14/{model}.xml")
    modeller = app.Modeller(topology, np.array(positions) * unit.nanometer)
    modeller.addExtraParticles(force_field)
    system = force_field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.6 * unit.nanometer, rigidWater=True
    )
    if barostat:
        system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 5))
    return modeller.topology, system, np.array(modeller.getPositions().value_in_unit(unit.nanometer))


@cache
def solvated_pdb():
    pdb = peptide_pdb()
    force_field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(force_field, boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
    return modeller.topology, force_field, np.array(modeller.getPositions().value_in_unit(unit.nanometer))


def solvated():
    """The peptide in TIP3P water; the first 22 atoms are the peptide."""
    topology, force_field, positions = solvated_pdb()
    system = force_field.createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8 * unit.nanometer, constraints=app.HBonds
    )
    return topology, system, positions


def velocities_for(system: openmm.System, seed: int = 0) -> np.ndarray:
    """Thermal velocities in nm/ps; zero for massless particles."""
    rng, n = np.random.default_rng(seed), system.getNumParticles()
    masses = np.array([system.getParticleMass(i)._value for i in range(n)])
    scale = np.divide(2.494, masses, out=np.zeros(n), where=masses > 0)
    return np.sqrt(scale)[:, None] * rng.normal(size=(n, 3))


def langevin(seed: int = 3, friction: float = 1.0, step: float = 0.002) -> openmm.Integrator:
    integrator = openmm.LangevinMiddleIntegrator(300, friction, step)
    integrator.setRandomNumberSeed(seed)
    return integrator


def velocity_verlet(step: float = 0.002) -> openmm.CustomIntegrator:
    """Its velocities are those of the time of the positions."""
    integrator = openmm.CustomIntegrator(step)
    integrator.addPerDofVariable("x1", 0)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("x1", "x")
    integrator.addConstrainPositions()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m+(x-x1)/dt")
    integrator.addConstrainVelocities()
    return integrator


def simulation(
    case,
    propagator,
    platform="Reference",
    backend="host",
    classical=None,
    atoms=None,
    started=True,
    learned_forces=(),
    **options,
) -> LearnedSimulation:
    """A simulation at its start; with ``started`` its next step is a jump."""
    topology, system, positions = case
    names = ("classical_steps", "jumps", "fallback", "relax_steps", "minimize_steps")
    schedule = {"classical_steps": 5} | {name: options.pop(name) for name in names if name in options}
    schedule["classical"] = classical or openmm.VerletIntegrator(0.002)
    integrator = LearnedIntegrator(propagator, seed=7, schedule=Schedule(**schedule), **options)
    made = LearnedSimulation(
        topology,
        system,
        integrator,
        *platform_of(platform),
        atoms=atoms,
        backend=backend,
        learned_forces=learned_forces,
    )
    made.context.setPositions(positions)
    made.context.setVelocities(velocities_for(system))
    made.context.applyVelocityConstraints(1e-8)
    made.context.computeVirtualSites()
    if started:
        made.context.setStepCount(integrator.schedule.classical_steps)
    return made


def phase_space(made) -> tuple[np.ndarray, np.ndarray]:
    """Positions in nm and velocities in nm/ps."""
    state = made.context.getState(positions=True, velocities=True)
    return np.array(state.getPositions(asNumpy=True)._value), np.array(state.getVelocities(asNumpy=True)._value)
