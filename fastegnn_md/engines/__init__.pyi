from .ase.stepper import LearnedStepper as LearnedStepper
from .openmm.calculator import OpenMMCalculator as OpenMMCalculator
