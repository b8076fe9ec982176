"""Jumps inside a Context: every back-end gives the numbers of the host, and leaves the Context consistent."""

from __future__ import annotations

import functools

import numpy as np
import openmm_cases as cases
import pytest
import torch
from openmm_cases import INSIDE, PLATFORMS, StandIn, phase_space, rotation, simulation

openmm = pytest.importorskip("openmm")

CASES = {
    "peptide, constraints": cases.peptide,
    "peptide, flexible": functools.partial(cases.peptide, constraints=None),
    "peptide, repartitioned masses": functools.partial(cases.peptide, hydrogen_mass=3.0),
    "rigid water, barostat": functools.partial(cases.water, barostat=True),
    "rigid water, triclinic": functools.partial(cases.water, triclinic=True),
    "virtual sites": functools.partial(cases.water, model="tip4pew"),
    "virtual sites, triclinic": functools.partial(cases.water, n=3, model="tip4pew", triclinic=True),
}


def stand_in(case, **options) -> StandIn:
    return StandIn(periodic=case[1].usesPeriodicBoundaryConditions(), **options)


def jump_everywhere(make, propagator_for, platform, backend, **options):
    """Phase space after one jump by the host and by a back-end, and the simulations."""
    made = []
    for name in ("host", backend):
        case = make()
        given = {**options, "classical": options["classical"]()} if "classical" in options else options
        one = simulation(case, propagator_for(case), platform, name, **given)
        one.step(1)
        assert one.integrator.statistics.accepted == 1
        assert one.context.getStepCount() == one.integrator.schedule.classical_steps + 1
        assert one.context.getTime()._value == pytest.approx(0.008)
        made.append(one)
    return [phase_space(one) for one in made], made


def tolerances(platform: str, backend: str, name: str) -> tuple[float, float]:
    """How well back-ends agree: nm and nm/ps.

    Where the force sees positions in single precision, bonds have directions good to 1e-6, along which velocities of
    some nm/ps are projected. In mixed precision that is so for the tensors of PythonTorchForce, and where there are
    virtual sites.
    """
    tolerance = PLATFORMS[platform][2]
    rough = "virtual" in name or backend == "python_torch"
    single = platform == "OpenCL-single" or (platform == "OpenCL-mixed" and rough)
    return tolerance, (1e-5 if single else tolerance)


def combinations():
    for platform in PLATFORMS:
        for backend in INSIDE:
            for name in CASES:
                # Compiling for OpenCL takes seconds: mixed runs everything, the others what precision could change.
                every = platform in ("Reference", "CPU", "OpenCL-mixed") and backend == "python"
                if cases.works(platform, backend) and (every or name in ("peptide, constraints", "virtual sites")):
                    yield platform, backend, name


@pytest.mark.parametrize(("platform", "backend", "name"), list(combinations()))
def test_back_ends_agree_with_the_host(platform, backend, name, monkeypatch):
    cases.provide(backend, monkeypatch)
    (expected, found), _ = jump_everywhere(
        CASES[name], stand_in, platform, backend, classical=cases.velocity_verlet, half_step_velocities=False
    )
    assert np.abs(expected[0] - CASES[name]()[2]).max() > 1e-3  # the jump did something
    nm, nm_per_ps = tolerances(platform, backend, name)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=nm)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=nm_per_ps)


@pytest.mark.parametrize(("platform", "backend", "name"), list(combinations()))
def test_classical_forces_reach_the_propagator_and_half_step_velocities_return(platform, backend, name, monkeypatch):
    """Forces enter twice: as an input, and where leap-frog velocities are brought to the time of the positions.

    Two Contexts of a single-precision platform give forces that differ in the sixth digit (order of summation), which
    reaches the velocities by half a classical step and a tenth of a jump.
    """
    cases.provide(backend, monkeypatch)
    informed = functools.partial(stand_in, kind="force-start")
    (expected, found), made = jump_everywhere(CASES[name], informed, platform, backend)
    seen, seen_inside = (one.integrator.propagator.seen for one in made)
    largest = float(seen.forces.norm(dim=1).max())
    noise = float((seen.forces - seen_inside.forces).norm(dim=1).max())
    assert noise < (1e-12 if platform == "Reference" else 2e-5) * largest
    nm, nm_per_ps = tolerances(platform, backend, name)
    noisy = "CPU" in platform or "CL" in platform
    reach = 2e-5 * largest / 10 * (0.002 + 0.0008) if noisy and "water" in name + str(CASES[name]) else 0.0
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=nm + 0.008 * reach)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=nm_per_ps + reach)


