"""Compilation of kernels: what Numba is told, for what arguments, in which processes, where machine code is kept."""
