from .atoms import guess_bonds as guess_bonds
from .atoms import state_from_atoms as state_from_atoms
from .atoms import update_atoms as update_atoms
from .stepper import LearnedStepper as LearnedStepper
