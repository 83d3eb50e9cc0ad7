"""The result store: a Zarr v3 group that holds what a job found, and what it needs to go on.

::

    STORE/            attributes: format, format_version, status, config, data, software, best, passes,
                      bytes_read, attempts, checkpoint
      criteria/       a value for each candidate, and for each of its starts
      models/tied-k3/ parameters of a candidate, its components sorted by weight, largest first
      rows/           a value for each row, components numbered as in models/
      sample/         some rows, with what the chosen model says about them
      checkpoint/<n>/ the state of an unfinished run
    STORE-rows/       beside the store: the values of rows, where they are Parquet files
    STORE.lock        beside the store: held by the run that writes it

Every array has dimension names, so that xarray opens a group: ``open_zarr(STORE, group=..., consolidated=False)``.
``lifecycle`` makes, checks and completes a store, ``locks`` keeps it to one run, ``checkpoint`` saves a run's state,
``results`` holds criteria and models, ``rows`` the values of rows, ``sample`` some rows for pictures.
"""

from pipeline.store.checkpoint import Checkpoint, DamagedError, load_checkpoint, load_waves, save_checkpoint
from pipeline.store.identity import is_same_job
from pipeline.store.lifecycle import (
    ResultStore,
    StoreStatus,
    complete,
    find_store,
    is_store,
    open_store,
    prepare_store,
    read_attribute,
    record_data,
    update_attributes,
)
from pipeline.store.locks import LockedError, is_locked, lock
from pipeline.store.models import (
    Effort,
    StoredModel,
    read_columns,
    read_criteria,
    read_effort,
    read_model,
    write_criteria,
    write_models,
)
from pipeline.store.sample import Sample, read_sample, write_sample
from pipeline.store.scores import ELSEWHERE, complete_scores, find_unfinished, prepare_scores, read_scores
from pipeline.store.zarr_rows import (
    RowPlan,
    RowWriter,
    Totals,
    ZarrRows,
    read_summary,
    row_shapes,
    rows_folder,
)

__all__ = [
    "ELSEWHERE",
    "Checkpoint",
    "DamagedError",
    "Effort",
    "LockedError",
    "ResultStore",
    "RowPlan",
    "RowWriter",
    "Sample",
    "StoreStatus",
    "StoredModel",
    "Totals",
    "ZarrRows",
    "complete",
    "complete_scores",
    "find_store",
    "find_unfinished",
    "is_locked",
    "is_same_job",
    "is_store",
    "load_checkpoint",
    "load_waves",
    "lock",
    "open_store",
    "prepare_scores",
    "prepare_store",
    "read_attribute",
    "read_columns",
    "read_criteria",
    "read_effort",
    "read_model",
    "read_sample",
    "read_scores",
    "read_summary",
    "record_data",
    "row_shapes",
    "rows_folder",
    "save_checkpoint",
    "update_attributes",
    "write_criteria",
    "write_models",
    "write_sample",
]
