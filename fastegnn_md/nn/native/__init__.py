"""Arithmetic in C++ for the CPU; without a compiler, the same by torch."""
