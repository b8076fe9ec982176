"""Committees: mean and spread of several propagators, and the guard that asks for the spread."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math

import numpy as np
import pytest
import torch

from fastegnn_md import Committee, Propagator, State
from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, JumpError
from fastegnn_md.integrators import GuardSettings
from fastegnn_md.integrators.guards import PASSED, check_spread
from fastegnn_md.propagator.committee import Spread
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.training.calibration import one_step_calibration
from fastegnn_md.training.one_step import one_step_errors

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
DOMAIN = Domain(
    masses={1: (1.0, 1.1), 6: (12.0, 12.1), 8: (15.9, 16.1)},
    limits=JumpLimits({1: 0.5, 6: 0.3, 8: 0.3}, bonds={(1, 6): (0.9, 1.3), (1, 8): (0.8, 1.2)}, speed={1: 90.0}),
    periodic=False,
    bonds=False,
    conserves_momentum=True,
    neighbours=6.0,
    velocity_scale=10.0,
    force_scale=1e4,
)


def member(seed: int, *, timestep: float = 0.002, domain: Domain = DOMAIN, **options) -> Propagator:
    """A network with random weights, large enough to matter, whose residual scales depend on the seed."""
    config = PropagatorConfig(hidden=8, layers=2, radial_functions=4, **{"cutoff": 3.0, **options})
    propagator = Propagator.build(config, timestep, domain, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in propagator.named_parameters():
        if name.endswith(("second.weight", "pull.weights.weight")) and parameter.shape[0] != 16:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    scales = torch.tensor([[0.004, 0.4], [0.006, 0.5], [0.005, 0.6]]).double()
    propagator.linear.scale[:] = (1 + 0.1 * seed) * scales[: len(domain.masses)]
    propagator.linear.coefficients[:, [0, 2]] = 1.0
    propagator.fingerprint = f"data {seed}"
    return propagator


def committee(count: int = 3, **options) -> Committee:
    return Committee([member(seed, **options) for seed in range(1, count + 1)])


def state(seed: int = 0, systems: int = 1) -> State:
    """Nine atoms in each system, some 1.3 Å apart, with thermal velocities and forces."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[::3] * 1.3
    masses = torch.tensor([1.008, 12.011, 15.999] * 3, dtype=torch.float64)

    def draw(scale):
        return scale * torch.randn(9, 3, generator=generator, dtype=torch.float64)

    parts = []
    for _ in range(systems):
        one = State(
            positions=grid + draw(0.1),
            velocities=draw(16.0) / masses.sqrt()[:, None],
            numbers=torch.tensor([1, 6, 8] * 3),
            masses=masses,
            forces=draw(3e3),
        )
        parts.append(one)
    return State.concatenate(parts)


def ends(several: Committee, start: State) -> list[State]:
    return [one(start) for one in several.members]


def test_mean_and_spread_are_those_of_the_members():
    several, start = committee(4), state(systems=2)
    ended, (spread, _) = several.with_trust(start)
    x = np.stack([one.positions.numpy() for one in ends(several, start)])
    v = np.stack([one.velocities.numpy() for one in ends(several, start)])
    np.testing.assert_allclose(ended.positions, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ended.velocities, v.mean(0), rtol=1e-12)
    scale = np.mean([one.residual_scale(start).numpy() for one in several.members], axis=0)
    root = np.sqrt(start.masses.numpy())
    for found, values, unit in ((spread.x, x, scale[:, 0]), (spread.v, v, scale[:, 1])):
        of_components = values.var(axis=0, ddof=1)  # (N, 3)
        np.testing.assert_allclose(found, root * np.sqrt(of_components.mean(axis=1)) / unit, rtol=1e-8)
        assert float(found.min()) > 1e-3
    np.testing.assert_array_equal(spread.largest, np.maximum(spread.x.numpy(), spread.v.numpy()))
    alone = several(start)
    assert torch.equal(alone.positions, ended.positions)
    assert torch.equal(alone.velocities, ended.velocities)


def test_members_that_agree_have_no_spread_and_change_nothing():
    one, start = member(1), state()
    several = Committee([copy.deepcopy(one), member(2), member(3)])
    for other in several.members:
        other.load_state_dict(one.state_dict())
    ended, (spread, _) = several.with_trust(start)
    assert not spread.x.any()
    assert not spread.v.any()
    assert torch.equal(ended.positions, one(start).positions)
    assert torch.equal(ended.velocities, one(start).velocities)


