"""What older versions of the package wrote, in the words of this one. One function for each change of a format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

# Settings of a propagator that are one key ``kind`` since model files of format 3.
FORMER_KEYS = ("mode", "forces", "midpoint")


def with_kind(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a propagator with ``kind`` in place of ``mode``, ``forces`` and ``midpoint``, where they have these.

    Parameters
    ----------
    config : mapping
        Settings of a propagator of any age, complete or not; not modified.

    Raises
    ------
    ConfigError
        If the former keys do not name a kind, or stand beside ``kind``.
    """
    former = {key: config[key] for key in FORMER_KEYS if key in config}
    if not former:
        return dict(config)
    words = ", ".join(f"{key}={value!r}" for key, value in former.items())
    if "kind" in config:
        raise ConfigError(f"{words} and kind={config['kind']!r} are both given; kind alone says it, leave out the rest")
    mode, forces, midpoint = former.get("mode", "full"), former.get("forces", False), former.get("midpoint", False)
    kinds = {
        ("full", False, False): "force-free",
        ("full", True, False): "force-start",
        ("full", True, True): "force-midpoint",
        ("position", False, False): "position",
        ("kick-drift", False, False): "kick-drift",
    }
    try:
        kind = kinds[mode, forces, midpoint]
    except (KeyError, TypeError):
        raise ConfigError(
            f"{words} names no kind of propagator; set kind to one of {', '.join(kinds.values())}"
        ) from None
    return {"kind": kind} | {key: value for key, value in config.items() if key not in FORMER_KEYS}
