"""How far a propagator's dynamics is from a reference: observables, verdicts, a report.

Names are imported on first use; :func:`validate` and some observables need the extra ``validate``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
