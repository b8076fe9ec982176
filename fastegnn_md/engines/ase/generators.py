"""Random numbers from what a user gives."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError


def as_generator(rng: np.random.Generator | int | None) -> tuple[np.random.Generator, int | None]:
    """Make a NumPy generator from what a user gives.

    Parameters
    ----------
    rng : numpy.random.Generator, int or None
        A generator, which is used as it is; a seed; or None to draw a seed.

    Returns
    -------
    numpy.random.Generator
    int or None
        The seed, None for a generator whose seed is not known.

    Raises
    ------
    ConfigError
        For anything else, NumPy's old RandomState included.
    """
    if isinstance(rng, np.random.Generator):
        return rng, None
    if rng is None:
        rng = int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)) or rng < 0:
        raise ConfigError(f"rng is {rng!r}; expected a numpy.random.Generator, a seed (an integer >= 0) or None")
    return np.random.default_rng(int(rng)), int(rng)
