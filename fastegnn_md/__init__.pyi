from .propagator import Committee as Committee
from .propagator import Propagator as Propagator
from .propagator import load as load
from .state import State as State

__version__: str
