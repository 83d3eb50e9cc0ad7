"""The stack: every model that takes its sums from one read of the data.

A stack is built on the driver from the models still running, and travels to the chunks. Models of one family stand
side by side in one matrix of coefficients, so that a block of rows costs one matrix product a family and direction.
A model whose components are too tight for the feature map (:data:`MAX_KAPPA`) is computed about its own means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Family, Parameters, Statistics
from gmm_dask.kernels.estep import responsibilities
from gmm_dask.kernels.features import fill_features

Array = NDArray[np.float64]
Model = tuple[Family, Parameters]
Sums = list[Array]

# past this the feature map's rounding error, about kappa * 1e-16, is no longer negligible beside tol
MAX_KAPPA = 1e7
# a block's working set; a core's second-level cache holds it with room to spare
BLOCK_BYTES = 1 << 20
MIN_BLOCK_ROWS = 64


class Totals(NamedTuple):
    """Log-likelihood over all rows, and ``sum w log max_k r_k`` for ICL."""

    log_likelihood: float
    log_top: float


@dataclass(frozen=True, eq=False)
class Group:
    """Models of one family, side by side.

    ``members`` are positions in the stack; ``edges`` bound each member's rows of ``eta``, which has shape
    (n_components of all members, n_columns).
    """

    family: Family
    columns: slice
    eta: Array
    members: tuple[int, ...]
    edges: NDArray[np.int64]

    def slices(self) -> Iterator[tuple[int, slice]]:
        """Each member's position in the stack, with its rows in this group."""
        for member, start, stop in zip(self.members, self.edges, self.edges[1:], strict=False):
            yield member, slice(start, stop)


