from .config import TrainingConfig as TrainingConfig
from .fit import FitResult as FitResult
from .fit import fit as fit
from .losses import residual_loss as residual_loss
from .losses import virtual_node_mmd as virtual_node_mmd
from .start import untrained_propagator as untrained_propagator
