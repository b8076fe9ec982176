"""Learned molecular-dynamics steps: a ``State`` comes in, a ``Propagator`` moves it by Δt, a ``State`` goes out."""

from importlib.metadata import version

import lazy_loader

# On first use, so that `fastegnn-md --version` does not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("fastegnn-md")
