"""Results on an object store: its requests, a prefix of it as a place, and Zarr's store of that."""

from importlib.util import find_spec

from gmm_dask.errors import UserError

if find_spec("obstore") is None:
    raise UserError(
        "results on an object store need the package obstore, which is not installed. Install it: "
        'pip install "gmm-dask[s3]" (or gcs, azure).'
    )
