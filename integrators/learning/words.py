"""What a run that learns says of itself in a line."""

from __future__ import annotations

import math

from .account import FROZEN, JUMPING
from .course import Course


def line_of(course: Course) -> str:
    """Time, share of jumps, running error with interval and target, audits, calls, and when it has paid."""
    account, error, engine = course.account, course.error, course.engine
    parts = [
        f"{course.account.steps * course.lag:.4g} ps",
        f"{course.phase}, {account.recent_share:.0%} jumps of the last {min(500, max(1, account.steps))}",
    ]
    low, high = error.interval
    if len(error):
        interval = f" ({low:.2f} to {high:.2f})" if math.isfinite(high) else ""
        parts.append(f"error {error.value:.2f} %{interval} of thermal v, target {course.learning.target:g} %")
    statistics = course.statistics
    if course.phase in (JUMPING, FROZEN) and statistics.audits:
        mean, deviation = statistics.energy_change
        spread = f" ± {deviation:.2g}" if math.isfinite(deviation) else ""
        parts.append(f"{statistics.audits} audits, {mean:+.2g}{spread} kT a jump")
    if course.volume is not None and statistics.volume_moves:
        moves = f"{statistics.volume_accepted} of {statistics.volume_moves} moves"
        parts.append(f"volume {course.atoms.get_volume():.5g} Å³ ({moves})")
    parts.append(f"{engine.calls} calls made, {max(0, course.saved_calls)} saved")
    pays = course.pays_after_ps
    if math.isfinite(pays) and account.jumps:
        has = account.wall <= account.classical
        parts.append(f"paid after {pays:.3g} ps" if has else f"pays after {pays:.3g} ps")
    return "; ".join(parts)
