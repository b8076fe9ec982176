from .calculator import OpenMMCalculator as OpenMMCalculator
from .calculator import reduced_box as reduced_box
from .description import SystemDescription as SystemDescription
from .description import describe_system as describe_system
from .force import JumpForce as JumpForce
from .force import add_jump_force as add_jump_force
from .force import find_jump_force as find_jump_force
