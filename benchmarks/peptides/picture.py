"""The picture of docs/generative.md: φ and ψ after a minute of classical steps, a minute of jumps, and of long runs.

    python benchmarks/peptides/picture.py DATA/ala2 RUNS SPEED -o docs/minute.png

RUNS is a folder of ``rollout.py``, SPEED a file of ``speed.py``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from data import REFERENCE, parts, universe
from MDAnalysis.lib.distances import calc_dihedrals

from fastegnn_md.validation import find_torsions


def angles(folder: Path, files: list[str]) -> np.ndarray:
    """φ and ψ of the first residue, shape (frames, 2), degrees."""
    every = [universe(folder, [file]) for file in files]
    found = find_torsions(every[0].atoms)
    positions = np.concatenate([one.trajectory.timeseries(order="fac") for one in every])
    columns = [calc_dihedrals(*(positions[:, k] for k in found.groups[row].ix)) for row in found.pairs[0]]
    return np.degrees(np.stack(columns, axis=1))


def draw(folder: Path, runs: Path, speed: Path, output: Path) -> None:
    """Three maps side by side."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    timed, record = json.loads(speed.read_text())["solvents"]["obc"], json.loads((runs / "rollout.json").read_text())
    classical, many = timed["ns_per_minute_classical"], timed["ns_per_minute_many"]
    jumps = round(1000 * many / record["lag_ps"] / record["replicas"])
    replicas = sorted(runs.glob("replica-*"))
    jumped = [angles(folder, [str(file) for file in sorted(one.glob("*.dcd"))])[:jumps] for one in replicas]
    long = [angles(folder, parts(folder, run)) for run in REFERENCE]
    maps = (
        (f"one minute of classical steps: {classical:.1f} ns", long[0][: round(1000 * classical)]),
        (f"one minute of jumps of {record['lag_ps']:.0f} ps: {many:.0f} ns", np.concatenate(jumped)),
        (f"the truth: {sum(map(len, long)) / 1000:.0f} ns", np.concatenate(long)),
    )
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (title, values) in zip(axes, maps, strict=True):
        counts, *_ = np.histogram2d(*values.T, bins=60, range=[[-180, 180]] * 2)
        with np.errstate(divide="ignore"):
            energy = -np.log(counts.T / counts.max())
        image = axis.imshow(energy, origin="lower", extent=(-180, 180, -180, 180), cmap="viridis", vmin=0, vmax=7)
        axis.set(title=title, xlabel="φ / degrees", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
        axis.title.set_fontsize(10)
    axes[0].set_ylabel("ψ / degrees")
    figure.colorbar(image, ax=axes, label="free energy / kT", shrink=0.9)
    figure.savefig(output, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="DATA/ala2")
    parser.add_argument("runs", type=Path)
    parser.add_argument("speed", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DCDReader currently makes independent timesteps")
        draw(**vars(parser.parse_args()))
