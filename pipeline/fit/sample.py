"""The sample of rows that a complete store keeps, with what the chosen model says about them."""

from __future__ import annotations

from gmm_dask.passes.map_reduce import Rows
from gmm_dask.passes.predict import predict_rows
from pipeline import store


def keep_sample(path: str, best: str) -> None:
    """Write the checkpoint's sample of rows into the store, with the chosen model's labels, before it goes.

    Parameters
    ----------
    path : str
        The result store.
    best : str
        Name of the chosen model.
    """
    data_summary, model = store.load_checkpoint(path).data_summary, store.read_model(path, best)
    found = predict_rows(Rows(data_summary.sample), *model.model, ["label", "responsibility"])
    in_units = data_summary.sample
    if model.center is not None and model.scale is not None:
        in_units = in_units * model.scale + model.center
    sample = store.Sample(
        rows=in_units,
        label=found["label"],
        uncertainty=1.0 - found["responsibility"].max(axis=1),
        n_chunks=len(data_summary.chunk_rows),
        chunk_rows=max(data_summary.chunk_rows),
    )
    store.write_sample(path, sample)
