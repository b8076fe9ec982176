"""Dynamics that learn their propagator while they run."""
