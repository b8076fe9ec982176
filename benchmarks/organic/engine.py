"""The engine of the organic models, and the machine a script runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def xtb() -> Any:
    """GFN2-xTB."""
    from tblite.ase import TBLite  # OpenMP threads are the caller's: OMP_NUM_THREADS

    return TBLite(method="GFN2-xTB", verbosity=0)


def about_machine() -> dict[str, Any]:
    """Processor, threads and versions."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "torch": torch.__version__,
    }
