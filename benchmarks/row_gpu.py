"""One row of Table 1 of FastEGNN, trained to its end or for as long as there is: N-body, C = 3, p = 0.75, on a GPU.

    python benchmarks/row_gpu.py --seconds 200 --data FOLDER --output row.json

FOLDER keeps the data set, 9,000 systems of 100 particles, which is simulated first where it is not there, and the
checkpoint from which another run goes on. ``fastegnn-md bench table1`` trains all rows; here the time is for one.
``--device cpu --small`` trains on twelve systems of ten particles, to try the script.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from hybrid_ala2 import machine

from fastegnn_md.papers.datasets.nbody import ChargedSystemsRecipe, charged_systems
from fastegnn_md.papers.tables.data import charged_graphs
from fastegnn_md.papers.tables.run import chosen_rows
from fastegnn_md.papers.tables.train import RowTraining

ROW = "nbody fastegnn C=3 p=0.75"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0, help="of data and training")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set and the checkpoint")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batch-size", type=int, help="in place of that of the paper, 100")
    parser.add_argument("--processes", type=int, default=8, help="that simulate the data set")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"not run: torch {torch.__version__} sees no GPU")
        return
    (row,) = chosen_rows("table1", ROW)[1]
    particles, systems = (10, (6, 3, 3)) if arguments.small else (100, None)
    size = arguments.batch_size or (3 if arguments.small else row.settings.batch_size)
    row = row.with_settings(batch_size=size)
    arguments.data.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    data = charged_systems(
        ChargedSystemsRecipe.nbody(particles, systems=systems),
        arguments.data / f"nbody-{particles}.h5",
        processes=arguments.processes,
        progress=False,
    )
    graphs = {split: charged_graphs(one, row.dropped) for split, one in data.items()}
    had = time.perf_counter() - begun
    checkpoint = arguments.data / f"row-{particles}-{size}.safetensors"
    training = RowTraining(row, graphs, checkpoint, device=arguments.device, progress=False)
    before = training.update, training.seconds
    result = training.run(max(1.0, arguments.seconds - had))
    found = {
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else "none",
        "row": row.name,
        **asdict(result),
        "epochs in the paper": row.settings.epochs,
        "batch size": size,
        "systems": {split: len(one) for split, one in graphs.items()},
        "particles": particles,
        "seconds until the data were there": had,
        "updates a second": (training.update - before[0]) / max(training.seconds - before[1], 1e-9),
    }
    print(json.dumps(found))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
