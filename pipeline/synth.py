"""Synthetic mixtures of any size, written chunk by chunk, with their true parameters in a file beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from pipeline.store.arrays import require_local, writing
from pipeline.store.places.durable import write_file

Array = NDArray[np.float64]

CHUNK_BYTES = 16 << 20
# standard deviation of the means; that of the components is about 1
SPREAD = 4.0


@dataclass(frozen=True, eq=False)
class Truth:
    """Parameters of a mixture with full covariances.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
        Largest first.
    means : ndarray of shape (n_components, n_features)
    covariances : ndarray of shape (n_components, n_features, n_features)
    """

    weights: Array
    means: Array
    covariances: Array


@dataclass(frozen=True)
class Plan:
    """The data to write: ``n_rows`` rows of ``n_features`` columns, ``chunk_rows`` at a time, drawn from ``seed``."""

    n_rows: int
    n_features: int
    n_components: int
    seed: int = 0

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk: 16 MiB of them."""
        return max(1, CHUNK_BYTES // (8 * self.n_features))

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n_rows // self.chunk_rows)


def write_synthetic(out: Path, plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Write a synthetic mixture; the same plan gives the same rows.

    Parameters
    ----------
    out : Path
        Ends in .zarr, .npy or .parquet, and does not exist. It appears when it is complete.
    plan : Plan
    progress : callable
        Called after each chunk with the number of chunks done and the total.

    Returns
    -------
    truth : Path
        A JSON file beside ``out`` with the weights, means and covariances.

    Raises
    ------
    UserError
        If the ending is not known, ``out`` exists or cannot be written, or a number of the plan cannot be used.
    FaultError
        If the disk is full.
    """
    require_local(out, "OUT")
    writer = _check(out, plan)
    truth = draw_truth(plan)
    partial, beside = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}-truth.json")
    with writing(out, key="", resumes=False):
        _remove(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer(partial, plan, _reporting(draw_chunks(truth, plan), plan, progress))
            # before the data appear: they are never without their truth
            text = json.dumps({**vars(plan), **{name: a.tolist() for name, a in vars(truth).items()}})
            write_file(beside, text.encode())
            partial.replace(out)
        finally:
            _remove(partial)
    return beside


def draw_truth(plan: Plan) -> Truth:
    """Draw the parameters of a mixture: clusters of unequal weight, with correlated columns, mostly separated."""
    rng = np.random.default_rng(plan.seed)
    k, d = plan.n_components, plan.n_features
    weights = np.sort(rng.dirichlet(np.full(k, 5.0)))[::-1]
    roots = rng.normal(size=(k, d, d)) / np.sqrt(d)
    covariances = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(d)
    return Truth(weights, rng.normal(scale=SPREAD, size=(k, d)), covariances)


def draw_chunks(truth: Truth, plan: Plan) -> Iterator[Array]:
    """Yield the rows chunk by chunk, (n_rows, n_features), each from a random stream of its own."""
    lowers = np.linalg.cholesky(truth.covariances)
    for number in range(plan.n_chunks):
        n_rows = min(plan.chunk_rows, plan.n_rows - number * plan.chunk_rows)
        stream = np.random.Philox(key=np.array([plan.seed, number], dtype=np.uint64))
        rng = np.random.Generator(stream)
        labels = rng.choice(len(truth.weights), size=n_rows, p=truth.weights)
        rows = rng.standard_normal((n_rows, plan.n_features))
        for k in range(len(truth.weights)):
            chosen = labels == k
            rows[chosen] = rows[chosen] @ lowers[k].T + truth.means[k]
        yield rows


def _reporting(chunks: Iterator[Array], plan: Plan, progress: Callable[[int, int], None]) -> Iterator[Array]:
    for done, chunk in enumerate(chunks, start=1):
        yield chunk
        progress(done, plan.n_chunks)


# -- formats -----------------------------------------------------------------------------------------------------


def _write_zarr(path: Path, plan: Plan, chunks: Iterator[Array]) -> None:
    import zarr

    array: Any = zarr.create_array(
        path,
        shape=(plan.n_rows, plan.n_features),
        chunks=(min(plan.chunk_rows, plan.n_rows), plan.n_features),
        dtype=np.float64,
        dimension_names=("row", "feature"),
        zarr_format=3,
    )
    start = 0
    for chunk in chunks:
        array[start : start + len(chunk)] = chunk
        start += len(chunk)


def _write_npy(path: Path, plan: Plan, chunks: Iterator[Array]) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": (plan.n_rows, plan.n_features)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            chunk.astype("<f8", copy=False).tofile(file)


def _write_parquet(path: Path, plan: Plan, chunks: Iterator[Array]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"x{i}" for i in range(plan.n_features)]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema) as writer:
        for chunk in chunks:
            writer.write_table(pa.table([np.ascontiguousarray(column) for column in chunk.T], schema=schema))


Writer = Callable[[Path, Plan, Iterator[Array]], None]
WRITERS: dict[str, Writer] = {".zarr": _write_zarr, ".npy": _write_npy, ".parquet": _write_parquet}


def _check(out: Path, plan: Plan) -> Writer:
    if out.suffix not in WRITERS:
        raise UserError(f"expected a path that ends in {', '.join(WRITERS)}; got {out}.")
    if out.exists():
        raise UserError(f"{out} exists and is not replaced. Choose another path, or remove it first.")
    for name in ("n_rows", "n_features", "n_components"):
        if getattr(plan, name) < 1:
            raise UserError(f"{name} must be at least 1; got {getattr(plan, name)}.")
    if not 0 <= plan.seed < 2**64:
        raise UserError(f"seed must be a whole number from 0 to 2**64 - 1; got {plan.seed}.")
    return WRITERS[out.suffix]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
