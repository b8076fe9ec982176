"""Losses, the Lightning module, the typed configuration, and the run from pairs to a saved model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
