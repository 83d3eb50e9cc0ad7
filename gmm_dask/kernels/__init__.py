"""Kernels: arithmetic on one block of rows, held in NumPy arrays that stay in the processor's cache.

They validate nothing, know no covariance type and no Dask, and write only into the buffers they are handed.
A block is stored feature by feature, shape (n_features, n_rows), so that every operation runs along the rows.
"""
