"""A user of ASE has molecule.xyz and xTB: README, installation, docs/howto/my-molecule.md.

python tests/newcomers/xyz_and_xtb.py
"""

import own_files
from newcomer import Newcomer, main

PAGE = "docs/howto/my-molecule.md"


def trial(user: Newcomer) -> None:
    """An .xyz file and xTB."""
    user.install(PAGE)
    user.makes(own_files.molecule_of_xyz)
    user.saves(PAGE, "def calculator", "my_engine.py")
    user.types(PAGE, "fastegnn-md run")
    user.expects("run.extxyz")
    user.types(PAGE, "fastegnn-md adapt")
    user.expects("adapted.safetensors")


if __name__ == "__main__":
    main(trial)