@pytest.mark.parametrize("reflect", [False, True])
def test_the_mean_turns_with_the_system_and_the_spread_stays(reflect):
    several, start = committee(kind="force-start"), state()
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    q = q * r.diagonal().sign()
    q = q if (torch.linalg.det(q) < 0) == reflect else -q
    move = torch.tensor([3.0, -20.0, 7.0], dtype=torch.float64)
    turned = start.replace(
        positions=start.positions @ q + move, velocities=start.velocities @ q, forces=start.forces @ q
    )
    (plain, (spread, _)), (other, (of_other, _)) = several.with_trust(start), several.with_trust(turned)
    torch.testing.assert_close(other.positions, plain.positions @ q + move, **CLOSE)
    torch.testing.assert_close(other.velocities, plain.velocities @ q, **CLOSE)
    torch.testing.assert_close(of_other.x, spread.x, **CLOSE)
    torch.testing.assert_close(of_other.v, spread.v, **CLOSE)


def test_the_mean_conserves_momentum_as_its_members_do():
    several, start = committee(), state()
    ended = several(start)
    momentum = start.masses @ start.velocities
    torch.testing.assert_close(ended.masses @ ended.velocities, momentum, **CLOSE)
    moved = start.masses @ (ended.positions - start.positions)
    torch.testing.assert_close(moved, several.timestep * momentum, **CLOSE)


def test_systems_of_a_batch_do_not_see_each_other():
    several, together = committee(), state(systems=3)
    ended, (spread, _) = several.with_trust(together)
    for one, alone, end in zip(spread.split([9, 9, 9]), together.split(), ended.split(), strict=True):
        expected, (expected_spread, _) = several.with_trust(alone)
        torch.testing.assert_close(end.positions, expected.positions, **CLOSE)
        torch.testing.assert_close(one.x, expected_spread.x, **CLOSE)
        torch.testing.assert_close(one.v, expected_spread.v, **CLOSE)


def test_position_only_members_redraw_velocities_once():
    several, start = committee(kind="position"), state()
    drawn = several.members[0](start, generator=torch.Generator().manual_seed(3), temperature=300.0)
    ended, (spread, _) = several.with_trust(start, generator=torch.Generator().manual_seed(3), temperature=300.0)
    assert not several.predicts_velocities
    assert spread.v is None
    assert torch.equal(spread.largest, spread.x)
    assert torch.equal(ended.velocities, drawn.velocities)
    with pytest.raises(CompatibilityError, match="give generator and temperature"):
        several(start)


def test_residual_and_one_step_errors_are_those_of_the_mean():
    several, start = committee(), state()
    end = start.replace(positions=start.positions + 0.01, velocities=0.9 * start.velocities)
    residual, mean, scale = several.residual(start, end), several(start), several.residual_scale(start)
    root = start.masses.sqrt()[:, None]
    torch.testing.assert_close(residual.x * scale[:, :1], root * (mean.positions - end.positions), **CLOSE)
    torch.testing.assert_close(residual.v * scale[:, 1:], root * (mean.velocities - end.velocities), **CLOSE)
    learned = one_step_errors(several, Pairs([(start, end)]))["learned"]
    assert learned.x == pytest.approx(float((root * (mean.positions - end.positions)).square().mean().sqrt()))


class Pairs:
    """Pairs in memory, as TrajectoryPairs would give them."""

    lag, n_atoms = 0.002, 9

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def batch(self, indices):
        return tuple(State.concatenate([self.pairs[i][k] for i in indices]) for k in (0, 1))


