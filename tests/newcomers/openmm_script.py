"""A user of OpenMM swaps the integrator of a script: README, installation, docs/howto/my-openmm-script.md.

python tests/newcomers/openmm_script.py
"""

import own_files
from newcomer import Newcomer, main

PAGE = "docs/howto/my-openmm-script.md"


def trial(user: Newcomer) -> None:
    """A script of OpenMM."""
    user.install(PAGE)
    user.makes(own_files.structure_of_peptide)
    user.saves(PAGE, "LangevinMiddleIntegrator", "classical.py")
    user.runs("classical.py")
    user.types(PAGE, "fastegnn-md harvest")
    user.saves(PAGE, "LearnedIntegrator", "learned.py")
    user.runs("learned.py")
    user.expects("md.dcd", "bursts.h5md", "model.safetensors", "learned.dcd")


if __name__ == "__main__":
    main(trial)
