"""Three steps, one for each way into the package, and a report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..._extras import check_installed
from ..._files import write_atomically
from .records import DemoSettings, StepResult


def run_demo(output: str | Path, settings: DemoSettings | None = None, *, progress: bool = True) -> list[StepResult]:
    """Run the demo.

    Parameters
    ----------
    output : path
        Folder for all files, ``report.html`` and ``results.json`` among them; made if it is missing. Files of an
        earlier run are replaced.
    settings : DemoSettings, optional
    progress : bool
        Say which step begins, and show progress bars.

    Returns
    -------
    list of StepResult

    Raises
    ------
    MissingDependencyError
        If ASE, OpenMM, tblite, Lightning, matplotlib or Jinja2 is missing.
    """
    settings = DemoSettings() if settings is None else settings
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with _one_thread():
        check_installed("the demo", "ase", "jinja2", "lightning", "matplotlib", "openmm", "tblite")
        from .copper import copper
        from .molecule import molecule
        from .replicas import replicas
        from .report import results, write_demo_report

        steps = []
        for number, step in enumerate((copper, molecule, replicas), 1):
            if progress:
                print(f"== step {number} of 3: {(step.__doc__ or '').splitlines()[0]}", flush=True)
            steps.append(step(output, settings, progress=progress))
    text = json.dumps(results(steps), indent=1, ensure_ascii=False)
    write_atomically(output / "results.json", f"{text}\n".encode())
    write_demo_report(output / "report.html", steps, time.perf_counter() - begun)
    return steps


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch and for OpenMP of engines that are loaded in here: the same for both sides."""
    threads, given = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if given is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = given