@pytest.mark.parametrize("kind", ["force-free", "position"])
def test_one_step_calibration_finds_errors_of_known_size(kind):
    """Errors drawn with ``factor`` times the spread as standard deviation: bounds of five standard errors."""
    several, factor, pairs = committee(kind=kind), 1.5, []
    generator = torch.Generator().manual_seed(7)
    for seed in range(60):
        start = state(seed)
        prediction = several.predict(start)
        spread = prediction.trust.spread
        scale, root = several.residual_scale(start), start.masses.sqrt()
        noise = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
        x = start.positions + prediction.displacement + (factor * spread.x * scale[:, 0] / root)[:, None] * noise[0]
        v = start.velocities
        if kind == "force-free":
            v = prediction.velocities + (factor * spread.v * scale[:, 1] / root)[:, None] * noise[1]
        pairs.append((start, start.replace(positions=x.detach(), velocities=v.detach())))
    found = one_step_calibration(several, Pairs(pairs), indices=range(50), batch_size=16)
    assert set(found) == ({"x", "v"} if kind == "force-free" else {"x"})
    for one in found.values():
        components = 3 * one.count
        assert one.count == 50 * 9
        assert abs(one.z_rms - factor) < 5 * factor / math.sqrt(2 * components)
        share = math.erf(1 / factor / math.sqrt(2))
        assert abs(one.within_one - share) < 5 * math.sqrt(share * (1 - share) / components)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timestep": 0.003}, "Δt of member 1 is 3 fs, that of member 0 2 fs"),
        ({"kind": "force-start"}, "the kind of member 1 is force-start, that of member 0 force-free"),
        ({"kind": "position"}, "the kind of member 1 is position, "),
        ({"domain": dataclasses.replace(DOMAIN, masses={1: (1.0, 1.1), 6: (12.0, 12.1)})}, r"elements .* is \(1, 6\)"),
        (
            {"domain": dataclasses.replace(DOMAIN, masses=DOMAIN.masses | {1: (3.0, 3.1)})},
            r"masses \(amu\) of at",
        ),
        ({"domain": dataclasses.replace(DOMAIN, periodic=True)}, "domain.periodic of member 1 is True"),
        ({"domain": dataclasses.replace(DOMAIN, bonds=True)}, "domain.bonds of member 1 is True"),
        ({"domain": dataclasses.replace(DOMAIN, conserves_momentum=False)}, "domain.conserves_momentum of member 1"),
        (
            {"domain": dataclasses.replace(DOMAIN, limits=JumpLimits({}, bonds={(1, 8): (1.3, 1.4)}))},
            r"atomic numbers \(1, 8\) .* do not overlap",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(options, words):
    with pytest.raises(CompatibilityError, match=words):
        Committee([member(1), member(2, **options)])


def test_members_of_another_precision_are_refused():
    with pytest.raises(CompatibilityError, match=r"precision of member 1 is torch\.float32"):
        Committee([member(1), member(2).float()])


def test_a_model_and_its_copy_are_no_committee(tmp_path):
    one = member(1)
    with pytest.raises(ConfigError, match="members 0 and 2 of the committee have the same weights"):
        Committee([one, member(2), copy.deepcopy(one)])
    for name in ("one", "copy"):
        one.save(tmp_path / f"{name}.safetensors")
    with pytest.raises(ConfigError, match="same weights and never differ; train one with another seed"):
        Committee.load([tmp_path / "one.safetensors", tmp_path / "copy.safetensors"])


def test_what_is_no_committee_is_refused():
    one = member(1)
    with pytest.raises(ConfigError, match="committee of 1; two"):
        Committee([one])
    with pytest.raises(ConfigError, match="member 1 of the committee is given twice"):
        Committee([one, one])
    with pytest.raises(ConfigError, match="member 1 of the committee is a str"):
        Committee([one, "model.safetensors"])


def test_limits_hold_for_every_member():
    limits = JumpLimits({1: 0.4, 6: 0.4}, bonds={(1, 6): (1.0, 1.4), (6, 6): (1.3, 1.6)}, speed={6: 20.0})
    several = Committee([member(1), member(2, cutoff=3.4, domain=dataclasses.replace(DOMAIN, limits=limits))])
    assert several.limits == JumpLimits(
        {1: 0.4, 6: 0.3, 8: 0.3},
        bonds={(1, 6): (1.0, 1.3), (1, 8): (0.8, 1.2), (6, 6): (1.3, 1.6)},
        speed={1: 90.0, 6: 20.0},
    )
    assert several.config.cutoff == 3.4
    assert several.fingerprint == "data 1,data 2"


def test_a_system_that_one_member_refuses_is_refused():
    heavier = dataclasses.replace(DOMAIN, masses=DOMAIN.masses | {1: (1.009, 1.1)})
    several, start = Committee([member(1), member(2, domain=heavier)]), state()
    masses = torch.where(start.numbers == 1, 0.995, start.masses)
    lighter = dataclasses.replace(start, masses=masses)
    several.members[0].check(lighter)
    with pytest.raises(CompatibilityError, match=r"has mass 0\.9950 amu"):
        several.check(lighter)
    with pytest.raises(CompatibilityError, match=r"has mass 0\.9950 amu"):
        several(lighter)


def test_a_committee_is_loaded_from_files(tmp_path):
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        member(seed).save(path)
    several, start = Committee.load(paths), state()
    assert torch.equal(several(start).positions, committee(2)(start).positions)
    assert several.describe().startswith("committee of 2: force-free fastegnn, Δt = 2 fs")
    with pytest.raises(CheckpointError, match=r"no model file at .*absent"):
        Committee.load([paths[0], tmp_path / "absent.safetensors"])
    with pytest.raises(ConfigError, match=r"several files; got '.*1\.safetensors'"):
        Committee.load(paths[0])


def test_compiling_a_committee_compiles_its_members(monkeypatch):
    compiled = []
    monkeypatch.setattr(Propagator, "compile", lambda self: compiled.append(self))
    several = committee(2)
    several.compile()
    assert compiled == list(several.members)


def test_the_guard_names_the_atom_what_differs_and_the_limit():
    spread = Spread(x=torch.tensor([0.1, 0.2, 0.1]), v=torch.tensor([0.2, 0.1, 0.31]))
    assert check_spread(spread, GuardSettings(spread=0.32)) is PASSED
    assert check_spread(spread, GuardSettings()) is PASSED
    report = check_spread(spread, GuardSettings(spread=0.3))
    assert (report.ok, report.guard, report.atom) == (False, "spread", 2)
    assert report.message == "the committee differs by 0.31 residual scales about its velocity, limit 0.3"
    report = check_spread(Spread(spread.x, None), GuardSettings(spread=0.15))
    assert report.atom == 1
    assert "about its position" in report.message
    assert not check_spread(Spread(torch.tensor([0.1, math.nan]), None), GuardSettings(spread=0.15)).ok


def test_settings_of_the_guard_that_make_no_sense_are_refused(require):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    with pytest.raises(ConfigError, match="spread is 0; expected a number > 0"):
        GuardSettings(spread=0)
    with pytest.raises(ConfigError, match="give a Committee, or spread=None"):
        LearnedDynamics(_atoms(), member(1), bonds=BONDS, guard=GuardSettings(spread=0.5))


WIDE = {"displacement_factor": 100.0, "bond_margin": 0.9}
BONDS = [(0, 1)]


def _atoms(springs: bool = True, seed: int = 0):
    from ase import Atoms, units
    from ase.calculators.calculator import Calculator, all_changes

    class Springs(Calculator):
        """A spring of 5 eV/Å² from each atom to its place."""

        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=None, system_changes=all_changes):
            super().calculate(atoms)
            u = atoms.positions - start.positions.numpy()
            self.results = {"energy": 2.5 * np.vdot(u, u), "forces": -5.0 * u}

    start = state(seed)
    atoms = Atoms(numbers=start.numbers.numpy(), positions=start.positions.numpy())
    atoms.set_masses(start.masses.numpy())
    atoms.set_velocities(start.velocities.numpy() / (1000 * units.fs))
    atoms.calc = Springs() if springs else None
    return atoms


