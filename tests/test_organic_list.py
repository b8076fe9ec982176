"""The lists of molecules of the organic models: what is trained on, and what is kept for the exam.

What needs RDKit (columns agree with the SMILES, no molecule is there twice in other words) is checked by
``benchmarks/organic/build.py`` whenever it runs.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}
HELD_OUT = {"nitro", "sulfonamide", "epoxide", "oxime"}
# Named by who asked for the model.
ASKED_FOR = {
    *("ethanol", "benzene", "acetamide", "isobutane", "furan", "methyl-formate", "acetonitrile", "trimethylamine"),
    "nitromethane",
}


@pytest.fixture(scope="module")
def lists():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks" / "organic")
        return importlib.import_module("lists")


@pytest.fixture(scope="module")
def train(lists):
    return lists.read_list("train")


@pytest.fixture(scope="module")
def exam(lists):
    return lists.read_list("exam")


def counts(formula):
    assert re.fullmatch(r"([A-Z][a-z]?\d*)+", formula), formula
    return {symbol: int(number or 1) for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}


def heavy_atoms(smiles):
    """Elements but hydrogen in a SMILES."""
    bare = re.sub(r"\[([A-Za-z][a-z]?)[^]]*\]", lambda found: found[1].removesuffix("H"), smiles)
    return Counter(symbol.capitalize() for symbol in re.findall(r"Cl|[A-Z]|[a-z]", bare) if symbol != "H")


@pytest.mark.parametrize("name", ["train", "exam"])
def test_columns_are_those_of_the_smiles(lists, name):
    for one in lists.read_list(name):
        found = counts(one.formula)
        assert set(found) <= ELEMENTS, one
        assert sum(found.values()) == one.n_atoms, one
        assert heavy_atoms(one.smiles) == {symbol: n for symbol, n in found.items() if symbol != "H"}, one
        # closed shell: valences of one neutral molecule add up to an even number
        assert sum(found.get(symbol, 0) for symbol in ("H", "F", "Cl", "N")) % 2 == 0, one


def test_training_is_large_and_diverse(train):
    assert len(train) >= 400
    assert max(one.n_atoms for one in train) <= 40
    assert sum(one.n_atoms >= 18 for one in train) >= 150
    for symbol in ELEMENTS:
        assert sum(symbol in counts(one.formula) for one in train) >= 40, symbol
    assert len({group for one in train for group in one.groups}) >= 35


def test_the_exam_asks_for_small_large_and_new(exam):
    assert len(exam) >= 40
    assert {one.name for one in exam} >= ASKED_FOR
    assert sum(25 <= one.n_atoms <= 45 for one in exam) >= 10
    assert {one.kind for one in exam} == {"small", "drug", "flavour", "peptide", *HELD_OUT}
    for group in HELD_OUT:
        assert sum(group in one.groups for one in exam) >= 4, group


def test_nothing_of_the_exam_is_trained_on(train, exam):
    assert not {one.smiles for one in train} & {one.smiles for one in exam}
    assert not [one for one in train if HELD_OUT & set(one.groups)]
    names = [one.name for one in [*train, *exam]]
    assert len(set(names)) == len(names) == len({one.smiles for one in [*train, *exam]})


def test_every_beginning_of_the_order_is_diverse(lists, train):
    order = lists.shuffled(train)
    assert sorted(order, key=train.index) == train
    assert order == lists.shuffled(train)
    beginning = order[: len(order) // 5]
    assert {symbol for one in beginning for symbol in counts(one.formula)} == ELEMENTS
    large = sum(one.n_atoms >= 18 for one in beginning) / len(beginning)
    assert abs(large - sum(one.n_atoms >= 18 for one in train) / len(train)) < 0.1


def test_the_models_were_trained_on_enough_of_the_list(lists, train, exam):
    made = json.loads((ROOT / "benchmarks" / "results" / "organic_data.json").read_text(encoding="utf-8"))
    assert made["train"]["molecules"] >= 400
    assert made["train"]["molecules with 18 atoms or more"] >= 150
    assert made["exam"]["stores"] == len(exam)
    built = [one for one in lists.shuffled(train)[:488] if one.name not in made["train"]["left out of the first 488"]]
    assert len(built) == made["train"]["stores"]
    groups = Counter(group for one in built for group in one.groups)
    assert groups == made["train"]["molecules by group"]
