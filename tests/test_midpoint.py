"""Forces at the midpoint x + v Δt/2: what is stored of them, what a propagator sees, in every engine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest
import torch

from fastegnn_md import Propagator, State
from fastegnn_md.data import Store, TrajectoryPairs
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError, EngineError
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator.committee import Committee
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors
from fastegnn_md.training.start import untrained_propagator
from fastegnn_md.units import EV, KJ_PER_MOL

LAG = 0.004
MASSES = np.array([12.011, 1.008, 15.999])
CURVATURE = 0.5  # eV/Å²
SMALL: dict[str, Any] = {"hidden": 8, "layers": 1, "virtual_nodes": 1, "radial_functions": 4}


def frames(count: int = 30) -> mda.Universe:
    """Three atoms about the corners of a triangle, in memory."""
    x = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.3, 0]]) + 0.1 * np.random.default_rng(0).normal(size=(count, 3, 3))
    universe = mda.Universe.empty(3, trajectory=False)
    universe.add_TopologyAttr("elements", ["C", "H", "O"])
    universe.add_TopologyAttr("masses", MASSES)
    universe.load_new(x.astype(np.float32), dt=1.0)
    return universe


def quartic_calculator() -> Any:
    """E = ¼ k Σ x⁴, k in eV/Å⁴."""
    from ase.calculators.calculator import Calculator

    class Quartic(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            super().calculate(atoms, properties, system_changes)
            x = atoms.get_positions()
            self.results = {"energy": 0.25 * CURVATURE * np.sum(x**4), "forces": -CURVATURE * x**3}

    return Quartic()


def failing_far_out() -> Any:
    from ase.calculators.calculator import CalculationFailed

    calculator = quartic_calculator()

    class Failing(type(calculator)):  # type: ignore[misc]
        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            if np.abs(atoms.positions).max() > 8.0:
                raise CalculationFailed("no convergence")
            super().calculate(atoms, properties, system_changes)

    return Failing()


def quartic_system() -> Any:
    import openmm

    system = openmm.System()
    force = openmm.CustomExternalForce("0.25*k*(x^4+y^4+z^4)")
    force.addGlobalParameter("k", CURVATURE * EV / KJ_PER_MOL * 1e4)  # kJ/mol/nm⁴
    for index, mass in enumerate(MASSES):
        system.addParticle(float(mass))
        force.addParticle(index, [])
    system.addForce(force)
    return system


def quartic_forces(x: np.ndarray) -> np.ndarray:
    """amu Å/ps², of positions in Å."""
    return -CURVATURE * EV * x**3


@pytest.fixture(params=["ase", "openmm"])
def engine(request, require) -> Any:
    require(request.param)
    return quartic_calculator if request.param == "ase" else quartic_system()


def harvested(engine: Any, path: Path, universe: mda.Universe | None = None, **options: Any) -> Path:
    settings: dict[str, Any] = {"burst": "8 fs", "interval": "2 fs", "timestep": "0.5 fs", "temperature": 300.0}
    return harvest(universe or frames(), engine, store=path, progress=False, **(settings | options))


class TestData:
    def test_stored_forces_are_those_half_a_lag_ahead_and_behind(self, engine, tmp_path):
        with Store(harvested(engine, tmp_path / "s.h5md", midpoint="4 fs")) as store:
            assert store.midpoint == pytest.approx(LAG)
            x, v = store.positions.astype(float), store.velocities.astype(float)
            for found, sign in ((store.forces_ahead, 1), (store.forces_behind, -1)):
                expected = quartic_forces(x + sign * 0.5 * LAG * v) / KJ_PER_MOL
                np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
                assert np.abs(found - store.forces).max() > 0.1 * np.abs(expected).max()

    def test_the_bursts_are_those_of_a_harvest_without(self, engine, tmp_path):
        with (
            Store(harvested(engine, tmp_path / "with.h5md", midpoint=LAG)) as found,
            Store(harvested(engine, tmp_path / "without.h5md")) as expected,
        ):
            for name in ("positions", "velocities", "forces"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert expected.midpoint is None
            with pytest.raises(DataError, match="has no forces_ahead"):
                _ = expected.forces_ahead
            with pytest.raises(DataError, match="other settings"):  # a store without is not taken for one with
                harvested(engine, tmp_path / "without.h5md", midpoint=LAG)

    def test_processes_and_mdanalysis(self, require, tmp_path):
        require("openmm")
        one = harvested(quartic_system(), tmp_path / "one.h5md", midpoint=LAG)
        two = harvested(quartic_system(), tmp_path / "two.h5md", midpoint=LAG, processes=2)
        with Store(one) as a, Store(two) as b:
            assert a.content == b.content
            universe = mda.Universe.empty(3, trajectory=False).load_new(str(one), convert_units=False)
            np.testing.assert_array_equal(universe.trajectory[7].positions, a.positions[7])

    def test_pairs_carry_the_side_their_time_goes_to(self, engine, tmp_path):
        path = harvested(engine, tmp_path / "s.h5md", midpoint="4 fs")
        pairs = TrajectoryPairs(path, lag="4 fs", time_reversal=True, progress=False)
        assert pairs.has_midpoint_forces
        for state in pairs.batch(range(len(pairs))):
            x, v = state.positions.double().numpy(), state.velocities.double().numpy()
            expected = quartic_forces(x + 0.5 * LAG * v)
            np.testing.assert_allclose(state.midpoint_forces, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
        together = pairs.batch([3, len(pairs) - 1])[0]
        apart = [one.midpoint_forces for one in together.split()]
        np.testing.assert_array_equal(torch.cat(apart), together.midpoint_forces)
        joined = TrajectoryPairs([path, path], lag="4 fs", time_reversal=True, progress=False)
        np.testing.assert_array_equal(joined.batch([3])[0].midpoint_forces, pairs.batch([3])[0].midpoint_forces)

    def test_forces_of_another_lag_are_not_taken(self, engine, tmp_path):
        path = harvested(engine, tmp_path / "s.h5md", midpoint="4 fs")
        pairs = TrajectoryPairs(path, lag="2 fs", progress=False)
        assert not pairs.has_midpoint_forces
        assert pairs.batch([0])[0].midpoint_forces is None
        config = PropagatorConfig(kind="force-midpoint", **SMALL)
        with pytest.raises(DataError, match=r"half a lag of 2 fs before and after.*midpoint='2 fs'"):
            untrained_propagator(pairs, config)
        with pytest.raises(DataError, match="half a lag of 2 fs"):
            fit(pairs, pairs, TrainingConfig(propagator=config, updates=2))

    @pytest.mark.parametrize("midpoint", [0.0, -1.0, "0 fs", float("inf")])
    def test_a_lag_that_is_none_is_refused(self, midpoint, require, tmp_path):
        require("ase")
        with pytest.raises(DataError, match=f"midpoint is {midpoint}; expected a positive time"):
            harvested(quartic_calculator, tmp_path / "s.h5md", midpoint=midpoint)

    def test_a_failed_burst_is_dropped_here_too(self, require, tmp_path):
        require("ase")
        universe = frames()
        universe.trajectory[4].positions[0] = 9.0
        with Store(harvested(failing_far_out, tmp_path / "s.h5md", universe=universe, midpoint=LAG)) as store:
            assert store.provenance["dropped bursts"] == 1
            assert np.isfinite(store.forces_ahead).all()


class TestPropagator:
    @pytest.fixture
    def pairs(self, require, tmp_path) -> TrajectoryPairs:
        require("openmm")
        path = harvested(quartic_system(), tmp_path / "s.h5md", midpoint="4 fs")
        return TrajectoryPairs(path, lag="4 fs", time_reversal=True, progress=False)

    def test_the_network_sees_these_forces_and_no_others(self, pairs, tmp_path):
        propagator = untrained_propagator(pairs, PropagatorConfig(kind="force-midpoint", **SMALL)).double()
        start = pairs.batch([0, 5])[0].to(dtype=torch.float64)
        ended = propagator(start)
        assert ended.forces is None
        assert ended.midpoint_forces is None
        assert torch.equal(propagator(start.replace(forces=None)).positions, ended.positions)
        other = propagator(start.replace(midpoint_forces=start.forces))
        assert float((other.velocities - ended.velocities).abs().max()) > 1e-3
        with pytest.raises(CompatibilityError, match="half a jump ahead, as midpoint_forces"):
            propagator(start.replace(midpoint_forces=None))
        propagator.save(tmp_path / "p.safetensors")
        assert Propagator.load(tmp_path / "p.safetensors").wants_forces == "midpoint"
        assert "force-midpoint fastegnn" in propagator.describe()
        at_start = untrained_propagator(pairs, PropagatorConfig(kind="force-start", **SMALL)).double()
        with pytest.raises(
            CompatibilityError, match="the kind of member 1 is force-start, that of member 0 force-midpoint"
        ):
            Committee([propagator, at_start])

    def test_it_turns_with_the_atoms(self, pairs):
        propagator = untrained_propagator(pairs, PropagatorConfig(kind="force-midpoint", **SMALL)).double()
        start = pairs.batch([0, 5])[0].to(dtype=torch.float64)
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
        names = ("positions", "velocities", "midpoint_forces")
        turned = propagator(start.replace(**{name: getattr(start, name) @ turn for name in names}))
        ended = propagator(start)
        torch.testing.assert_close(turned.positions, ended.positions @ turn, rtol=0, atol=1e-9)
        torch.testing.assert_close(turned.velocities, ended.velocities @ turn, rtol=0, atol=1e-9)

    def test_the_best_linear_one_is_exact_for_springs(self, require, tmp_path):
        """f = -k (x + v Δt/2): v′ = (cos ωΔt + ½ ωΔt sin ωΔt) v + f sin(ωΔt) ω/k, forth and back."""
        openmm = require("openmm")
        system, force = openmm.System(), openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
        force.addGlobalParameter("k", CURVATURE * EV / KJ_PER_MOL * 100)
        for index, mass in enumerate(MASSES):
            system.addParticle(float(mass))
            force.addParticle(index, [])
        system.addForce(force)
        path = harvested(system, tmp_path / "s.h5md", midpoint="4 fs", timestep="0.01 fs", temperature=3000.0)
        pairs = TrajectoryPairs(path, lag="4 fs", time_reversal=True, progress=False)
        propagator = untrained_propagator(pairs, PropagatorConfig(kind="force-midpoint", **SMALL))
        errors = one_step_errors(propagator, pairs)
        assert errors["best linear with force"].v < 1e-4 * errors["best linear"].v


class DriftKickDrift(FakePropagator):
    """Position Verlet with the forces it is given; ``look`` sees every state."""

    def __init__(self, timestep: float, *, look: Any = None):
        super().__init__(self.leap, timestep, kind="force-midpoint", cutoff=3.0)
        self.look = look

    def leap(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        if self.look is not None:
            self.look(state)
        v = state.velocities + self.timestep * self.forces_of(state) / state.masses[:, None]
        return self.force_positions(state) + 0.5 * self.timestep * v, v


class TestASE:
    @pytest.fixture
    def cluster(self, require) -> Any:
        ase, emt = require("ase"), require("ase.calculators.emt")
        from ase.md.velocitydistribution import thermalize_momenta

        x = np.array([[0, 0, 0], [2.5, 0, 0], [1.2, 2.2, 0], [1.3, 0.8, 2.1], [3.6, 2.1, 0.3]])
        atoms = ase.Atoms("Cu5", x)
        atoms.calc = emt.EMT()
        thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
        return atoms

    @staticmethod
    def sees_its_own_midpoint(atoms: Any, timestep: float) -> DriftKickDrift:
        """A stand-in that holds the forces it gets against those of a calculator of its own."""
        from ase.calculators.emt import EMT

        from fastegnn_md.engines.ase.atoms import FORCE

        other = atoms.copy()
        other.calc = EMT()

        def look(state: State) -> None:
            for one in state.split():
                other.set_positions((one.positions + 0.5 * timestep * one.velocities).numpy(), apply_constraint=False)
                expected = other.get_forces(apply_constraint=False) * FORCE
                np.testing.assert_allclose(one.midpoint_forces, expected, rtol=0, atol=1e-9 * np.abs(expected).max())

        return DriftKickDrift(timestep, look=look)

    def test_jumps_are_position_verlet(self, cluster):
        from ase import units

        from fastegnn_md.integrators import LearnedDynamics

        other = cluster.copy()
        other.calc = type(cluster.calc)()
        LearnedDynamics(cluster, DriftKickDrift(0.002), guard=None, bonds=[]).run(50)
        dt, x, v = 2 * units.fs, other.get_positions(), other.get_velocities()
        for _ in range(50):
            other.set_positions(x + 0.5 * dt * v)
            after = v + dt * other.get_forces() / other.get_masses()[:, None]
            x, v = x + 0.5 * dt * (v + after), after
        np.testing.assert_allclose(cluster.positions, x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(cluster.get_velocities(), v, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("constrained", [False, True])
    def test_forces_are_those_after_the_thermostat(self, cluster, constrained):
        from ase import units
        from ase.constraints import FixAtoms, FixBondLengths
        from ase.md.langevin import Langevin

        from fastegnn_md.integrators import LearnedDynamics, Schedule

        if constrained:
            cluster.set_constraint([FixAtoms([0]), FixBondLengths([[1, 2]])])
        propagator = self.sees_its_own_midpoint(cluster, 0.002)
        options = {"temperature_K": 300, "friction": 0.02 / units.fs, "rng": 1}
        LearnedDynamics(cluster, propagator, guard=None, **options).run(5)
        assert propagator.calls == 5
        classical = Langevin(
            cluster, units.fs, temperature_K=300, friction=0.02 / units.fs, rng=np.random.default_rng(1), fixcm=False
        )
        LearnedDynamics(cluster, propagator, guard=None, rng=1, schedule=Schedule(3, 2, classical=classical)).run(10)
        assert propagator.calls == 9

    def test_a_calculator_that_fails_once_changes_nothing(self, cluster):
        from ase.calculators.calculator import CalculationFailed
        from ase.calculators.emt import EMT

        from fastegnn_md.integrators import LearnedDynamics

        class Failing(EMT):
            calls = 0

            def calculate(self, *arguments: Any, **options: Any) -> None:
                self.calls += 1
                if self.calls == 4:
                    raise CalculationFailed("no convergence")
                super().calculate(*arguments, **options)

        options = {"temperature_K": 300, "friction": 0.1, "rng": 1, "guard": None}
        other = cluster.copy()
        other.calc = type(cluster.calc)()
        expected = LearnedDynamics(other, DriftKickDrift(0.002), **options)
        expected.run(6)
        cluster.calc = Failing()
        found = LearnedDynamics(cluster, DriftKickDrift(0.002), **options)
        with pytest.raises(EngineError, match="no convergence"):
            found.run(6)
        assert found.nsteps == 3
        found.run(3)
        np.testing.assert_array_equal(cluster.positions, other.positions)
        np.testing.assert_array_equal(cluster.get_momenta(), other.get_momenta())

    def test_replicas_and_the_stepper(self, cluster):
        from fastegnn_md.engines.ase.stepper import LearnedStepper
        from fastegnn_md.integrators import LearnedDynamics, LearnedEnsemble

        replicas = [cluster.copy() for _ in range(3)]
        propagator = self.sees_its_own_midpoint(cluster, 0.002)
        dynamics = []
        for seed, atoms in enumerate(replicas):
            atoms.calc = type(cluster.calc)()
            atoms.set_momenta((1 + seed) * atoms.get_momenta())
            dynamics.append(LearnedDynamics(atoms, propagator, temperature_K=300, friction=0.1, rng=seed, guard=None))
        LearnedEnsemble(dynamics).run(3)
        assert propagator.calls == 3
        LearnedStepper(propagator).step(cluster)
        assert propagator.calls == 4

    def test_without_a_calculator(self, cluster):
        from fastegnn_md.engines.ase.stepper import LearnedStepper
        from fastegnn_md.errors import StateError
        from fastegnn_md.integrators import LearnedDynamics

        cluster.calc = None
        with pytest.raises(CompatibilityError, match="an input of this propagator: needs the engine; attach"):
            LearnedDynamics(cluster, DriftKickDrift(0.002))
        with pytest.raises(StateError, match="no calculator"):
            LearnedStepper(DriftKickDrift(0.002)).step(cluster)

    def test_round_trips_of_the_report(self, cluster):
        from fastegnn_md.engines.ase.atoms import forces_at
        from fastegnn_md.engines.ase.stepper import state_from_atoms
        from fastegnn_md.validation.observables.reversibility import round_trip

        trip = round_trip(
            DriftKickDrift(0.002), [state_from_atoms(cluster)], forces=lambda positions: forces_at(cluster, positions)
        )
        assert trip.x.max() < 1e-9  # position Verlet goes back
        assert trip.v.max() < 1e-9


class TestOpenMM:
    CASES = ("peptide", "solvated", "water with virtual sites")

    @pytest.fixture
    def cases(self, require) -> Any:
        require("openmm")
        import openmm_cases

        return openmm_cases

    @pytest.mark.parametrize("platform", ["Reference", "CPU", "OpenCL-mixed"])
    @pytest.mark.parametrize("name", CASES)
    def test_forces_are_those_of_the_state(self, cases, platform, name):
        """Held against a second Context of the System as it was before it had a jump force."""
        import openmm

        case = {
            "peptide": cases.peptide,
            "solvated": cases.solvated,
            "water with virtual sites": lambda: cases.water(3, model="tip4pew"),
        }[name]()
        plain = copy.deepcopy(case[1])
        seen: list[State] = []
        propagator = DriftKickDrift(0.002, look=seen.append)
        atoms = range(22) if name == "solvated" else None
        made = cases.simulation(
            case, propagator, platform, "auto", classical=cases.langevin(), atoms=atoms, guard=False
        )
        begun = cases.phase_space(made)
        made.step(1)
        ended = cases.phase_space(made)
        (state,) = seen
        part = np.arange(plain.getNumParticles()) if atoms is None else np.array(atoms)
        part = part[[plain.getParticleMass(int(i))._value > 0 for i in part]]
        x = begun[0].copy()
        x[part] = (state.positions + 0.5 * 0.002 * state.velocities).numpy() / 10
        context = openmm.Context(plain, openmm.VerletIntegrator(0.001), *cases.platform_of(platform))
        context.setPositions(x)
        context.computeVirtualSites()
        expected = context.getState(forces=True).getForces(asNumpy=True)._value[part] * KJ_PER_MOL / 10
        worst = float(np.abs(state.midpoint_forces.numpy() - expected).max() / np.abs(expected).max())
        assert worst < (1e-9 if platform == "Reference" else 2e-5)  # the order of summation
        assert np.abs(ended[0][part] - begun[0][part]).max() > 1e-4
        others = np.setdiff1d(np.arange(plain.getNumParticles()), part)
        stay = [i for i in others if not plain.isVirtualSite(int(i))]
        np.testing.assert_allclose(ended[0][stay], begun[0][stay], rtol=0, atol=1e-6)
        sites = made.context.getState(positions=True).getPositions(asNumpy=True)._value
        made.context.computeVirtualSites()
        again = made.context.getState(positions=True).getPositions(asNumpy=True)._value
        np.testing.assert_allclose(again, sites, rtol=0, atol=1e-6)

    def test_an_integrator_of_jumps_is_position_verlet(self, cases):
        import openmm
        from openmm import unit

        from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation

        topology, system, positions = cases.without_remover(cases.peptide(constraints=None))
        plain = copy.deepcopy(system)
        integrator = LearnedIntegrator(DriftKickDrift(0.0005), guard=False)
        made = LearnedSimulation(topology, system, integrator, *cases.platform_of("Reference"))
        made.context.setPositions(positions)
        velocities = cases.velocities_for(system)
        made.context.setVelocities(velocities)
        made.step(20)
        context = openmm.Context(plain, openmm.VerletIntegrator(0.001), cases.platform_of("Reference")[0])
        masses = np.array([plain.getParticleMass(i)._value for i in range(len(positions))])[:, None]
        momentum = (masses * velocities).sum(0) / masses.sum()
        x, v = positions, velocities
        for _ in range(20):
            middle = x + 0.5 * 0.0005 * v
            context.setPositions(middle * unit.nanometer)
            v = v + 0.0005 * context.getState(forces=True).getForces(asNumpy=True)._value / masses
            x = middle + 0.5 * 0.0005 * v
        found = cases.phase_space(made)
        np.testing.assert_allclose((masses * found[1]).sum(0) / masses.sum(), momentum, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[0], x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[1], v, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("platform", ["Reference", "CPU", "OpenCL-mixed"])
    def test_a_jump_that_fails_leaves_the_context_as_it_was(self, cases, platform):
        from fastegnn_md.errors import JumpError

        def broken(state: State) -> None:
            raise ArithmeticError("nothing works")

        made = cases.simulation(cases.peptide(), DriftKickDrift(0.002, look=broken), platform, "host")
        begun = cases.phase_space(made)
        with pytest.raises(JumpError, match="nothing works"):
            made.step(1)
        for found, expected in zip(cases.phase_space(made), begun, strict=True):
            np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("backend", ["python", "python_torch", "torch"])
    def test_other_back_ends_are_refused(self, cases, backend):
        from fastegnn_md.engines.openmm import add_jump_force
        from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule

        topology, system, _ = cases.peptide()
        with pytest.raises(ConfigError, match=f"back-end '{backend}' cannot evaluate within a step"):
            add_jump_force(system, topology, DriftKickDrift(0.002), backend=backend)
        if backend != "python":
            return
        # A System that was made ready for another propagator.
        add_jump_force(system, topology, cases.StandIn(), backend=backend)
        integrator = LearnedIntegrator(DriftKickDrift(0.002), schedule=Schedule(5, classical=cases.langevin()))
        with pytest.raises(ConfigError, match=r"needs the classical potential within a step.* use backend='host'"):
            LearnedSimulation(topology, system, integrator)


def test_the_commands(require, tmp_path, capsys):
    for name in ("openmm", "lightning"):
        require(name)
    from importlib.resources import files

    from fastegnn_md.cli import main

    peptide = str(files("fastegnn_md").joinpath("assets", "ala2.pdb"))
    amber = ["--forcefield", "amber14-all.xml", "--constraints", "HBonds"]
    store, model = str(tmp_path / "s.h5md"), str(tmp_path / "m.safetensors")

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out + printed.err

    universe = mda.Universe(peptide, np.repeat(mda.Universe(peptide).atoms.positions[None], 10, axis=0), dt=1.0)
    universe.atoms.write(str(tmp_path / "x.xtc"), frames="all")
    run("harvest", peptide, tmp_path / "x.xtc", *amber, "--burst", "4 fs", "--interval", "2 fs", "--temperature", 300,
        "--midpoint", "2 fs", "-o", store)  # fmt: skip
    small = [part for key, value in SMALL.items() for part in ("--set", f"propagator.{key}={value}")]
    small += ["--set", "accelerator=cpu", "--updates", 5, "--batch-size", 4]
    said = run("train", store, "--lag", "2 fs", "--kind", "force-midpoint", "-o", model, *small)
    assert "force-midpoint fastegnn" in said
    assert "best linear with force" in said
    for engine in ("ase", "openmm"):
        options = ["--temperature", 300, "--friction", "10/ps", "--engine", engine, "-o", tmp_path / f"{engine}.xtc"]
        run("run", model, peptide, "--steps", 3, *options, *amber)
        assert len(mda.Universe(peptide, str(tmp_path / f"{engine}.xtc")).trajectory) > 0
