"""Dynamics that learn at constant pressure: moves of the volume, their calls, faults, restarts, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md import load
from fastegnn_md.cli import main
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, EngineError
from fastegnn_md.integrators import Learning, LearningDynamics, MonteCarloBarostat
from fastegnn_md.integrators.learning.engine import LoggedEngine
from fastegnn_md.propagator.config import PropagatorConfig

SMALL = PropagatorConfig(
    hidden=8, layers=1, vector_channels=2, radial_functions=4, virtual_nodes=1, use_bonds=False, cutoff=3.2
)
KELVIN = 400.0
# Models of seconds of training change the energy, and how often a frozen run asks for it depends on the clock.
pytestmark = pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.AuditWarning")


class CountedEMT(EMT):
    """Counts what it computes, and fails when it is told to: at the next call, or by repeating its answers."""

    made, fault = 0, ""
    kept: dict[str, Any]

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, all_changes)  # neighbours anew: an old list sums in another order
        self.made += 1
        if self.fault == "raises":
            raise RuntimeError("did not converge")
        if self.fault == "stale":
            self.results = self.kept
        self.kept = dict(self.results)


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", a=3.7, cubic=True) * (2, 2, 2)  # 2 % too wide
    atoms.calc = CountedEMT()
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(seed))
    return atoms


def run_of(atoms: Atoms, **options: Any) -> LearningDynamics:
    chosen: dict[str, Any] = {
        "timestep": "5 fs",
        "model": SMALL,
        "temperature_K": KELVIN,
        "friction": "20/ps",
        "barostat": MonteCarloBarostat("1 bar", every=2, adapt=10),
        "learning": Learning(first=4, updates=5, batch_size=4, target=30.0, window=10, renew=10_000),
        "rng": 1,
    } | options
    return LearningDynamics(atoms, "20 fs", **chosen)


def test_the_volume_follows_the_pressure_while_it_learns_jumps_and_is_frozen(tmp_path: Path) -> None:
    atoms = copper()
    wide = atoms.get_volume()
    log = tmp_path / "run.log"
    dynamics = run_of(atoms, trajectory=str(tmp_path / "run.traj"), logfile=str(log))
    while dynamics.phase == "learning":
        dynamics.run(1)
        assert dynamics.account.steps < 200
    moves = dynamics.statistics.volume_moves
    assert moves == dynamics.account.steps // 2
    narrow = atoms.get_volume()
    assert narrow < 0.97 * wide
    cells = dynamics.course.learner.memory.arrays()["cell"]
    assert len({float(np.linalg.det(cell.astype(float))) for cell in cells}) > 3  # each pair has its own
    dynamics.run(30)
    assert dynamics.account.jumps > 10
    dynamics.freeze()
    dynamics.run(10)
    dynamics.close()
    assert dynamics.statistics.volume_moves == moves + 20 == dynamics.volume.moves.tried[0]
    assert dynamics.statistics.volume_accepted == dynamics.volume.moves.accepted[0] > 5
    assert atoms.get_volume() == pytest.approx(narrow, rel=0.05)
    # per engine: equilibrium of EMT at 400 K is near 3.62 Å
    assert (atoms.get_volume() / 8) ** (1 / 3) == pytest.approx(3.62, abs=0.06)
    frames = read(tmp_path / "run.traj", ":")
    assert frames[-1].get_volume() == pytest.approx(atoms.get_volume())
    assert "V[A^3]" in log.read_text(encoding="utf-8").splitlines()[0]
    assert "moves)" in dynamics.report_line()
    dynamics.save_model(tmp_path / "model.safetensors")
    seen = load(tmp_path / "model.safetensors").provenance
    assert seen is not None
    dynamics.report(tmp_path / "run.html")
    assert "moves of the volume" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_calls_of_moves_are_counted_with_the_others() -> None:
    atoms = copper()
    dynamics = run_of(atoms)
    dynamics.run(6)  # segments alone: a move asks for one energy, and its forces serve the next segment
    assert dynamics.statistics.volume_moves == 3
    assert atoms.calc.made == 1 + 6 * 4 + 3 == dynamics.course.engine.calls
    dynamics.run(60)
    assert dynamics.account.audits > 0
    assert atoms.calc.made == dynamics.course.engine.calls == len(dynamics.course.engine.durations)
    account = dynamics.account
    assert account.volume_seconds > 0
    assert account.wall - account.volume_seconds == pytest.approx(
        account.segment_seconds + account.jump_seconds + account.training_seconds
    )


def test_a_restart_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = run_of(copper())
    whole.run(40)
    assert whole.phase == "jumping"
    for stop in (3, 31):
        broken = run_of(copper())
        broken.run(stop)
        broken.save_restart(tmp_path / "run.restart")
        again = LearningDynamics.restart(tmp_path / "run.restart", copper(5))
        assert again.changed == ()
        again.run(40 - stop)
        assert (again.atoms.positions == whole.atoms.positions).all()
        assert (again.atoms.cell == whole.atoms.cell).all()
        assert again.volume.moves == whole.volume.moves
        assert again.statistics.volume_accepted == whole.statistics.volume_accepted
        assert again.course.engine.calls == whole.course.engine.calls
    other = LearningDynamics.restart(tmp_path / "run.restart", copper(), barostat=MonteCarloBarostat("10 GPa"))
    assert "MonteCarloBarostat(pressure=1.0" in other.changed[0]
    assert other.volume.moves.tried == [0]
    flat = run_of(copper(), barostat=None)
    flat.run(2)
    flat.save_restart(tmp_path / "flat.restart")
    pressed = LearningDynamics.restart(tmp_path / "flat.restart", copper(), barostat=MonteCarloBarostat("1 bar", 1))
    pressed.run(2)
    assert pressed.statistics.volume_moves == 2


@pytest.mark.parametrize(
    ("fault", "words"), [("raises", "did not converge"), ("stale", "same forces for two geometries")]
)
def test_a_move_that_fails_leaves_all_as_it_was(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = copper()
    dynamics = run_of(atoms)
    dynamics.run(3)
    before, moves = atoms.copy(), dynamics.volume.moves.place()
    drawn, pairs = dynamics.rng.bit_generator.state, len(dynamics.course.learner.memory)
    attempt = dynamics.volume.attempt

    def failing(*arguments: Any) -> Any:
        atoms.calc.fault = fault
        return attempt(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(dynamics.volume, "attempt", failing)
        with pytest.raises(EngineError, match=words):
            dynamics.run(1)
    assert (atoms.positions == before.positions).all()
    assert (atoms.get_momenta() == before.get_momenta()).all()
    assert (atoms.cell == before.cell).all()
    assert dynamics.volume.moves.place() == moves
    assert dynamics.rng.bit_generator.state == drawn
    assert len(dynamics.course.learner.memory) == pairs
    assert dynamics.account.steps == 3
    assert dynamics.statistics.volume_moves == 1
    atoms.calc.fault = ""
    atoms.calc.reset()
    dynamics.run(2)
    assert dynamics.statistics.volume_moves == 2


def test_energies_that_are_alike_are_no_fault_where_forces_differ() -> None:
    class Rounded(EMT):
        def calculate(self, *arguments: Any, **options: Any) -> None:
            super().calculate(*arguments, **options)
            self.results["energy"] = 1.0

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = Rounded()
    engine, wider = LoggedEngine(atoms), atoms.copy()
    wider.set_cell(1.01 * atoms.cell, scale_atoms=True)
    wider.calc = atoms.calc
    assert engine.energy_at(atoms) == engine.energy_at(wider) == 1.0


def test_what_a_barostat_cannot_have_is_refused() -> None:
    slab, held = copper(), copper()
    slab.pbc = (True, True, False)
    held.set_constraint(FixAtoms([0]))
    cases: list[tuple[Atoms, dict[str, Any], type[Exception], str]] = [
        (copper(), {"temperature_K": None, "friction": None}, ConfigError, "needs a thermostat"),
        (copper(), {"barostat": "1 bar"}, ConfigError, "expected MonteCarloBarostat"),
        (slab, {}, CompatibilityError, "periodic in all directions"),
        (held, {}, ConstraintError, "FixAtoms"),
    ]
    for atoms, options, error, words in cases:
        with pytest.raises(error, match=words):
            run_of(atoms, **options)


def test_the_command_takes_a_pressure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    atoms = copper()
    atoms.calc = None
    atoms.write(tmp_path / "cu.traj")
    small = ("--set", "hidden=8", "--set", "layers=1", "--set", "virtual_nodes=1", "--set", "cutoff=3.2")
    bath = ("--temperature", "400", "--friction", "20/ps")
    base = ("learn", tmp_path / "cu.traj", "--calculator", "emt", *small, "--timestep", "5 fs", "--lag", "10 fs")

    def cli(*more: Any) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in (*base, *more)])
        return int(ended.value.code or 0), capsys.readouterr().err

    output = tmp_path / "run.extxyz"
    pressed = (*bath, "--pressure", "20 GPa", "--updates", "0", "-o", output)
    assert cli(*pressed, "--time", "0.6 ps")[0] == 0
    code, err = cli(*pressed, "--time", "1.2 ps", "--restart", f"{output}.restart")
    assert code == 0
    assert "barostat" not in err
    frames = read(output, ":")
    assert len(frames) == 121
    assert frames[-1].get_volume() < frames[0].get_volume()  # four moves
    assert len({round(frame.get_volume(), 3) for frame in frames}) > 2
    for wrong, words in (((*bath, "--pressure", "20"), "unit"), (("--nve", "--pressure", "1 bar"), "thermostat")):
        code, err = cli(*wrong, "--time", "1 ps", "-o", tmp_path / "other.traj")
        assert code == 2
        assert words in err
        assert not (tmp_path / "other.traj").exists()