@pytest.fixture
def largest():
    """The largest spread of the first jump of `_atoms`, and its atom."""
    spread = committee().with_trust(state())[1].spread.largest
    return float(spread.max()), int(spread.argmax())


def test_ase_a_jump_within_the_limit_is_made(require, largest):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    atoms = _atoms()
    dynamics = LearnedDynamics(atoms, committee(), bonds=BONDS, guard=GuardSettings(spread=1.0001 * largest[0], **WIDE))
    dynamics.run(1)
    assert (dynamics.statistics.accepted, dynamics.statistics.rejected) == (1, {})
    np.testing.assert_allclose(atoms.positions, committee()(state()).positions, atol=1e-9)


def test_ase_a_jump_beyond_the_limit_is_replaced_by_classical_steps(require, largest):
    require("ase")
    from ase import units
    from ase.md.verlet import VelocityVerlet

    from fastegnn_md.integrators import LearnedDynamics

    atoms, classical = _atoms(), _atoms()
    guard = GuardSettings(spread=0.9999 * largest[0], **WIDE)
    dynamics = LearnedDynamics(atoms, committee(), bonds=BONDS, guard=guard)
    dynamics.run(1)
    assert dynamics.statistics.rejected == {"spread": 1}
    assert dynamics.statistics.fallback_steps == 4
    VelocityVerlet(classical, 0.5 * units.fs).run(4)
    np.testing.assert_allclose(atoms.positions, classical.positions, atol=1e-8)


