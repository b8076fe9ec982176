"""A learned error beside the errors of predictors that learn nothing."""

from __future__ import annotations

from collections.abc import Mapping

from ..baselines import BASELINES, Errors

_UNITS = {"x": "amu^½ Å", "v": "amu^½ Å/ps"}


def lowest_baseline(errors: Mapping[str, Errors]) -> dict[str, float]:
    """Lowest RMSE of the three baselines, ``{"x": amu^½ Å, "v": amu^½ Å/ps}``; "v" only where there is one."""
    lowest = {"x": min(errors[name].x for name in BASELINES)}
    velocities = [v for name in BASELINES if (v := errors[name].v) is not None]
    return lowest | ({"v": min(velocities)} if velocities else {})


def over_baseline(learned: Mapping[str, float], lowest: Mapping[str, float]) -> dict[str, float]:
    """Learned error over the lowest baseline; finite even where a baseline is exact (free particles)."""
    return {key: value / max(lowest[key], 1e-12) for key, value in learned.items()}


def error_table(errors: Mapping[str, Errors]) -> str:
    """One-step errors as lines of text: each predictor, its RMSE, and the learned error over it.

    Parameters
    ----------
    errors : mapping of str to Errors
        As :func:`fastegnn_md.baselines.one_step_errors` returns them.

    Returns
    -------
    str
        A table of fixed width, without a final line break.
    """
    learned = errors["learned"]
    keys = ["x"] if learned.v is None else ["x", "v"]
    width = max(len(name) for name in errors)
    head = "".join(f"  {key + ' / ' + _UNITS[key]:>16}  {'learned / it':>12}" for key in keys)
    lines = [f"{'one-step RMSE':<{width}}{head}"]
    for name, error in errors.items():
        line = f"{name:<{width}}"
        for key in keys:
            value, own = getattr(error, key), getattr(learned, key)
            ratio = "" if name == "learned" or not value else f"{own / value:.3f}"
            line += f"  {value:>16.5g}  {ratio:>12}" if value is not None else f"  {'':>16}  {'':>12}"
        lines.append(line.rstrip())
    return "\n".join(lines)
