"""Everything there is to see on a CUDA GPU, by one command that ends in nine minutes.

    python benchmarks/gpu_all.py --output benchmarks/results/gpu_all.json --reference PATH --data FOLDER

Parts run one after the other, each in a process of its own with a share of the time: the tests of a GPU, jumps
(``gpu.py``), messages of edges (``gpu_edges.py``), OpenMM's CUDA platform (``openmm_gpu.py``), training
(``training_gpu.py``), and the training of one row of a table for the time that is left (``row_gpu.py``). The result is
written after every part; ``--resume`` leaves out the parts that are done in it. A part that cannot run says so and why,
and so do all of them without a GPU: the exit code is 0.

PATH is a checkout of the published code, to be timed beside ours; FOLDER keeps the data set of the row, which is
simulated where it is missing, in 20 minutes of one core. ``--small`` runs everything on the CPU in small, to try the
script.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
# Without those that compile for GPUs that are not there, and that wait for torch.compile.
_TESTS = ["test_gpu.py", "test_gpu_engines.py", "test_gpu_kernel.py", "-k", "not here and not translated"]
_TESTS_SMALL = ["test_gpu_kernel.py", "-k", "widths"]


@dataclass(frozen=True)
class Part:
    """One process: its command, with ``{out}`` where its result goes, and at most how long it takes."""

    name: str
    share: float  # of the time that is left, beside those of the parts that follow
    command: list[str]


def parts_of(arguments: argparse.Namespace, scratch: Path) -> list[Part]:
    """All parts, in their order."""
    small, python = arguments.small, sys.executable
    device = ["--device", "cpu", "--small"] if small else []
    reference = ["--reference", str(arguments.reference.resolve())] if arguments.reference else []
    workers = [] if small else ["-n", str(arguments.processes)]
    data = arguments.data or scratch / "data"

    def script(name: str, *options: str) -> list[str]:
        return [python, str(HERE / name), "--output", "{out}", *options]

    pytest = [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "filterwarnings=default", "--tb=short"]
    first, *others = _TESTS_SMALL if small else _TESTS
    others = [str(HERE.parent / "tests" / one) if one.endswith(".py") else one for one in others]
    tests = [*pytest, *workers, "--junitxml={out}", str(HERE.parent / "tests" / first), *others]
    openmm = ["--platform", "CPU", "--sizes", "22", "--cycles", "2"] if small else ["--cycles", "8"]
    training = ["--bursts", "12", "--seconds", "0.1", "--small"] if small else ["--bursts", "300", "--seconds", "2.5"]
    jumps = [*device, *reference, "--repeats", "1" if small else "30", *(["--atoms", "1000"] if small else [])]
    return [
        Part("tests", 0.24, tests),
        Part("jumps", 0.24, script("gpu.py", *jumps)),
        Part("edges", 0.06, script("gpu_edges.py", *device)),
        Part("openmm", 0.16, script("openmm_gpu.py", *openmm)),
        Part("training", 0.1, script("training_gpu.py", *training)),
        Part(
            "row",
            0.35,
            script(
                "row_gpu.py", "--data", str(data), "--processes", str(arguments.processes),
                "--seconds", "1" if small else "{seconds}", *device,
            ),
        ),
    ]  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(part: Part, seconds: float, scratch: Path) -> dict[str, object]:
    """What became of a part: done, with its result; failed, or out of time, with what there is."""
    output, log = scratch / f"{part.name}.out", scratch / f"{part.name}.log"
    output.unlink(missing_ok=True)
    # A row ends by itself: its start and its last validation take some of the time.
    values = {"{out}": str(output), "{seconds}": str(max(1.0, 0.7 * seconds - 10))}
    command = [part.command[0]]
    for word in part.command[1:]:
        for name, value in values.items():
            word = word.replace(name, value)
        command.append(word)
    begun = time.monotonic()
    found: dict[str, object] = {"command": " ".join(part.command[1:]).replace(f"{HERE.parent}{os.sep}", "")}
    environment = {"FASTEGNN_MD_TEST_GPU_PLATFORM": "CUDA", **os.environ}
    if part.name == "tests":
        environment["PYTHONSAFEPATH"] = "1"  # of what is installed, not of the folder
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=HERE.parent, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            found["status"] = "done" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            stop(process)
            found["status"] = f"out of time after {seconds:.0f} s"
    found["seconds"] = round(time.monotonic() - begun, 1)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines and lines[-1].startswith("not run"):
        found["status"] = lines[-1]
    elif found["status"] != "done":
        found["last lines"] = [line for line in lines if "FAILED" in line or "Error" in line][-15:] or lines[-15:]
    if output.exists():
        found["result"] = counts(output) if part.name == "tests" else json.loads(output.read_text(encoding="utf-8"))
    return found


def counts(path: Path) -> dict[str, object]:
    """How many tests passed, failed and were left out, and which failed."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    bad = [one for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    names = [f"{one.get('classname')}::{one.get('name')}" for one in bad]
    return {"passed": len(cases) - len(bad) - skipped, "failed": len(bad), "left out": skipped, "which failed": names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_all.json"))
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--data", type=Path, help="folder of the data set of the row, and of its checkpoint")
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    parser.add_argument("--parts", nargs="+", help="these alone")
    parser.add_argument("--processes", type=int, default=8, help="for tests and simulated data")
    parser.add_argument("--resume", action="store_true", help="leave out what is done in the output")
    parser.add_argument("--small", action="store_true", help="on the CPU, to try the script")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    arguments.data = arguments.data and arguments.data.resolve()
    scratch = arguments.output.with_suffix(".parts").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    result: dict[str, dict[str, object]] = {}
    if arguments.resume and arguments.output.exists():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))["parts"]
    there = torch.cuda.is_available()
    about = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name() if there else "none"}
    parts = parts_of(arguments, scratch)
    unknown = set(arguments.parts or []) - {part.name for part in parts}
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in parts)}")
    asked = [part for part in parts if not arguments.parts or part.name in arguments.parts]
    to_do = [part for part in asked if result.get(part.name, {}).get("status") != "done"]
    for index, part in enumerate(to_do):
        left = end - time.monotonic()
        if not there and not arguments.small:
            found: dict[str, object] = {"status": f"not run: torch {torch.__version__} sees no GPU"}
        elif left < 5:
            found = {"status": "not run: no time left"}
        else:
            try:
                share = part.share / sum(one.share for one in to_do[index:])
                found = run(part, share * left, scratch)
            except Exception as error:  # the other parts are still run
                found = {"status": f"failed: {type(error).__name__}: {error}"}
        result[part.name] = found
        print(f"{part.name}: {found['status']}, {found.get('seconds', 0)} s", flush=True)
        arguments.output.write_text(json.dumps({**about, "parts": result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
