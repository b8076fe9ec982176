"""How time advances with learned jumps.

Names are imported on first use: guards, thermostats and schedules work without an engine, dynamics and integrators need
theirs (extras ``ase``, ``openmm``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