@pytest.mark.parametrize("platform", ["Reference", "CPU", "OpenCL-mixed"])
@pytest.mark.parametrize("kind", ["force-free", "force-start"])
def test_a_network_gives_the_numbers_of_the_host(platform, kind):
    (expected, found), _ = jump_everywhere(
        cases.peptide, lambda _: cases.small_network(kind), platform, "python", guard=False
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=PLATFORMS[platform][2])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=PLATFORMS[platform][2])


@pytest.mark.parametrize(("platform", "backend"), cases.pairs(["Reference", "CPU", "OpenCL-mixed"], INSIDE))
def test_a_solute_jumps_in_water_and_the_rest_stands_still(platform, backend, monkeypatch):
    cases.provide(backend, monkeypatch)
    (expected, found), _ = jump_everywhere(
        cases.solvated,
        lambda _: StandIn(),
        platform,
        backend,
        atoms=range(22),
        classical=cases.velocity_verlet,
        half_step_velocities=False,
    )
    nm, nm_per_ps = tolerances(platform, backend, "solute")
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=nm)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=nm_per_ps)
    start = cases.solvated()[2]
    assert np.abs(found[0][:22] - start[:22]).max() > 1e-3
    # Single precision of positions outside the box, where the start lies.
    np.testing.assert_allclose(found[0][22:], start[22:], rtol=0, atol=1e-12 if "CL" not in platform else 1e-6)


@pytest.mark.parametrize(
    ("platform", "backend"),
    cases.pairs(list(PLATFORMS), ["host", "python"]) + cases.pairs(["OpenCL-mixed"], [*INSIDE[1:]]),
)
@pytest.mark.parametrize("angle", [0.4, np.pi / 2, np.pi])
def test_constraints_virtual_sites_and_energies_after_a_rotation(platform, backend, angle, monkeypatch):
    cases.provide(backend, monkeypatch)
    case = cases.water(3, model="tip4pew")
    made = simulation(case, stand_in(case, move=rotation(angle)), platform, backend, guard=False)
    made.step(1)
    x, v = phase_space(made)
    system = made.system
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        bond = x[i] - x[j]
        assert abs(np.linalg.norm(bond) - length._value) < 1e-6
        assert abs(bond @ (v[i] - v[j])) < 1e-5 * length._value * np.abs(v).max()
    turned = np.linalg.norm(x[1::4] - case[2][1::4], axis=1)
    assert turned.max() > 0.15 * np.sin(angle / 2)  # twice 0.096 nm times the sine, for an arm across the axis
    fresh = openmm.Context(case[1], openmm.VerletIntegrator(0.001), *cases.platform_of(platform))
    fresh.setPositions(x)
    after = fresh.getState(positions=True, energy=True)
    fresh.computeVirtualSites()
    sites = fresh.getState(positions=True).getPositions(asNumpy=True)._value
    np.testing.assert_allclose(x, sites, rtol=0, atol=1e-12 if "CL" not in platform else 1e-6)
    here = made.context.getState(energy=True)
    tolerance = 1e-6 if platform == "Reference" else 1e-4
    assert here.getPotentialEnergy()._value == pytest.approx(after.getPotentialEnergy()._value, rel=tolerance)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("verlet", ["leap-frog", "velocity Verlet"])
