"""Kill commands at random moments, go on, and compare with runs that nobody killed.

    python benchmarks/kills.py --kills 100

Each command works in a process that is forked from this one, gets SIGKILL after a random time, and is given again,
until it was killed so often. What it left must be readable every time and only ever grow; in the end the files must be
those of an uninterrupted command, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.io import write

from fastegnn_md.cli import main
from fastegnn_md.commands import continuing
from fastegnn_md.data import Store
from fastegnn_md.harvest import harvest  # noqa: F401 - imported once, before the forks
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.training import fit  # noqa: F401
from fastegnn_md.training.checkpoints import read_checkpoint

FORMATS = ("xtc", "trr", "dcd", "ncdf", "pdb", "xyz")
ENGINE = ["--engine", "ase", "--calculator", "emt", "--temperature", "300", "--burst", "8 fs", "--interval", "2 fs"]
SMALL = ["--set", "propagator.hidden=8", "--set", "propagator.layers=1", "--set", "accelerator=cpu"]
SMALL += ["--set", "validate_every=5", "--set", "checkpoint_every=3", "--set", "validation_pairs=8"]


def begin(arguments: list[object]) -> int:
    """A command in a process of its own; its number."""
    number = os.fork()
    if number:
        return number
    try:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        main([str(one) for one in arguments])
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        os._exit(99)


def finish(arguments: list[object]) -> None:
    """A command that nobody kills."""
    status = os.waitpid(begin(arguments), 0)[1]
    if status:
        raise SystemExit(f"failed with status {status}: {' '.join(map(str, arguments))}")


def kill_often(command: Callable[[], list[object]], progress: Callable[[], int], kills: int, seed: int) -> int:
    """Kill a command so often; how many times it had more to show than the time before."""
    rng, grown, before, done = random.Random(seed), 0, 0, 0
    longest = 1.0
    while done < kills:
        number = begin(command())
        time.sleep(rng.uniform(0.0, longest))
        os.kill(number, signal.SIGKILL)
        status = os.waitpid(number, 0)[1]
        if not os.WIFSIGNALED(status):
            if status:
                raise SystemExit(f"{command()} failed with status {status}")
            return grown  # it was done before the kill
        done += 1
        now = progress()
        if now < before:
            raise SystemExit(f"lost: {before - now} of {before} after kill {done}")
        longest = longest * 1.3 if now == before else max(0.3, 0.9 * longest)  # near where it gets a little further
        grown, before = grown + (now > before), now
    return grown


def killed_run(folder: Path, structure: Path, suffix: str, kills: int, steps: int) -> int:
    """``run``: the output is always the beginning of the uninterrupted one."""
    whole, output = folder / f"whole.{suffix}", folder / f"out.{suffix}"
    restart = continuing.restart_of(output)
    common: list[object] = ["run", "copper-emt", structure, "--steps", steps, "--temperature", 300, "--seed", 1]
    finish([*common, "-o", whole])
    reference = whole.read_bytes()

    def progress() -> int:
        if not restart.exists():
            return 0
        content = output.read_bytes()
        notes = continuing.load_notes(restart)
        begin, end = 24 if suffix in ("dcd", "ncdf") else 0, notes["written"]["size"]  # their heads count the frames
        if content[begin:end] != reference[begin:end]:
            raise SystemExit(f"{output} is not the beginning of {whole}")
        return notes["step"]

    def command() -> list[object]:
        return [*common, "-o", output, *(["--restart", restart] if restart.exists() else ["--overwrite"])]

    grown = kill_often(command, progress, kills, seed=len(suffix))
    if not restart.exists() or continuing.load_notes(restart)["step"] < steps:
        finish(command())
    if output.read_bytes() != reference:
        raise SystemExit(f"{output} differs from {whole}")
    return grown


def killed_harvest(folder: Path, structure: Path, kills: int) -> int:
    """``harvest``: finished bursts stay."""
    whole, output = folder / "whole.h5md", folder / "pairs.h5md"
    finish(["harvest", structure, *ENGINE, "-o", whole])
    command: list[object] = ["harvest", structure, *ENGINE, "-o", output]

    def progress() -> int:
        if output.exists():
            return 10**9
        return sum(path.stat().st_size for path in folder.glob("pairs.h5md.parts/*.bursts"))

    grown = kill_often(lambda: command, progress, kills, seed=2)
    finish(command)
    if Store(output).content != Store(whole).content:
        raise SystemExit(f"{output} differs from {whole}")
    left = {path.name for path in folder.iterdir()} - {"whole.h5md", "pairs.h5md"}
    if left:
        raise SystemExit(f"left behind: {left}")
    return grown


def killed_training(folder: Path, store: Path, kills: int, updates: int) -> int:
    """``train``: the checkpoint goes on, the model is always whole."""
    whole, output = folder / "whole.safetensors", folder / "model.safetensors"
    command: list[object] = ["train", store, "--lag", "2 fs", *SMALL, "--updates", updates, "--batch-size", 8]
    finish([*command, "-o", whole])
    checkpoint = folder / "model.training" / "checkpoint.safetensors"

    def progress() -> int:
        if output.exists():
            Propagator.load(output)
        return int(read_checkpoint(checkpoint)[1]["progress"]["update"]) if checkpoint.exists() else 0

    grown = kill_often(lambda: [*command, "-o", output, "--resume"], progress, kills, seed=3)
    finish([*command, "-o", output, "--resume"])
    if output.read_bytes() != whole.read_bytes():
        raise SystemExit(f"{output} differs from {whole}")
    return grown


def main_script(kills: int, what: str = "run,harvest,train") -> None:
    """All commands, in a temporary folder."""
    warnings.simplefilter("ignore")
    continuing._EVERY, continuing._SHARE = 0.05, 0.0  # restart files often, for a test of seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crystal, rng = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3), np.random.default_rng(0)
        structure, images = folder / "copper.pdb", []
        write(structure, crystal)
        for _ in range(30 + 6 * kills):
            small = bulk("Cu", a=3.61, cubic=True) * (2, 2, 2)
            small.positions += rng.normal(0, 0.03, small.positions.shape)
            images.append(small)
        write(folder / "frames.pdb", images)
        if "run" in what:
            for suffix in FORMATS:
                place = folder / suffix
                place.mkdir()
                share = -(-kills // len(FORMATS))
                grown = killed_run(place, structure, suffix, share, 20 + 20 * share)
                print(f"run {suffix}: {share} kills, further after {grown}, the same in the end", flush=True)
        (folder / "harvest").mkdir()
        if "harvest" in what:
            grown = killed_harvest(folder / "harvest", folder / "frames.pdb", kills)
            print(f"harvest: {kills} kills, further after {grown}, the same in the end", flush=True)
        if "train" in what:
            store, place = folder / "training.h5md", folder / "train"
            place.mkdir()
            finish(["harvest", folder / "frames.pdb", *ENGINE, "--frames", "0:30", "-o", store])
            grown = killed_training(place, store, kills, 30 + 12 * kills)
            print(f"train: {kills} kills, further after {grown}, the same in the end", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--commands", default="run,harvest,train")
    given = parser.parse_args()
    main_script(given.kills, given.commands)
