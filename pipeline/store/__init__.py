"""The result store: a Zarr v3 group that holds what a job found, and what it needs to go on.

::

    STORE/            attributes: format, format_version, status, config, data, software, best, passes,
                      bytes_read, attempts, checkpoint, manifest, sha256
      criteria/       a value for each candidate, and for each of its starts
      models/tied-k3/ parameters of a candidate, its components sorted by their numbers
      clusters/       the clusters that the best model's components are merged into, and the merges
      noise/          the box that the noise of candidates is uniform in, where any has noise
      resamples/      how sure the choice is, from fits to resamples; standard errors of each model
      groups/         of a search for each group of rows: their results, in place of criteria, models, sample
      transform/<n>/  the steps of data.transform, as they were fitted to the data
      rows/           a value for each row; labels hold the numbers of components; the files and their first rows
      sample/         some rows, with what the chosen model says about them
      checkpoint/<n>/ the state of an unfinished run
      manifest/       of a complete store: hashes of its files
    STORE-rows/       beside the store: the values of rows, where they are Parquet files
    STORE.fresh/      beside a complete store: what --fresh builds to put in its place
    STORE.lock        beside the store: held by the run that writes it

Every array has dimension names, so that xarray opens a group: ``open_zarr(STORE, group=..., consolidated=False)``.
``result`` reads a store; ``lifecycle`` makes, checks and completes one; ``integrity`` tells whether it is whole;
``locks`` keeps it to one run; ``checkpoint`` saves the state of a run; the folders ``contents``, ``groups`` and
``rows`` have its parts.
"""

from pipeline.store.attributes import Identity, RefreshDecision, RowSummary, Totals, Widening
from pipeline.store.checkpoint import Checkpoint, load_checkpoint, load_group_checkpoint, save_checkpoint
from pipeline.store.contents.clusters import write_cluster_tree
from pipeline.store.contents.criteria import leading_candidate, row_of, write_criteria
from pipeline.store.contents.models import Sample, StoredModel, write_models, write_sample
from pipeline.store.contents.names import name_component
from pipeline.store.contents.noise import read_noise_box, write_noise_box
from pipeline.store.contents.resamples import write_resamples
from pipeline.store.contents.transforms import write_transform
from pipeline.store.groups.models import FoundGroups
from pipeline.store.groups.result import GroupsResult, GroupView, of_group
from pipeline.store.integrity import DamagedError
from pipeline.store.lifecycle import (
    StoreStatus,
    add_bytes_read,
    complete,
    find_store,
    is_same_job,
    is_store,
    prepare_store,
    remove_empty,
    update_attributes,
)
from pipeline.store.locks import LEASE_SECONDS, is_locked, lock
from pipeline.store.places import place_of
from pipeline.store.replacement import discard_replacement, put_in_place, replacement_of
from pipeline.store.result import Result, open_result, read_candidates
from pipeline.store.rows.grid import GridRows
from pipeline.store.rows.scores import (
    ELSEWHERE,
    ScoreAttributes,
    complete_scores,
    find_unfinished,
    prepare_scores,
    read_scores,
    scores_working_path,
)
from pipeline.store.rows.zarr import RowPlan, RowWriter, ZarrRows, read_summary, rows_folder

__all__ = [
    "ELSEWHERE",
    "LEASE_SECONDS",
    "Checkpoint",
    "DamagedError",
    "FoundGroups",
    "GridRows",
    "GroupView",
    "GroupsResult",
    "Identity",
    "RefreshDecision",
    "Result",
    "RowPlan",
    "RowSummary",
    "RowWriter",
    "Sample",
    "ScoreAttributes",
    "StoreStatus",
    "StoredModel",
    "Totals",
    "Widening",
    "ZarrRows",
    "add_bytes_read",
    "complete",
    "complete_scores",
    "discard_replacement",
    "find_store",
    "find_unfinished",
    "is_locked",
    "is_same_job",
    "is_store",
    "leading_candidate",
    "load_checkpoint",
    "load_group_checkpoint",
    "lock",
    "name_component",
    "of_group",
    "open_result",
    "place_of",
    "prepare_scores",
    "prepare_store",
    "put_in_place",
    "read_candidates",
    "read_noise_box",
    "read_scores",
    "read_summary",
    "remove_empty",
    "replacement_of",
    "row_of",
    "rows_folder",
    "save_checkpoint",
    "scores_working_path",
    "update_attributes",
    "write_cluster_tree",
    "write_criteria",
    "write_models",
    "write_noise_box",
    "write_resamples",
    "write_sample",
    "write_transform",
]
