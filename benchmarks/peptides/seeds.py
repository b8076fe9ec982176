"""Populations and time scales of a peptide from bursts that a flow model's jumps started, beside long trajectories.

    python benchmarks/peptides/seeds.py MODEL DATA --peptide ala2 --folder seeds-ala2 \\
        --output benchmarks/results/seeds_ala2.json

DATA is the folder of simulate.py, whose runs 02 and 03 are the reference. Bursts run with the dynamics of the
reference (Langevin, 300 K, 1/ps, 4 fs) from a single structure. A command given again goes on where it was stopped.
The reference's time scales are those of the same kind of Markov state model of its runs, at the same lag.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import MDAnalysis as mda
from molecules import peptide
from simulate import STEP

from fastegnn_md.data import load_universe
from fastegnn_md.harvest import seeds
from fastegnn_md.harvest.kinetics import estimate
from fastegnn_md.harvest.seeds_page import write_page

REFERENCE = ("run-02", "run-03")


def runs_of(data: Path) -> list[mda.Universe]:
    """The reference, a universe for each run."""
    return [load_universe(data / "topology.pdb", *sorted((data / run).glob("???.dcd"))) for run in REFERENCE]


def main(arguments: argparse.Namespace) -> None:
    """Run seeds and write the comparison."""
    data = arguments.data / arguments.peptide
    begun = time.process_time()
    reference = runs_of(data)
    found = seeds(
        arguments.model,
        load_universe(data / "topology.pdb"),
        peptide(arguments.peptide).system(),
        output=arguments.folder,
        temperature=300.0,
        timestep=STEP,
        jumps=arguments.jumps,
        replicas=arguments.replicas,
        starts=arguments.starts,
        repeats=arguments.repeats,
        burst=arguments.burst,
        lag=arguments.lag,
        reference=reference,
    )
    cpu = time.process_time() - begun
    data_file, page = write_page(found)
    print(page)
    features = [found.coordinates(one.trajectory.timeseries(order="fac")) for one in reference]
    long = estimate(features, found.kinetics.lag)
    record = json.loads(data_file.read_text())
    record["reference"] = {
        "runs": list(REFERENCE),
        "ns": sum(one.trajectory.n_frames for one in reference) * found.interval / 1000,
        "timescales_ps": [
            {"value": one.value * found.interval, "low": one.low * found.interval, "high": one.high * found.interval}
            for one in long.timescales
        ],
    }
    record["cpu_seconds"] = cpu  # of this call: a folder that was there already takes few
    arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peptide", default="ala2")
    parser.add_argument("--folder", type=Path, required=True, help="of the bursts and the page")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jumps", type=int, default=60)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--burst", default="40 ps")
    parser.add_argument("--lag", default="5 ps")
    main(parser.parse_args())
