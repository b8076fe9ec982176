"""Runs that are stopped and continued: signals, the restart file beside the output, and where a run goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from ..errors import CheckpointError, CompatibilityError, ConfigError, FastEGNNMDError

if TYPE_CHECKING:
    from ..engines.mdanalysis import RolloutWriter, Written

_EVERY = 15.0  # seconds between restart files
_SHARE = 50.0  # of the time that one took, where that is long


def restart_of(output: Path) -> Path:
    """The restart file that a run writes beside its output."""
    return output.with_name(f"{output.name}.restart")


def load_notes(restart: Path) -> dict[str, Any]:
    """What a run has written into its restart file: ``step``, ``settings``, and ``written`` of each trajectory.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is not one of this command.
    """
    from ..integrators.restart_file import load_restart

    notes = load_restart(restart)[1].get("notes")
    try:
        written = notes["written"]
        return {
            "step": int(notes["step"]),
            "settings": dict(notes["settings"]),
            "written": written if isinstance(written, list) else [written],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{restart} is no restart file of this command; one that Python code wrote is continued there: "
            "LearnedDynamics.restart, or restart of the class that wrote it"
        ) from error


class StopSignals:
    """Turns SIGTERM, SIGHUP and Ctrl-C into the wish to stop after the present step; a second one stops at once.

    Attributes
    ----------
    given : signal.Signals or None
        The one that came.
    """

    def __init__(self) -> None:
        self.given: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # one that is ignored, as by nohup, stays so
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.given = signal.Signals(number)
        self.__exit__()


class Place:
    """Where a run stands: a new one at its first step, a continued one where its restart file says.

    Parameters
    ----------
    restart : Path or None
        What ``--restart`` named.
    output : Path
    steps : int
        Steps of the whole run.
    settings : dict
        What must not change when a run is continued: option to value, as JSON has them.
    outputs : sequence of Path, optional
        Trajectories of replicas, which have one restart file, that of ``output``.
    engine : dict, optional
        Settings likewise that may change, which is told.

    Attributes
    ----------
    step : int
        Steps done.
    changed : list of str
        What of the engine is another, in words.
    after : list of (Written or None)
        Of each trajectory the frames that stay, None for a new file.

    Raises
    ------
    CheckpointError
        If the restart file cannot be read, or is not one of ``run``.
    CompatibilityError
        If a setting differs.
    ConfigError
        If all steps are done.
    """

    restart: Path | None
    settings: dict[str, Any]
    steps: int
    step: Any
    continues: bool

    def __init__(
        self,
        restart: Path | None,
        output: Path,
        steps: int,
        settings: dict[str, Any],
        outputs: Sequence[Path] | None = None,
        engine: dict[str, Any] | None = None,
    ):
        engine = engine or {}
        self.restart, self.settings, self.steps = restart, settings | engine, steps
        self.changed: list[str] = []
        self.step = 0
        outputs = [output] if outputs is None else outputs
        self.after: list[Written | None] = [None] * len(outputs)
        self.continues = False
        if restart is None:
            return
        from ..engines.mdanalysis import Written

        notes = load_notes(restart)
        self.step, before, written = notes["step"], notes["settings"], notes["written"]
        for name, value in settings.items():
            if before.get(name) != value:
                raise CompatibilityError(
                    f"{name} was {_said(before.get(name))} when {restart} was written, is {_said(value)} now; continue "
                    "with the same, or start a new run from the last frame"
                )
        self.changed = [
            f"{name} was {_said(before[name])}, is {_said(value)} now: the model learns from both"
            for name, value in engine.items()
            if name in before and before[name] != value
        ]
        if self.step >= steps:
            raise ConfigError(f"{restart} is of step {self.step}: all of --steps {steps} are done; ask for more")
        mine = restart_of(output)
        if all(one.exists() for one in outputs) and mine.exists() and os.path.samefile(mine, restart):
            if None in written:
                raise ConfigError(f"{output} cannot be continued in its format; write the rest to another --output")
            self.after, self.continues = [Written(**one) for one in written], True


class Keeper:
    """Saves the restart file of a run: now and then, when it ends, and when it is stopped.

    Parameters
    ----------
    place : Place
    output : Path
    writers : sequence of RolloutWriter
        Of all trajectories.
    save : callable
        Writes the restart file of that name with those notes.
    """

    def __init__(
        self,
        place: Place,
        output: Path,
        writers: Sequence[RolloutWriter],
        save: Callable[[Path, dict[str, Any]], None],
    ):
        self.path: Path = restart_of(output)
        self._place, self._writers, self._save = place, writers, save
        self._due = time.monotonic() + _EVERY

    def step_done(self, step: int) -> None:
        """Save if it is time."""
        if time.monotonic() >= self._due:
            self.save(step)

    def save(self, step: int) -> None:
        """Save after so many steps.

        Raises
        ------
        CheckpointError, DataError
            If it cannot be written; the one before stays.
        """
        begun = time.monotonic()
        written = [one.written for one in self._writers]
        plain = [None if one is None else asdict(one) for one in written]
        notes = {
            "step": step,
            "settings": self._place.settings,
            "written": plain if len(plain) > 1 else plain[0],
        }
        self._save(self.path, notes)
        now = time.monotonic()
        self._due = now + max(_EVERY, _SHARE * (now - begun))

    def rescue(self, step: int) -> None:
        """Save if that is possible: the run ends by an error, which is what the user has to see."""
        try:
            self.save(step)
        except FastEGNNMDError:
            return

    def stopped(self, number: signal.Signals, step: int) -> typer.Exit:
        """Say so; what to raise."""
        typer.echo(
            f"stopped by {number.name} after step {step} of {self._place.steps}; the same command with "
            f"--restart {self.path} continues",
            err=True,
        )
        return typer.Exit(128 + number)


def _said(value: Any) -> str:
    return "not given" if value is None else repr(value)
