"""Runs of a table: rows under a budget of time, results written after every row."""

from __future__ import annotations

import fnmatch
import json
import platform
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..._files import write_atomically
from ...errors import ConfigError, DataError, MissingDependencyError
from ...nn.messages import cpu as cpu_kernel
from .data import Splits, check_data, load_data
from .definitions import TABLES, Table
from .rows import Row
from .train import RowTraining

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_budget(text: str) -> float:
    """Seconds of a budget such as ``"90 min"`` or ``"2h"``.

    Raises
    ------
    ConfigError
        If it is no positive number with one of the units s, min, h.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(\S+)\s*", text)
    if match is None or match[2] not in _SECONDS or float(match[1]) <= 0:
        raise ConfigError(f"cannot read the budget {text!r}; expected a time in s, min or h, for example '90 min'")
    return float(match[1]) * _SECONDS[match[2]]


def run_table(
    name: str,
    *,
    budget: float,
    output: Path,
    data: Path,
    device: str = "cpu",
    only: str = "*",
    batch_size: int | None = None,
    compiled: bool = False,
    processes: int = 1,
    progress: bool = True,
) -> Path:
    """Train the rows of a table and write what came out.

    Rows share the time that is left in equal parts; a row that finishes early leaves the rest of its part to the
    others. Called again, each row goes on from its checkpoint. Getting the data is not counted.

    Parameters
    ----------
    name : str
        Key of :data:`~fastegnn_md.papers.tables.definitions.TABLES`.
    budget : float, s
        Time for training.
    output : Path
        Folder of ``NAME.json``, ``NAME.md`` and the checkpoints.
    data : Path
        Folder of the data sets.
    device : str
        ``cpu`` or ``cuda``.
    only : str
        Rows whose name fits this pattern (``"nbody * p=1"``).
    batch_size : int, optional
        In place of that of the paper. On a CPU small batches make more of a given time; results say so.
    compiled : bool
        On a CPU, compile the kernel of messages first; sums are then rounded in another way.
    processes : int
        That simulate data sets.
    progress : bool

    Returns
    -------
    Path
        The Markdown file.

    Raises
    ------
    ConfigError
        If the table, the device or all rows are unknown, or the kernel cannot be compiled.
    DataError, MissingDependencyError
        If no row has its data and its packages; where some have, the others are only named.
    CheckpointError, TrainingError
        From a row.
    """
    table, rows = chosen_rows(name, only)
    check_device(device)
    if compiled and device == "cpu":
        cpu_kernel.build()
    if batch_size is not None:
        rows = [row.with_settings(batch_size=batch_size) for row in rows]
    output.mkdir(parents=True, exist_ok=True)
    results = read_results(output / f"{name}.json")
    missing: dict[str, DataError | MissingDependencyError] = {}
    for row in rows:
        try:
            check_data(row.data, data)
        except DataError as error:
            missing[row.name] = error
    chosen = [row for row in rows if row.name not in missing]
    loaded: tuple[tuple[str, float], Splits] | None = None
    for index, row in enumerate(chosen):
        checkpoint = output / "checkpoints" / f"{file_name(row.name)}.safetensors"
        try:
            if loaded is None or loaded[0] != (row.data, row.dropped):
                loaded = None  # two data sets at a time may not fit into memory
                splits = load_data(row.data, row.dropped, data, processes=processes, progress=progress)
                loaded = (row.data, row.dropped), splits
            training = RowTraining(row, loaded[1], checkpoint, device=device, progress=progress)
        except (DataError, MissingDependencyError) as error:
            missing[row.name] = error
            continue
        begun = time.monotonic()
        result = training.run(budget / (len(chosen) - index))
        budget = max(0.0, budget - (time.monotonic() - begun))
        results[row.name] = {
            "paper": row.paper,
            **asdict(result),
            "epochs in the paper": row.settings.epochs,
            "data": row.data,
            "model": row.model,
            "options": dict(row.options),
            "p": row.dropped,
            "systems": {split: len(one) for split, one in loaded[1].items()},
            "batch size": row.settings.batch_size,
            "seed": row.settings.seed,
            "machine": describe_machine(device) | {"compiled": compiled},
        }
        write_results(output, name, table, results)
    if len(missing) == len(rows):
        raise next(iter(missing.values()))
    for reason in dict.fromkeys(str(error) for error in missing.values()):
        names = [row_name for row_name, error in missing.items() if str(error) == reason]
        more = f" and {len(names) - 1} more rows" if len(names) > 1 else ""
        warnings.warn(f"left out: {names[0]!r}{more}: {reason}", stacklevel=2)
    return output / f"{name}.md"


def chosen_rows(name: str, only: str = "*") -> tuple[Table, list[Row]]:
    """A table and those of its rows that fit a pattern.

    Raises
    ------
    ConfigError
        If there is no such table or row.
    """
    if name not in TABLES:
        raise ConfigError(f"unknown table {name!r}; expected one of {', '.join(TABLES)}")
    rows = [row for row in TABLES[name].rows if fnmatch.fnmatchcase(row.name, only)]
    if not rows:
        known = ", ".join(repr(row.name) for row in TABLES[name].rows)
        raise ConfigError(f"no row of {name} fits {only!r}; its rows are {known}")
    return TABLES[name], rows


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises
    ------
    ConfigError
        With what to give instead.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r}; expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine, or this build of torch, has no CUDA; use --device cpu")


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers were made with."""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        hardware = f"{next(named, platform.processor())}, threads: {torch.get_num_threads()}"
    return {"hardware": hardware, "torch": torch.__version__}


def file_name(row: str) -> str:
    """Name of a row as part of a file name."""
    return re.sub(r"[^\w.]+", "-", row)


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run; none where there was none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {row.pop("row"): row for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result of a table ({error}); move it away to begin a new one") from error


def write_results(output: Path, name: str, table: Table, results: dict[str, dict[str, Any]]) -> None:
    """Write JSON and Markdown, each completely or not at all."""
    order = [row.name for row in table.rows]
    names = sorted(results, key=lambda row: order.index(row) if row in order else len(order))
    rows = [{"row": row, **results[row]} for row in names]
    write_atomically(output / f"{name}.json", (json.dumps({"table": name, "rows": rows}, indent=1) + "\n").encode())
    write_atomically(output / f"{name}.md", markdown(table, results, names).encode())


def markdown(table: Table, results: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """The table as Markdown, the paper's figure beside ours."""
    lines = [
        f"# {table.title}",
        "",
        table.note,
        "",
        "| row | paper | here | epochs done / in the paper | best epoch | batch | systems | seed | training, h |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        one = results[name]
        paper = "" if one["paper"] is None else f"{one['paper']:.4g}"
        ended = ", stopped early" if one["finished"] and one["epochs"] < one["epochs in the paper"] else ""
        lines.append(
            f"| {name} | {paper} | {one['test']:.4g} | {one['epochs']:.3g} / {one['epochs in the paper']}{ended} | "
            f"{one['best_epoch']:.3g} | {one['batch size']} | {one['systems']['train']} | {one['seed']} | "
            f"{one['seconds'] / 3600:.2g} |"
        )
    hardware = sorted({f"{one['machine']['hardware']}, torch {one['machine']['torch']}" for one in results.values()})
    return "\n".join([*lines, "", "Hardware: " + "; ".join(hardware) + ".", ""])
