"""Models trained with heavier hydrogens: the masses they were trained with, and who sets them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastegnn_md import Propagator
from fastegnn_md.cli import main
from fastegnn_md.errors import CompatibilityError
from fastegnn_md.integrators import LearnedDynamics
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.limits import JumpLimits

HEAVY = {1: (4.0, 4.0), 6: (12.011, 12.011), 8: (15.999, 15.999)}


def domain(masses=HEAVY) -> Domain:
    return Domain(
        masses=masses,
        limits=JumpLimits({}),
        periodic=False,
        bonds=False,
        conserves_momentum=True,
        neighbours=8.0,
        velocity_scale=10.0,
        force_scale=1e4,
    )


@pytest.fixture
def ethanol(require):
    require("ase")
    from ase.build import molecule

    return molecule("CH3CH2OH")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "heavy.safetensors"
    Propagator.build(PropagatorConfig(kind="force-free", hidden=8, layers=1), 0.002, domain()).save(path)
    return path


def cli(capfd, *arguments):
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code, capfd.readouterr().err


def test_a_domain_gives_the_masses_of_training_in_the_order_of_the_atoms():
    found = domain().masses_of(np.array([6, 1, 8, 1]))
    torch.testing.assert_close(found, torch.tensor([12.011, 4.0, 15.999, 4.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("masses", "message"),
    [
        ({1: (4.0, 4.0)}, "atom 1 has atomic number 6"),
        (
            {1: (3.0, 3.0), 6: (6.0, 12.0)},
            "masses from 6.0000 to 12.0000 amu; set masses as the training data had them",
        ),
    ],
)
def test_where_there_is_no_one_mass_of_an_element_none_is_made_up(masses, message):
    with pytest.raises(CompatibilityError, match=message):
        domain(masses).masses_of([1, 6])


def test_atoms_of_natural_masses_are_refused_with_the_line_that_sets_those_of_training(ethanol, model):
    propagator = Propagator.load(model)
    with pytest.raises(CompatibilityError) as refused:
        LearnedDynamics(ethanol, propagator)
    (line,) = (part for part in str(refused.value).split(", ") if part.startswith("atoms.set_masses"))
    exec(line, {"atoms": ethanol, "propagator": propagator})
    assert set(ethanol.get_masses()[ethanol.numbers == 1]) == {4.0}
    LearnedDynamics(ethanol, propagator)


def test_run_sets_the_masses_of_the_model_and_says_so(ethanol, model, tmp_path, capfd):
    from ase.io import read

    ethanol.write(tmp_path / "molecule.xyz", format="xyz")
    options = ("--temperature", 300, "--steps", 2)
    code, err = cli(capfd, "run", model, tmp_path / "molecule.xyz", *options, "-o", tmp_path / "run.traj")
    assert code == 0, err
    assert "atoms get the masses that the model was trained with (H 4 u)" in err
    assert "drawn anew" not in err
    assert set(read(tmp_path / "run.traj").get_masses()[ethanol.numbers == 1]) == {4.0}
    code, err = cli(capfd, "run", model, tmp_path / "run.traj", *options, "-o", tmp_path / "on.traj")
    assert (code, "atoms get the masses" in err) == (0, False)  # the file has them


def test_run_draws_anew_what_were_velocities_of_other_masses(ethanol, model, tmp_path, capfd):
    from ase.io import read

    ethanol.set_momenta(np.ones((9, 3)))
    ethanol.write(tmp_path / "moving.traj")
    options = ("--steps", 1, "-o", tmp_path / "run.traj")
    code, err = cli(capfd, "run", model, tmp_path / "moving.traj", "--temperature", 300, *options)
    assert (code, "velocities of START are drawn anew" in err) == (0, True)
    first = read(tmp_path / "run.traj", index=0)
    assert np.abs(first.get_momenta() - 1).max() > 0.1
    assert first.get_momenta().sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)


def test_run_leaves_masses_alone_that_somebody_has_set(ethanol, model, tmp_path, capfd):
    ethanol.set_masses(np.where(ethanol.numbers == 1, 3.0, ethanol.get_masses()))
    ethanol.write(tmp_path / "mine.traj")
    code, err = cli(
        capfd, "run", model, tmp_path / "mine.traj", "--temperature", 300, "--steps", 1, "-o", tmp_path / "x.traj"
    )
    assert code != 0
    assert "has mass 3.0000 amu; training had 4.0000" in err
    assert "give a structure with these masses (.traj has some" in err