def test_ase_without_a_calculator_the_error_names_the_atom_and_nothing_is_written(require, largest):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    atoms = _atoms(springs=False)
    before = atoms.get_positions()
    dynamics = LearnedDynamics(atoms, committee(), bonds=BONDS, guard=GuardSettings(spread=0.9999 * largest[0], **WIDE))
    with pytest.raises(JumpError, match=rf"spread guard refused the jump at atom {largest[1]} .*residual scales") as e:
        dynamics.run(1)
    assert e.value.atom == largest[1]
    np.testing.assert_array_equal(atoms.positions, before)


def test_ase_a_restart_keeps_the_guard_and_asks_for_the_same_members(require, tmp_path, largest):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    guard = GuardSettings(spread=0.9999 * largest[0], **WIDE)
    dynamics = LearnedDynamics(_atoms(), committee(), bonds=BONDS, guard=guard)
    dynamics.run(2)
    dynamics.save_restart(tmp_path / "restart")
    resumed = LearnedDynamics.restart(tmp_path / "restart", _atoms(), committee())
    assert resumed.guarded.guard == guard
    dynamics.run(2)
    resumed.run(2)
    np.testing.assert_array_equal(resumed.atoms.positions, dynamics.atoms.positions)
    with pytest.raises(CompatibilityError, match="another propagator"):
        LearnedDynamics.restart(tmp_path / "restart", _atoms(), committee(4))


def test_ase_replicas_share_the_calls_of_a_committee(require, largest):
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics, LearnedEnsemble

    guard, several = GuardSettings(spread=0.9999 * largest[0], **WIDE), committee()
    together = [LearnedDynamics(_atoms(seed=seed), several, bonds=BONDS, guard=guard) for seed in range(4)]
    alone = [LearnedDynamics(_atoms(seed=seed), several, bonds=BONDS, guard=guard) for seed in range(4)]
    LearnedEnsemble(together).run(2)
    for one in alone:
        one.run(2)
    assert together[0].statistics.rejected["spread"] >= 1
    for one, other in zip(together, alone, strict=True):
        assert one.statistics == other.statistics
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-10)


@pytest.mark.parametrize("backend", ["host", "python"])
def test_openmm_a_jump_beyond_the_limit_leaves_the_context_and_classical_steps_follow(require, backend, tmp_path):
    openmm = require("openmm")
    import openmm_cases as cases

    from fastegnn_md.integrators import LearnedStateReporter

    several = Committee([cases.small_network(seed=seed) for seed in (1, 2, 3)])

    def start(limit):
        options = {"guard": GuardSettings(spread=limit), "classical_steps": 2}
        return cases.simulation(cases.peptide(), several, backend=backend, **options)

    made = start(1e6)
    made.step(1)
    assert made.integrator.statistics.accepted == 1
    assert made.context.getTime()._value == pytest.approx(several.timestep)

    made = start(1e-9)
    classical = openmm.Context(cases.peptide()[1], openmm.VerletIntegrator(0.002), cases.platform_of("Reference")[0])
    for set_to, values in zip((classical.setPositions, classical.setVelocities), cases.phase_space(made), strict=True):
        set_to(values)
    made.reporters.append(LearnedStateReporter(tmp_path / "state.csv", 1))
    made.step(1)
    assert made.integrator.statistics.rejected == {"spread": 1}
    assert made.integrator.statistics.fallback_steps == 4
    classical.getIntegrator().step(4)
    replaced = classical.getState(positions=True).getPositions(asNumpy=True)._value
    np.testing.assert_allclose(cases.phase_space(made)[0], replaced, rtol=0, atol=1e-9)
    (row,) = csv.DictReader((tmp_path / "state.csv").read_text().splitlines())
    assert row["refused: spread"] == "1"
