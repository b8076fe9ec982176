"""Halves of a jump by the C++ library against the same made of gradients, one by one."""

from __future__ import annotations

import pytest
import torch
from energy_cases import CUTOFF, RADIAL, SIZES, UNIT, EnergyCase
from torch import Tensor

from fastegnn_md.errors import GraphError
from fastegnn_md.graph import EdgeList
from fastegnn_md.nn.native.library import library
from fastegnn_md.nn.native.network import Weights
from fastegnn_md.nn.native.potential import Energies
from fastegnn_md.nn.native.symplectic import Halves
from fastegnn_md.propagator.surroundings import Surroundings, SurroundingsShape

TIMESTEP = 0.05
TIGHT = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _there() -> None:
    assert library() is not None, "the C++ library could not be built"


class Jumps:
    """Jumps of the systems of a case with random masses, velocities and forces."""

    def __init__(self, case: EnergyCase, kicks: int, **more):
        generator = torch.Generator().manual_seed(2)
        self.case, self.kicks, nodes = case, kicks, len(case.x)
        self.masses = 1.0 + 15.0 * torch.rand(nodes, generator=generator, dtype=torch.float64)
        self.velocities = 3.0 * torch.randn(nodes, 3, generator=generator, dtype=torch.float64)
        self.forces = 5.0 * torch.randn(nodes, 3, generator=generator, dtype=torch.float64)
        self.plan = case.native().plan
        self.halves = Halves(
            self.plan, case.begin, case.features, self.masses, cutoff=CUTOFF, radial=RADIAL, unit=UNIT,
            timestep=TIMESTEP, kicks=kicks, partners=case.partners, **more,
        )  # fmt: skip
        self.packed = Weights(case.network, case.head).packed(self.plan)

    def kick(self, x: Tensor, number: int) -> Tensor:
        features = self.case.features.clone()
        features[:, -1] = 2 * number / self.kicks
        energies = Energies(
            self.plan, self.case.begin, features, cutoff=CUTOFF, radial=RADIAL, unit=UNIT, partners=self.case.partners
        )
        return -energies.gradient(x, self.case.parameters).detach() / self.masses[:, None]

    def first(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        step = TIMESTEP / self.kicks
        x = x + 0.5 * step * v
        for number in range(self.kicks // 2, 0, -1):
            v = v + step * self.kick(x, number)
            x = x + step * v
        return x, v

    def second(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        step = TIMESTEP / self.kicks
        v = v + TIMESTEP * (self.forces / self.masses[:, None] - (1 - 1 / self.kicks) * self.kick(x, 0))
        for number in range(1, self.kicks // 2 + 1):
            x = x + step * v
            v = v + step * self.kick(x, number)
        return x + 0.5 * step * v, v


@pytest.mark.parametrize("dtype", TIGHT, ids=["double", "single"])
@pytest.mark.parametrize("sizes", [SIZES, [9] * 25], ids=["few", "many"])
@pytest.mark.parametrize(("kicks", "bonds"), [(1, False), (3, True), (5, False)])
def test_halves_are_made_of_kicks_and_drifts(kicks, bonds, sizes, dtype):
    jumps = Jumps(EnergyCase(dtype, sizes, bonds=bonds), kicks)
    before, x, v = torch.get_num_threads(), jumps.case.x, jumps.velocities
    expected = jumps.first(x, v), jumps.second(x, v)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            displacement, velocities, unlike = jumps.halves.first(jumps.packed, x, v)
            assert unlike is None
            ended = jumps.halves.second(jumps.packed, x, v, jumps.forces)
            for found, there in zip(((displacement, velocities), ended), expected, strict=True):
                torch.testing.assert_close(x + found[0], there[0], rtol=0, atol=TIGHT[dtype])
                torch.testing.assert_close(found[1], there[1], rtol=0, atol=TIGHT[dtype] * 10)
    finally:
        torch.set_num_threads(before)


def test_a_jump_is_undone_by_the_same_backwards():
    jumps = Jumps(EnergyCase(torch.float64), 5)
    x, v = jumps.case.x, jumps.velocities
    half, there, _ = jumps.halves.first(jumps.packed, x, v)
    moved, ended = jumps.halves.second(jumps.packed, x + half, there, jumps.forces)
    end = x + half + moved
    back, there, _ = jumps.halves.first(jumps.packed, end, -ended)
    torch.testing.assert_close(end + back, x + half, rtol=0, atol=1e-12)  # the force there is the same
    moved, ended = jumps.halves.second(jumps.packed, end + back, there, jumps.forces)
    torch.testing.assert_close(end + back + moved, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(-ended, v, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kicks", [1, 3])
def test_surroundings_are_those_at_the_start(kicks):
    case = EnergyCase(torch.float64)
    known = Surroundings(SurroundingsShape((1, 6, 8), CUTOFF)).double()
    generator = torch.Generator().manual_seed(0)
    for one in (known.whitening, known.offset):
        one += torch.randn(one.shape, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([1, 6, 8]).repeat(9)[: len(case.x)]
    jumps = Jumps(case, kicks, around=known.around(numbers, torch.float64))
    unlike = jumps.halves.first(jumps.packed, case.x, jumps.velocities)[2]
    assert unlike is not None
    index = case.pairs(case.x)
    vector = case.x[index[0]] - case.x[index[1]]
    expected = known(numbers, EdgeList(index, vector, vector.norm(dim=1, keepdim=True)))
    torch.testing.assert_close(unlike, expected, rtol=1e-10, atol=1e-10)


def test_overlapping_atoms_are_named_and_nan_stays():
    jumps = Jumps(EnergyCase(torch.float64, [4, 5]), 3)
    x, v = jumps.case.x.clone(), jumps.velocities.clone()
    x[7], v[7] = x[5], v[5]
    with pytest.raises(GraphError, match=r"atoms [57] and [57] are 0.0e[+]00 Å apart"):
        jumps.halves.first(jumps.packed, x, v)
    v[0] = torch.nan
    displacement, velocities, _ = jumps.halves.first(jumps.packed, jumps.case.x, v)
    assert displacement[0].isnan().all()
    assert velocities[:4].isnan().any()
