"""Messages of edges and their sums, one layer of the default network: operations of torch against the Triton kernels.

    python benchmarks/gpu_edges.py --output benchmarks/results/gpu_edges.json

Systems: alanine dipeptide (22 atoms, one copy and 1,024), the backbone of AdK at 10 Å (855 atoms), and the liquid of
``scaling.py`` (a million atoms). Called, and as a CUDA graph, in which nothing waits for Python. ``--device cpu
--small`` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import torch
from MDAnalysisTests.datafiles import DCD, PSF

sys.path.insert(0, str(Path(__file__).parent))
from jump import state_of
from on_gpu import graphed, median, write_rows
from scaling import CUTOFF, liquid

from fastegnn_md import State
from fastegnn_md.graph import bessel_basis, cutoff_envelope, neighbour_list
from fastegnn_md.models.fastegnn import FastEGNNLayer
from fastegnn_md.nn.edges import Edges
from fastegnn_md.nn.messages import gpu as gpu_kernel
from fastegnn_md.nn.real import carried

HIDDEN, CHANNELS, RADIAL = 64, 4, 12


def systems(small: bool) -> Iterator[tuple[str, State, float]]:
    """Names, states and cutoffs."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        universe = mda.Universe(str(path))
        universe.guess_TopologyAttrs(to_guess=["bonds"])
        one = state_of(universe.atoms)
    yield "22 atoms", one, 3.5
    if small:
        return
    yield "855 atoms at 10 Å", state_of(mda.Universe(PSF, DCD).select_atoms("backbone")), 10.0
    yield "1,024 copies of 22 atoms", State.concatenate([one] * 1024), 3.5
    yield "liquid of a million atoms", liquid(1_000_000), CUTOFF


@contextmanager
def kernels(which: str) -> Iterator[None]:
    """Operations of torch alone; the Triton kernel of messages; or that which makes features and vectors, too."""
    kept = gpu_kernel.serves, gpu_kernel.carries
    if which != "fused":
        gpu_kernel.carries = lambda *given: False  # type: ignore[assignment]
    if which == "torch":
        gpu_kernel.serves = lambda inputs: False  # type: ignore[assignment]
    try:
        yield
    finally:
        gpu_kernel.serves, gpu_kernel.carries = kept


def rows(device: str, small: bool, repeats: int) -> Iterator[dict[str, object]]:
    """Times of each system."""
    generator = torch.Generator().manual_seed(0)
    layer = FastEGNNLayer(
        edge_features=RADIAL + 4, hidden=HIDDEN, virtual_nodes=3, squared=True, ordered=True, attention=False,
        tanh=False, normalize=False, gravity=None, vector_channels=CHANNELS, virtual_geometry=True,
        average_neighbours=10.0,
    ).to(device).requires_grad_(False)  # fmt: skip
    for name, state, cutoff in systems(small):
        found = neighbour_list(state.to(device, torch.float32), cutoff)
        edges = found.edge_index.shape[1]
        distance = found.distance
        hops = torch.zeros(edges, 4, device=device)
        attributes = torch.cat([bessel_basis(distance, cutoff, RADIAL), hops], dim=1)
        h = torch.randn(state.n_atoms, HIDDEN, generator=generator).to(device)
        u = torch.randn(state.n_atoms, CHANNELS, 3, generator=generator).to(device)
        x = torch.zeros(state.n_atoms, 3, device=device)
        given = Edges(
            found.edge_index, attributes, found.vector / cutoff, cutoff_envelope(distance, cutoff)[:, 0], x,
            positions_move=False,
        )  # fmt: skip
        row: dict[str, object] = {"what": name, "atoms": state.n_atoms, "edges": edges}
        expected = None
        for kind in ("torch", "messages", "fused"):

            def call(
                graph: Edges = given, nodes: torch.Tensor = h, vectors: torch.Tensor = u
            ) -> tuple[torch.Tensor, ...]:
                with torch.no_grad():
                    return carried(layer.edge, layer.vectors, nodes, vectors, graph)  # type: ignore[arg-type]

            with kernels(kind):
                sums = call()[0]
                if expected is None:
                    expected = sums
                else:
                    row[f"{kind}, relative difference"] = float((sums - expected).norm() / expected.norm())
                count = repeats if edges < 10**6 else min(3, repeats)
                row[f"{kind}, ms"] = median(call, device, count)
                if edges < 10**6:
                    try:
                        row[f"{kind}, graph, ms"] = median(graphed(call, device), device, count)
                    except RuntimeError as error:  # a result, too
                        row[f"{kind}, graph"] = f"not recorded: {str(error).splitlines()[0]}"
        if device == "cuda":
            row["fused, ms by block, warps and stages"] = dict(shapes(call, device, 20 if edges < 10**6 else 2))
        yield row


def shapes(call: Callable[[], object], device: str, repeats: int) -> Iterator[tuple[str, object]]:
    """Times of the fused kernel with other numbers of edges at once, of warps, and of loads in advance."""
    kept = dict(gpu_kernel.MANY), dict(gpu_kernel.FEW)
    for shape in ((16, 1, 1), (16, 2, 1), (32, 2, 1), (32, 4, 1), (64, 4, 1), (64, 4, 2), (128, 4, 1), (128, 8, 1)):
        for launch in (gpu_kernel.MANY, gpu_kernel.FEW):
            launch.update(zip(("BLOCK", "num_warps", "num_stages"), shape, strict=True))
        try:
            timed = graphed(call, device) if repeats > 2 else call
            yield str(shape), median(timed, device, repeats)
        except Exception as error:  # too much for this GPU
            yield str(shape), f"{type(error).__name__}: {str(error)[:80]}"
    gpu_kernel.MANY.update(kept[0])
    gpu_kernel.FEW.update(kept[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"not run: torch {torch.__version__} sees no GPU")
        return
    write_rows([rows(arguments.device, arguments.small, arguments.repeats)], arguments.device, arguments.output)


if __name__ == "__main__":
    main()
