"""The batch: every model that takes its sums from one read of the data.

A batch is built on the driver from the models still running, and travels to the chunks. Models of one part of the
feature map and one precision stand side by side in one matrix of coefficients, whatever their families, so that a block
of rows costs one matrix product a group and direction. A model whose components are too tight for the feature map
(:data:`MAX_KAPPA`) is computed about its own means.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask import kernels
from gmm_dask.errors import UserError
from gmm_dask.families import Family, Parameters, Statistics
from gmm_dask.families.base import edges_of
from gmm_dask.kernels.feature_map import Factors, factors

Array = NDArray[np.float64]
Model = tuple[Family, Parameters]

# The feature map expands (x - mu)' Lambda (x - mu) about the data's centre c, into terms as large in sum as
# kappa = (sum_a |mu_a - c_a| sqrt(Lambda_aa))^2 that cancel for rows near mu: about kappa * 1e-16 is lost of a log
# density, and of the covariances, which the sums over the map give as a difference of second moments. At 1e7 that is
# 1e-9, no longer negligible beside tol = 1e-3 and the tests' comparison with extended precision
# (tests/passes/test_tight_clusters.py)
MAX_KAPPA = 1e7
# single precision is safe while the terms of a log density at its component's own mean stay below this: a log density
# is then off by some 5e-4, and parameters, over which such errors average, by less than 1e-4 (measured)
MAX_SINGLE = 2e4
# well below where squares overflow
LARGEST_SINGLE = 1e30
# what a block takes in memory: half of a core's second-level cache
BLOCK_BYTES = 1 << 19
# mixtures stand side by side up to so many components: with more, a block would have too few rows to add up at once
MOST_COMPONENTS = 96
# a line of a block takes at least so many bytes if a mixture has more components than that: for D = 128, K = 1024 a
# block of BLOCK_BYTES has 48 rows, and the sums go to memory and back after so few. With full covariances in float32, a
# core reaches 86, 93 and 91 Gflop/s with lines of 1056, 2112 and 4224 bytes
LEAST_LINE_BYTES = 2112
# tiles of the kernels have so many components, or half as many
TILE = 8
# blocks are filled up to a multiple of so many rows, which every kernel's vectors divide
ROW_MULTIPLE = 48
CACHE_LINE = 64
DOUBLE = np.dtype(np.float64)
# tell a kernel that rows have no weights, and that no statistics are taken
NO_WEIGHTS, NO_SUMS = np.zeros(0), np.zeros((0, 3))
# monomials that fill up a group to a multiple of 3: the constant, whose sums nobody reads
FILL = np.zeros(2, dtype=np.int64)


class Totals(NamedTuple):
    """The totals of one model over all rows.

    Attributes
    ----------
    log_likelihood, log_top : float
        Log-likelihood, and ``sum w log max_k r_k`` for ICL.
    held_out : float
        Log-likelihood over the rows that are held out.
    held_out_errors : tuple of float
        Standard error of its difference to that of each model of the same pass; empty without such rows.
    log_evidence : float
        The bound on the logarithm of the evidence of a variational mixture; NaN of parameters.
    """

    log_likelihood: float
    log_top: float
    held_out: float = math.nan
    held_out_errors: tuple[float, ...] = ()
    log_evidence: float = math.nan


@dataclass(frozen=True, eq=False)
class Group:
    """Models of one part of the feature map and one precision, side by side; those of one family stand together.

    Attributes
    ----------
    eta : ndarray of shape (n_parts, n_columns, part_size)
        Coefficients of the log densities of all members' components, float64 or float32, in parts (:func:`in_parts`).
    factors : tuple of ndarray, each of shape (n_columns, filled up to a multiple of 3)
        The lines of a block whose product is each monomial.
    members : tuple of int
        Positions in the batch.
    edges : ndarray of shape (n_members + 1,)
        Where each member's columns of ``eta`` begin, and where the last one's end.
    """

    eta: NDArray[Any]
    factors: Factors
    members: tuple[int, ...]
    edges: NDArray[np.int64]

    @property
    def n_components(self) -> int:
        """Components of all members."""
        return int(self.edges[-1])

    @property
    def n_lines(self) -> int:
        """Lines of a block: ones, the features and, where it is needed, their squared norm."""
        return 1 + int(self.factors[1].max())

    def workspace(self, n_rows: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Memory for the lines, log densities and shares of a block, of a chunk with so many rows."""
        return block_memory(self.n_lines, self.n_components, len(self.members), n_rows, self.eta.dtype)

    def inputs(self, center: Array, n_rows: int) -> dict[str, Any]:
        """What the kernels take of the models, about the centre, for a chunk of so many rows."""
        return _inputs(center[None], self.eta, self.factors, self.workspace(n_rows))


