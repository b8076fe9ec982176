"""What benchmarks of a GPU share: times of calls, graphs of calls, and where the time of a call goes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from hybrid_ala2 import machine

_WARM = 5


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Times of single calls, each until the GPU is done."""
    times = []
    for repeat in range(repeats + min(_WARM, repeats)):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
        if repeat < min(_WARM, repeats):
            times.clear()
    return times


def median(call: Callable[[], object], device: str, repeats: int) -> float:
    """Milliseconds of the middle one of single calls."""
    return statistics.median(milliseconds(call, device, repeats))


def graphed(call: Callable[[], object], device: str) -> Callable[[], object]:
    """What repeats a call as a CUDA graph; the call itself where there are none."""
    if device != "cuda":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def profiled(call: Callable[[], object], device: str, repeats: int = 5, rows: int = 12) -> dict[str, object]:
    """Milliseconds a GPU is busy with a call, its kernels by the time they take, and what is waited for or copied."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    call()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(repeats):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
    events = profile.key_averages()
    if device != "cuda":
        own = sorted(events, key=lambda event: -event.self_cpu_time_total)[:rows]
        return {"of the CPU, ms": {event.key[:60]: event.self_cpu_time_total / repeats / 1e3 for event in own}}
    kernels = [event for event in events if event.self_device_time_total > 0 and "Memcpy" not in event.key]
    kernels = [event for event in kernels if not event.key.startswith(("aten::", "cuda", "Memset"))]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    waits = [event for event in events if "Synchronize" in event.key or "Memcpy" in event.key]
    return {
        "GPU busy, ms": sum(event.self_device_time_total for event in kernels) / repeats / 1e3,
        "kernels": sum(event.count for event in kernels) / repeats,
        "waits and copies": {event.key[:60]: event.count / repeats for event in waits},
        "longest, ms and calls": {
            event.key[:90]: [event.self_device_time_total / repeats / 1e3, event.count / repeats]
            for event in kernels[:rows]
        },
    }


def write_rows(parts: Iterable[Iterator[dict[str, object]]], device: str, output: Path | None) -> None:
    """Print rows as they come, and write all of them after each; a part that fails leaves a row that says so."""
    name = torch.cuda.get_device_name() if device == "cuda" else "none"
    rows: list[dict[str, object]] = []
    result = {"machine": machine(), "gpu": name, "rows": rows}

    def add(row: dict[str, object]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if output is not None:
            output.write_text(json.dumps(result, indent=1) + "\n")

    for part in parts:
        try:
            for row in part:
                add(row)
        except Exception as error:  # what fails here is a result, and the others are still measured
            add({"error": f"{type(error).__name__}: {error}"})
