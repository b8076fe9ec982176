"""A user of MDAnalysis has a PSF, a DCD and CHARMM parameters: README, installation, docs/howto/my-trajectory.md.

python tests/newcomers/psf_and_dcd.py
"""

import own_files
from newcomer import Newcomer, main

PAGE = "docs/howto/my-trajectory.md"


def trial(user: Newcomer) -> None:
    """A PSF and a DCD."""
    user.install(PAGE)
    user.makes(own_files.psf_and_dcd)
    for command in ("harvest", "train", "run"):
        user.types(PAGE, f"fastegnn-md {command}")
    user.saves(PAGE, "import MDAnalysis", "analysis.py")
    user.runs("analysis.py")
    user.expects("bursts.h5md", "model.safetensors", "learned.xtc")


if __name__ == "__main__":
    main(trial)
