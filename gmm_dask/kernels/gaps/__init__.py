"""Kernels of rows with missing values, which are computed pattern by pattern: the rows with the same columns."""
