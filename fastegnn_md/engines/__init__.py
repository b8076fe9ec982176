"""Borders to ASE, OpenMM and MDAnalysis; units are converted here and nowhere else.

Names are imported on first use: the package works without the engines (extras ``ase``, ``openmm``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
