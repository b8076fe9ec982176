"""Everything docs/performance.md says of the CPU, in one run of at most a quarter of an hour on two cores.

    python benchmarks/speed.py --reference PATH
    python benchmarks/page.py

Each part is a script of this folder in a process of its own and writes its JSON to benchmarks/results; one that fails
is said to have failed and stops no other. The second command makes tables and picture of the page from the files.
PATH is a checkout of the published code (github.com/GLAD-RUC/FastEGNN), which needs torch_geometric, torch_scatter and
psutil; without it our side is timed alone. ``--quick`` takes two minutes and few repeats, to try the scripts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Part -> threads, file of results, script and arguments, what is added or replaced for a quick run.
PARTS: dict[str, tuple[int, str, list[str], list[str]]] = {
    "jump": (1, "jump_cpu.json", ["jump.py"], ["--repeats", "10", "--replicas", "64"]),
    "engines": (1, "engines_cpu.json", ["engines.py"], ["--jumps", "50"]),
    "waiting": (1, "waiting_cpu.json", ["waiting.py"], ["--runs", "1"]),
    "training": (1, "training_cpu.json", ["training.py"], ["--seconds", "1", "--bursts", "300"]),
    "network": (2, "network_cpu.json", ["run.py", "--repeats", "15"], ["--repeats", "2"]),
    "backends": (1, "backends_cpu.json", ["backends.py"], ["--quick"]),
    "gain": (1, "gain_cpu.json", ["gain.py", "--rounds", "11"], ["--rounds", "1", "--only", "copper-emt", "vacuum"]),
    "scaling": (
        2,
        "scaling_cpu.json",
        ["scaling.py", "--atoms", "10000", "100000", "1000000"],
        ["--atoms", "1000", "8000"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed, begun = [], time.perf_counter()
    for name in arguments.only:
        threads, file, command, quick = PARTS[name]
        command = [sys.executable, "-W", "ignore", str(HERE / command[0]), *command[1:]]
        command += quick if arguments.quick else []
        if name == "network" and arguments.reference is not None:
            command += ["--reference", str(arguments.reference.resolve())]
        output = arguments.folder / file
        started = time.perf_counter()
        print(f"== {name}: {' '.join(command[3:])}", flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        code = subprocess.run([*command, "--output", str(output)], check=False, env=environment).returncode
        if code:
            failed.append(name)
        print(
            f"== {name}: {f'failed ({code})' if code else 'done'} in {time.perf_counter() - started:.0f} s", flush=True
        )
    print(f"== all in {time.perf_counter() - begun:.0f} s; failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