def test_hybrid_cycles_stay_together_step_by_step(platform, verlet):
    """Classical steps, centre-of-mass remover and jumps; with random numbers they would part at the first jump.

    Also, no integrator goes on with forces from before the steps of the other one.
    """
    ends = []
    for backend in ("host", "python"):
        case = cases.water(3)
        assert any(isinstance(force, openmm.CMMotionRemover) for force in case[1].getForces())
        kind = {"classical": cases.velocity_verlet(), "half_step_velocities": False} if "velo" in verlet else {}
        made = simulation(case, stand_in(case), platform, backend, started=False, **kind)
        made.step(18)
        assert made.integrator.statistics.tried == 3
        ends.append(phase_space(made))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-9 if platform == "Reference" else 1e-6)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=0, atol=1e-7 if platform == "Reference" else 1e-4)


def test_a_barostat_and_langevin_steps_run_between_jumps():
    case = cases.water(barostat=True)
    made = simulation(case, stand_in(case), "CPU", "python", cases.langevin(), started=False)
    widths = set()
    for _ in range(10):
        made.step(6)
        widths.add(made.context.getState().getPeriodicBoxVectors()[0][0]._value)
    assert made.integrator.statistics.accepted == 10
    assert len(widths) > 1  # the barostat moved the box
    assert made.context.getTime()._value == pytest.approx(10 * 0.018)


def test_a_barostat_acts_where_there_are_no_classical_steps():
    case = cases.water(barostat=True)
    made = simulation(case, stand_in(case), "CPU", "host", cases.langevin(), classical_steps=0)
    widths = set()
    for _ in range(10):
        made.step(5)
        widths.add(made.context.getState().getPeriodicBoxVectors()[0][0]._value)
    assert made.integrator.statistics.tried == 50
    assert len(widths) > 1


def test_openmm_and_ase_give_the_same_numbers():
    """One jump with thermostat and constraints, by the OpenMM host, inside a Context, and by ASE."""
    from ase import Atoms

    from fastegnn_md.engines.ase.stepper import PICOSECOND
    from fastegnn_md.engines.openmm import OpenMMCalculator
    from fastegnn_md.integrators.ase.jump import AtomsJump
    from fastegnn_md.integrators.openmm.classical import StepGenerator

    case = cases.peptide()
    propagator = cases.small_network("force-start")
    made = {
        backend: simulation(
            cases.peptide(), propagator, "Reference", backend, cases.langevin(step=1e-12), jumps=None, guard=False
        )
        for backend in ("host", "python")
    }
    for one in made.values():
        one.step(1)
    topology, system, positions = case
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    atoms = Atoms(numbers, positions=10 * positions)
    atoms.calc = OpenMMCalculator(system, topology=topology, platform="Reference")
    atoms.set_masses(atoms.calc.masses)
    start = simulation(cases.peptide(), propagator, "Reference", "host")
    atoms.set_velocities(10 * phase_space(start)[1] / PICOSECOND)
    atoms.set_constraint(atoms.calc.bond_constraints())
    integrator = made["host"].integrator
    jump = AtomsJump(atoms, integrator._jump.guarded, bonds=[(a.index, b.index) for a, b in topology.bonds()])
    assert jump.attempt(StepGenerator().at(7, integrator.schedule.classical_steps)).ok
    for one in made.values():
        x, v = phase_space(one)
        np.testing.assert_allclose(x, atoms.positions / 10, rtol=0, atol=1e-9)
        # ASE's eV and OpenMM's kJ/mol are of different CODATA years.
        np.testing.assert_allclose(v, atoms.get_velocities() * PICOSECOND / 10, rtol=0, atol=1e-7)


class Oscillators:
    """Particles on springs of one frequency each: x = cos ωt, v = -ω sin ωt, in nm."""

    def __init__(self, omegas=(20.0, 35.0, 50.0)):
        self.omegas = np.array(omegas)
        self.system = openmm.System()
        force = openmm.CustomExternalForce("0.5*k*x^2")
        force.addPerParticleParameter("k")
        for i, omega in enumerate(self.omegas):
            self.system.addParticle(12.0)
            force.addParticle(i, [12.0 * omega**2])
        self.system.addForce(force)


