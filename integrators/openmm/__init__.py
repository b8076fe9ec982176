"""OpenMM integrators that jump."""
