"""Vector primitives that Numba does not offer, written out as LLVM instructions."""