def integrators():
    yield openmm.VerletIntegrator(0.002)
    yield openmm.LangevinMiddleIntegrator(0, 0, 0.002)
    yield openmm.LangevinIntegrator(0, 0, 0.002)


@pytest.mark.parametrize("integrator", list(integrators()), ids=lambda one: type(one).__name__)
def test_half_step_velocities_are_brought_to_the_time_of_the_positions(integrator):
    """v + δ f / 2m is the velocity at the time of x, to second order in δ; the stored one is off by first order."""
    from fastegnn_md.engines.openmm.integrators import holds_half_step_velocities

    springs = Oscillators()
    context = openmm.Context(springs.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    x0 = np.zeros((3, 3))
    x0[:, 0] = 0.1
    context.setPositions(x0)
    half = 0.001
    v0 = np.zeros((3, 3))
    v0[:, 0] = 0.1 * springs.omegas * np.sin(springs.omegas * half)  # at -δ/2
    context.setVelocities(v0)
    assert holds_half_step_velocities(integrator)
    integrator.step(60)
    state = context.getState(positions=True, velocities=True, forces=True)
    v = state.getVelocities(asNumpy=True)._value[:, 0]
    on_step = v + half * state.getForces(asNumpy=True)._value[:, 0] / 12.0
    exact = -0.1 * springs.omegas * np.sin(springs.omegas * 0.12)
    amplitude = 0.1 * springs.omegas
    assert np.all(np.abs(on_step - exact) / amplitude < 0.02)
    assert np.any(np.abs(v - exact) / amplitude > 0.03)


@pytest.mark.parametrize("backend", ["host", "python"])
def test_verlet_energy_does_not_notice_exact_jumps(backend):
    """A jump by the exact solution between leap-frog steps: without the half-step conversion energy would jump, too."""
    from openmm import app

    from fastegnn_md.integrators import Conserve

    springs = Oscillators((20.0, 35.0, 50.0))
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for _ in range(3):
        topology.addAtom("C", app.element.carbon, residue)

    def exact(state):
        omega = torch.tensor(springs.omegas)[:, None] * torch.tensor([1.0, 0.0, 0.0])
        c, s = torch.cos(omega * 0.008), torch.sin(omega * 0.008)
        drift = torch.where(omega > 0, s / omega.clamp(min=1e-9), 0.008)
        x = c * state.positions + drift * state.velocities
        return state.replace(positions=x, velocities=c * state.velocities - omega * s * state.positions)

    propagator = StandIn(move=exact)
    positions = np.zeros((3, 3))
    positions[:, 0] = 0.1
    positions[:, 1] = (0.0, 1.0, 2.0)
    made = simulation(
        (topology, springs.system, positions),
        propagator,
        "Reference",
        backend,
        started=False,
        learned_forces=["CustomExternalForce"],
        conserve=Conserve(momentum=False),
    )
    made.context.setVelocities(np.zeros((3, 3)))
    reference = 0.5 * 12.0 * springs.omegas**2 * 0.01
    worst = 0.0
    for _ in range(120):
        made.step(1)
        state = made.context.getState(positions=True, velocities=True, forces=True)
        x, f = state.getPositions(asNumpy=True)._value[:, 0], state.getForces(asNumpy=True)._value[:, 0]
        v = state.getVelocities(asNumpy=True)._value[:, 0] + 0.001 * f / 12.0
        energy = 0.5 * 12.0 * (v**2 + springs.omegas**2 * x**2)
        worst = max(worst, float(np.abs(energy / reference - 1).max()))
    assert made.integrator.statistics.accepted == 20
    assert worst < 0.03  # without conversion 2 x 5 % per jump, growing


def test_an_error_that_carries_more_than_words_is_given_its_step():
    from fastegnn_md.integrators.openmm.jump import _named
    from fastegnn_md.mechanics.constraints import UnreachableLengthError

    named = _named(UnreachableLengthError("too far", (4, 5)), 7, part=None)
    assert isinstance(named, UnreachableLengthError)
    assert (str(named), named.atoms) == ("step 7: too far", (4, 5))