@dataclass(frozen=True, eq=False)
class Stack:
    """The models of one pass, ready to be evaluated on chunks of rows.

    ``center`` (n_features,) is the feature map's origin; ``scatter`` (n_features, n_features) is the data's about it.
    """

    models: tuple[Model, ...]
    center: Array
    scatter: Array
    groups: tuple[Group, ...]
    centred: tuple[int, ...]

    @property
    def n_columns(self) -> int:
        """Rows of the feature map up to the last that a group needs."""
        stops: list[int] = [group.columns.stop for group in self.groups]
        return max([len(self.center) + 2, *stops])

    @property
    def widest(self) -> int:
        """Components that are computed together: those of the largest group."""
        return max([0] + [len(group.eta) for group in self.groups])

    @property
    def block_rows(self) -> int:
        """Rows of a block, so that features and responsibilities stay in the cache."""
        most = max(self.widest, *(len(parameters.weights) for _, parameters in self.models))
        rows = BLOCK_BYTES // (8 * (2 * len(self.center) + self.n_columns + 2 * most))
        return max(MIN_BLOCK_ROWS, rows // 8 * 8)


def build_stack(models: Sequence[Model], center: Array, scatter: Array, *, answers: bool = False) -> Stack:
    """Stack models over the data's centre and scatter; ``answers`` takes the columns that each row's density needs."""
    centred = tuple(i for i, (family, p) in enumerate(models) if not family.kappa(p, center) <= MAX_KAPPA)
    families = list(dict.fromkeys(family for i, (family, _) in enumerate(models) if i not in centred))
    groups = tuple(_build_group(models, family, centred, center, answers) for family in families)
    return Stack(tuple(models), center, scatter, groups, centred)


def _build_group(
    models: Sequence[Model], family: Family, centred: tuple[int, ...], center: Array, answers: bool
) -> Group:
    members = tuple(i for i, (other, _) in enumerate(models) if other is family and i not in centred)
    columns = family.answer_columns(len(center)) if answers else family.fit_columns(len(center))
    etas = [family.natural(models[i][1], center)[:, : columns.stop - columns.start] for i in members]
    edges = np.cumsum([0] + [len(eta) for eta in etas])
    return Group(family, columns, np.concatenate(etas), members, edges)


class Blocks:
    """The blocks of a chunk, with the memory that they share.

    Parameters
    ----------
    stack : Stack
    rows : ndarray of shape (n_rows, n_features)
    """

    def __init__(self, stack: Stack, rows: NDArray[np.floating]) -> None:
        self._stack = stack
        self._rows = rows
        block_rows = min(stack.block_rows, len(rows))
        self._phi = np.empty(stack.n_columns * block_rows)
        self._logits = np.empty(stack.widest * block_rows)

    def __iter__(self) -> Iterator[tuple[slice, Array]]:
        """Each block's place in the chunk, and its rows (n_features, n_rows)."""
        for start in range(0, len(self._rows), self._stack.block_rows):
            block = slice(start, min(start + self._stack.block_rows, len(self._rows)))
            yield block, np.array(self._rows[block].T, dtype=np.float64, order="C")

    def logits(self, x: Array) -> Iterator[tuple[Group, Array, Array]]:
        """For each group, the features (n_columns, n_rows) and logits (n_components, n_rows) of a block ``x``.

        The memory of both is used again by the next group.
        """
        if not self._stack.groups:
            return
        phi = _shaped(self._phi, self._stack.n_columns, x.shape[1])
        squared_norm = any(group.columns.start == 0 for group in self._stack.groups)
        fill_features(x - self._stack.center[:, None], phi, squared_norm)
        for group in self._stack.groups:
            logits = _shaped(self._logits, len(group.eta), x.shape[1])
            yield group, phi[group.columns], np.matmul(group.eta, phi[group.columns], out=logits)


def _shaped(memory: Array, n_lines: int, n_rows: int) -> Array:
    return memory[: n_lines * n_rows].reshape(n_lines, n_rows)


def chunk_sums(rows: NDArray[np.floating], weights: Array | None, stack: Stack, statistics: bool = True) -> Sums:
    """Sums of every model over one chunk; adding the sums of two chunks merges them.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,), or None
    stack : Stack
    statistics : bool
        Whether the M-step's sums are wanted beside the log-likelihoods.

    Returns
    -------
    sums : list of ndarray
        Log-likelihoods (n_models,), logarithms of the largest responsibilities (n_models,), then an array a group
        and three a centred model, in the stack's order.
    """
    sums = _zero_sums(stack, statistics)
    blocks = Blocks(stack, rows)
    ones = np.ones(stack.block_rows)
    for block, x in blocks:
        block_weights = ones[: x.shape[1]] if weights is None else weights[block]
        _add_block(blocks, x, block_weights, stack, sums, statistics)
    return sums


def add_sums(parts: Sequence[Sums]) -> Sums:
    """Merge sums, in the order given."""
    total = [array.copy() for array in parts[0]]
    for part in parts[1:]:
        for target, array in zip(total, part, strict=True):
            target += array
    return total


def _zero_sums(stack: Stack, statistics: bool) -> Sums:
    sums = [np.zeros(len(stack.models)), np.zeros(len(stack.models))]
    if statistics:
        sums += [np.zeros_like(group.eta) for group in stack.groups]
        for i in stack.centred:
            family, parameters = stack.models[i]
            k, d = parameters.means.shape
            sums += [np.zeros(k), np.zeros((k, d)), family.zero_s2(k, d)]
    return sums


def _add_block(blocks: Blocks, x: Array, weights: Array, stack: Stack, sums: Sums, statistics: bool) -> None:
    for g, (group, phi, resp) in enumerate(blocks.logits(x)):
        _normalise(resp, group.edges, weights, sums, list(group.members))
        if statistics:
            sums[2 + g] += resp @ phi.T
    for c, member in enumerate(stack.centred):
        family, parameters = stack.models[member]
        resp = family.centred_logits(x, parameters)
        _normalise(resp, np.array([0, len(resp)]), weights, sums, [member])
        if statistics:
            add_centred(family, x, resp, parameters.means, _centred_arrays(stack, sums, c))


def _normalise(resp: Array, edges: NDArray[np.int64], weights: Array, sums: Sums, members: list[int]) -> None:
    """Logits of some members to weighted responsibilities, in place; their log-likelihoods go to the sums."""
    log_density, log_top = responsibilities(resp, edges, weights)
    sums[0][members] += log_density @ weights
    sums[1][members] += log_top @ weights


def add_centred(family: Family, x: Array, resp: Array, origins: Array, sums: Sums) -> None:
    """Add a block's statistics about per-component origins to ``sums``, the arrays s0, s1 and s2.

    ``x`` has shape (n_features, n_rows), ``resp`` (n_components, n_rows), ``origins`` (n_components, n_features).
    """
    s0, s1, s2 = sums
    s0 += resp.sum(axis=1)
    for k, origin in enumerate(origins):
        y = x - origin[:, None]
        s1[k] += y @ resp[k]
        family.add_s2(s2, k, y, resp[k])


def unpack_totals(stack: Stack, sums: Sums) -> list[Totals]:
    """Log-likelihood of each model of the stack over all rows, and its ICL term."""
    totals = []
    for i, (family, parameters) in enumerate(stack.models):
        correction = 0.0
        if i not in stack.centred:
            correction = family.log_likelihood_correction(parameters, stack.scatter)
        totals.append(Totals(float(sums[0][i]) + correction, float(sums[1][i])))
    return totals


def unpack_sums(stack: Stack, sums: Sums) -> list[Statistics]:
    """Statistics of each model of the stack, from the sums over all rows."""
    found: dict[int, Statistics] = {}
    for group, array in zip(stack.groups, sums[2:], strict=False):
        for member, part in group.slices():
            found[member] = group.family.unpack(array[part], stack.center, stack.scatter)
    for c, member in enumerate(stack.centred):
        s0, s1, s2 = _centred_arrays(stack, sums, c)
        found[member] = Statistics(s0, s1, s2, stack.models[member][1].means)
    totals = unpack_totals(stack, sums)
    return [replace(found[i], log_likelihood=totals[i].log_likelihood) for i in range(len(totals))]


def _centred_arrays(stack: Stack, sums: Sums, c: int) -> Sums:
    first = 2 + len(stack.groups) + 3 * c
    return sums[first : first + 3]