@dataclass(frozen=True, eq=False)
class ModelBatch:
    """The models of one pass, ready to be evaluated on chunks of rows.

    ``center`` (n_features,) is the feature map's origin; ``scatter`` (n_features, n_features) is the data's about it,
    of complete rows alone where ``gaps`` says that rows may have missing values.
    """

    models: tuple[Model, ...]
    center: Array
    scatter: Array
    groups: tuple[Group, ...]
    centred: tuple[int, ...]
    gaps: bool = False


def block_bytes(n_lines: int, n_components: int) -> int:
    """What a block of one mixture takes at most: its lines, log densities and shares."""
    return max(BLOCK_BYTES, (n_lines + n_components + 3) * max(8 * ROW_MULTIPLE, _least_line_bytes(n_components)))


def _least_line_bytes(n_components: int) -> int:
    return LEAST_LINE_BYTES if n_components > MOST_COMPONENTS else 0


def block_memory(
    n_lines: int, n_components: int, n_mixtures: int, n_rows: int, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Memory for the lines, log densities and shares of a block, of a chunk with so many rows."""
    counts = (n_lines, n_components, 2 * n_mixtures + 1)
    most_rows = max(BLOCK_BYTES // (8 * sum(counts)), _least_line_bytes(n_components) // dtype.itemsize)
    n_block_rows = min(max(1, most_rows // ROW_MULTIPLE) * ROW_MULTIPLE, _filled(max(1, n_rows)))
    memory = _aligned(sum(counts), n_block_rows, dtype)
    return memory[:n_lines], memory[n_lines : n_lines + n_components], memory[n_lines + n_components :]


def filled_factors(n_features: int, columns: slice) -> Factors:
    """The factors of some columns of the feature map, filled up to a multiple of 3.

    The sums' tiles take three monomials at a time.
    """
    first, second = (part[columns] for part in factors(n_features))
    n_more = -len(first) % 3
    return np.append(first, FILL[:n_more]), np.append(second, FILL[:n_more])


def build_batch(
    models: Sequence[Model],
    center: Array,
    scatter: Array,
    *,
    densities: bool = False,
    dtype: np.dtype[Any] = DOUBLE,
    gaps: bool = False,
) -> ModelBatch:
    """Batch models over the data's centre and scatter.

    ``densities`` takes the columns that each density needs. ``dtype`` is that of the rows: what is stored in single
    precision is computed in it, by the models that it is good enough for. ``gaps`` tells whether rows may have missing
    values; models with noise do not know such rows, and raise :class:`UserError`.
    """
    if gaps and any(parameters.noise is not None for _, parameters in models):
        raise UserError("A mixture with noise takes no rows with missing values: fit without noise, or fill them.")
    parts: dict[tuple[int, int], list[int]] = {}
    centred: list[int] = []
    for family in dict.fromkeys(family for family, _ in models):
        mine = [i for i, (other, _) in enumerate(models) if other is family]
        kappas = family.kappas([models[i][1] for i in mine], center)
        # NaN is never <= MAX_KAPPA: a kappa that overflowed counts as too large
        mapped = [i for i, kappa in zip(mine, kappas, strict=True) if kappa <= MAX_KAPPA]
        centred += [i for i in mine if i not in mapped]
        columns = family.density_columns(len(center)) if densities else family.fit_columns(len(center))
        if mapped:
            parts.setdefault((columns.start, columns.stop), []).extend(mapped)
    groups: list[Group] = []
    for (start, stop), members in parts.items():
        groups += _build_groups(slice(start, stop), members, models, center, scatter, densities, dtype)
    return ModelBatch(tuple(models), center, scatter, tuple(groups), tuple(sorted(centred)), gaps)


def _are_safe_in_single(
    eta: Array, means: Array, edges: NDArray[np.int64], center: Array, scatter: Array, of_lines: Factors
) -> NDArray[np.bool_]:
    """Whether the terms of each mixture's log densities at its components' means stay below :data:`MAX_SINGLE`.

    Where the data reach, which their scatter bounds, squares must not overflow either.
    """
    # at its own mean a component's log density is a sum of terms eta_p phi_p(mu) that nearly cancel; single precision
    # keeps 6e-8 of the largest, so that the sum of their sizes bounds the error
    m = (means - center).T
    lines = np.vstack([np.ones(m.shape[1]), m, np.sum(m * m, axis=0)])
    first, second = of_lines
    sizes = np.abs(np.where(np.isfinite(eta), eta, 0.0))
    terms = np.einsum("kp,pk->k", sizes, np.abs(lines[first] * lines[second]))
    # every row lies within sqrt(tr(scatter)) of the centre, so that no monomial of it is larger than that squared
    reach = sizes.max(axis=1) * max(1.0, float(np.trace(scatter)))
    unsafe = (terms > MAX_SINGLE) | (reach >= LARGEST_SINGLE)
    safe: NDArray[np.bool_] = ~np.logical_or.reduceat(unsafe, edges[:-1])
    return safe


def _build_groups(
    columns: slice,
    members: Sequence[int],
    models: Sequence[Model],
    center: Array,
    scatter: Array,
    densities: bool,
    dtype: np.dtype[Any],
) -> Iterator[Group]:
    """The groups of the models of some columns of the feature map: one of each precision."""
    parameters = [models[i][1] for i in members]
    by_family = [(models[mine[0]][0], mine) for mine in _same_family(members, models)]
    eta = np.concatenate(
        [family.naturals([models[i][1] for i in mine], center, densities) for family, mine in by_family]
    )
    edges = edges_of([p.n_densities for p in parameters])
    filled = filled_factors(len(center), columns)
    first, second = (part[: eta.shape[1]] for part in filled)
    singles = np.zeros(len(members), dtype=bool)
    if dtype == np.float32:
        means = np.concatenate([models[i][0].own_origins(models[i][1]) for i in members])
        singles = _are_safe_in_single(eta, means, edges, center, scatter, (first, second))
    for single in dict.fromkeys(singles.tolist()):
        of_precision = [j for j, other in enumerate(singles) if other == single]
        for chosen in _side_by_side(of_precision, np.diff(edges)):
            part = np.concatenate([eta[edges[j] : edges[j + 1]] for j in chosen])
            parts = in_parts(part, np.dtype(np.float32 if single else np.float64))
            sizes = [parameters[j].n_densities for j in chosen]
            yield Group(parts, filled, tuple(members[j] for j in chosen), edges_of(sizes))


def _same_family(members: Sequence[int], models: Sequence[Model]) -> list[list[int]]:
    """The members of each family, of which those of one stand together."""
    return [list(mine) for _, mine in itertools.groupby(members, lambda i: models[i][0])]


def in_parts(eta: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Coefficients (n_components, n_columns) as the kernels take them, (n_parts, n_columns, part_size).

    More than :data:`MOST_COMPONENTS` are cut into parts, whose coefficients stay in the second-level cache while the
    rows of a block pass, and so do their sums; the last part is filled up with zeros.
    """
    n_components, n_columns = eta.shape
    size = n_components
    if n_components > MOST_COMPONENTS:
        size = min(size, max(1, BLOCK_BYTES // (8 * n_columns * TILE)) * TILE)
    parts = np.zeros((-(-n_components // size), n_columns, size), dtype=dtype)
    for start, part in zip(range(0, n_components, size), parts, strict=True):
        mine = eta[start : start + size]
        part[:, : len(mine)] = mine.T
    return parts


def _side_by_side(members: Sequence[int], sizes: NDArray[np.int64]) -> Iterator[list[int]]:
    """As many members at a time as leave a block its rows, given all members' numbers of components."""
    chosen: list[int] = []
    n_components = 0
    for j in members:
        if chosen and n_components + sizes[j] > MOST_COMPONENTS:
            yield chosen
            chosen, n_components = [], 0
        chosen.append(j)
        n_components += sizes[j]
    yield chosen


def _filled(n_rows: int) -> int:
    return -(-n_rows // ROW_MULTIPLE) * ROW_MULTIPLE


def _aligned(n_lines: int, n_rows: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory that begins with a cache line: a vector that lies across two costs twice."""
    n_bytes = n_lines * n_rows * dtype.itemsize
    memory = np.empty(n_bytes + CACHE_LINE, dtype=np.uint8)
    start = -memory.__array_interface__["data"][0] % CACHE_LINE  # five times as quick as memory.ctypes.data
    return memory[start : start + n_bytes].view(dtype).reshape(n_lines, n_rows)


@dataclass(frozen=True, eq=False)
class BatchSums:
    """What a batch adds up over some rows; the sum of two is that of all their rows.

    Attributes
    ----------
    log_likelihood : ndarray of shape (n_models,)
        ``sum w log p(x)`` of each model, without what the fit's columns leave out.
    log_top : ndarray of shape (n_models,)
        ``sum w log max_k r_k`` of each model, for ICL.
    groups : tuple of ndarray of shape (n_components of the group, n_monomials)
        Sums over the feature map of each group of the batch; none where no statistics are taken.
    centred : tuple of ndarray of shape (n_components, n_monomials)
        Sums of each model that is computed about its own means, over the feature map about each of them.
    incomplete : tuple of ndarray of shape (n_components, n_density_columns)
        Expected sums of each model over rows with missing values, about the origins of its other sums; none where
        there are no such rows.
    """

    log_likelihood: Array
    log_top: Array
    groups: tuple[Array, ...]
    centred: tuple[Array, ...]
    incomplete: tuple[Array, ...] = ()

    @classmethod
    def zeros(cls, batch: ModelBatch, statistics: bool) -> BatchSums:
        """Sums over no rows, with or without those that the M-step needs."""
        n_models = len(batch.models)
        groups = (np.zeros((group.n_components, len(group.factors[0]))) for group in batch.groups)
        centred = (_zero_centred(*batch.models[i]) for i in batch.centred)
        return cls(
            log_likelihood=np.zeros(n_models),
            log_top=np.zeros(n_models),
            groups=tuple(groups) if statistics else (),
            centred=tuple(centred) if statistics else (),
            incomplete=tuple(_zero_incomplete(*model) for model in batch.models) if statistics and batch.gaps else (),
        )

    def __add__(self, other: BatchSums) -> BatchSums:
        return BatchSums(
            log_likelihood=self.log_likelihood + other.log_likelihood,
            log_top=self.log_top + other.log_top,
            groups=tuple(map(operator.add, self.groups, other.groups)),
            centred=tuple(map(operator.add, self.centred, other.centred)),
            incomplete=tuple(map(operator.add, self.incomplete, other.incomplete)),
        )


def chunk_sums(
    rows: NDArray[np.floating], weights: Array | None, batch: ModelBatch, statistics: bool = True
) -> BatchSums:
    """Sums of every model of a batch over one chunk of rows (n_rows, n_features) with weights (n_rows,).

    ``statistics`` takes those that the M-step needs, beside the log-likelihoods.
    """
    sums, given = BatchSums.zeros(batch, statistics), NO_WEIGHTS if weights is None else weights
    for g, group in enumerate(batch.groups):
        totals = np.zeros((2, len(group.members)))
        kernels.add_chunk(
            rows=rows,
            row_weights=given,
            **group.inputs(batch.center, len(rows)),
            edges=group.edges,
            totals=totals,
            sums=sums.groups[g] if statistics else NO_SUMS,
        )
        members = list(group.members)
        sums.log_likelihood[members], sums.log_top[members] = totals
    for c, member in enumerate(batch.centred):
        (family, parameters), totals = batch.models[member], np.zeros((2, 1))
        kernels.add_chunk(
            rows=rows,
            row_weights=given,
            **centred_inputs(rows, family, parameters),
            edges=np.array([0, parameters.n_densities]),
            totals=totals,
            sums=sums.centred[c] if statistics else NO_SUMS,
        )
        sums.log_likelihood[member], sums.log_top[member] = totals[:, 0]
    return sums


def centred_inputs(rows: NDArray[np.floating], family: Family, parameters: Parameters) -> dict[str, Any]:
    """What the kernels take of a model that is computed about its own means: coefficients, monomials and memory."""
    lines = filled_factors(rows.shape[1], family.density_columns(rows.shape[1]))
    # about a component's own mean the linear coefficients are zero
    origins = np.ascontiguousarray(family.own_origins(parameters))
    eta = np.ascontiguousarray(family.natural(parameters, origins)[:, :, None])
    return _inputs(origins, eta, lines, block_memory(1 + int(lines[1].max()), len(eta), 1, len(rows), DOUBLE))


def _inputs(origins: Array, eta: NDArray[Any], lines: Factors, memory: Sequence[NDArray[Any]]) -> dict[str, Any]:
    return {
        **dict(zip(("first", "second"), lines, strict=True)),
        **dict(zip(("z", "logits", "shares"), memory, strict=True)),
        "origins": origins,
        "eta": eta,
        "row_multiple": ROW_MULTIPLE,
    }


def _zero_centred(family: Family, parameters: Parameters) -> Array:
    """Sums over no rows of a model that is computed about its own means."""
    n_features = parameters.means.shape[1]
    return np.zeros((parameters.n_densities, len(filled_factors(n_features, family.density_columns(n_features))[0])))


def _zero_incomplete(family: Family, parameters: Parameters) -> Array:
    """Expected sums over no rows."""
    columns = family.density_columns(parameters.means.shape[1])
    return np.zeros((parameters.n_densities, columns.stop - columns.start))


def unpack_totals(batch: ModelBatch, sums: BatchSums) -> list[Totals]:
    """Log-likelihood of each model of the batch over all rows, and its ICL term."""
    totals = []
    for i, (family, parameters) in enumerate(batch.models):
        correction = 0.0
        if i not in batch.centred:
            correction = family.log_likelihood_correction(parameters, batch.scatter)
        totals.append(Totals(float(sums.log_likelihood[i]) + correction, float(sums.log_top[i])))
    return totals


def sums_of_model(batch: ModelBatch, sums: BatchSums) -> Array:
    """Sums (n_densities, n_density_columns) of the only model of a batch for densities, about its :func:`origins`."""
    (array,) = (*sums.groups, *sums.centred)
    family, parameters = batch.models[0]
    columns = family.density_columns(parameters.means.shape[1])
    found: Array = array[:, : columns.stop - columns.start]
    return found + sums.incomplete[0] if sums.incomplete else found


def origins_of_model(batch: ModelBatch) -> Array:
    """Where the sums of the only model of a batch are taken about, (n_densities, n_features)."""
    family, parameters = batch.models[0]
    own = family.own_origins(parameters)
    return own if batch.centred else np.broadcast_to(batch.center, own.shape)


def unpack_sums(batch: ModelBatch, sums: BatchSums) -> list[Statistics]:
    """Statistics of each model of the batch, from the sums over all rows."""
    found = {}
    for member, array in zip(batch.centred, sums.centred, strict=True):
        family, parameters = batch.models[member]
        columns = family.density_columns(len(batch.center))
        found[member] = family.unpack_centred(array[:, : columns.stop - columns.start], parameters.means)
    for group, array in zip(batch.groups, sums.groups, strict=True):
        first = 0
        for mine in _same_family(group.members, batch.models):
            edges = group.edges[first : first + len(mine) + 1]
            first += len(mine)
            part = array[edges[0] : edges[-1], : group.eta.shape[1]]
            family = batch.models[mine[0]][0]
            parts = family.unpack_all(part, edges - edges[0], batch.center, batch.scatter)
            found.update(zip(mine, parts, strict=True))
    for i, array in enumerate(sums.incomplete):
        family, parameters = batch.models[i]
        own = parameters.means if i in batch.centred else np.broadcast_to(batch.center, parameters.means.shape)
        found[i] += family.unpack_centred(array, own)
    totals = unpack_totals(batch, sums)
    return [replace(found[i], log_likelihood=of_model.log_likelihood) for i, of_model in enumerate(totals)]
