"""Drift: whether new rows differ from those that a model was fitted to, in which components, and by how much.

The share of a component is the share of the rows with its label, as they are stored. The sums of an M-step are means
over the rows, too: of what they add to the mean and the covariance of each component. Each number is compared with the
same mean over rows of the fit. Whatever the parameters are, the difference of two means over n and m rows of one
distribution has the variance v (1/n + 1/m), with v that of one row. Rows with gaps are compared when these are filled
(:mod:`pipeline.score.completion`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from gmm_dask.formatting import listed
from gmm_dask.passes.component_sums import ComponentSums
from gmm_dask.passes.model_batch import origins_of_model
from pipeline.score.reference import OUTLIERS, Reference
from pipeline.store import RowSummary, StoredModel
from pipeline.store.attributes import Attributes
from pipeline.store.contents.models import titled

Array = NDArray[np.float64]

# the probability of a false alarm, whatever the number of tests: half of what is allowed, as the tests of few rows are
# approximate
LEVEL = 0.005
# how heavy the tails of a row's part in a sum are, as the scale of Bernstein's inequality: of shares, which lie between
# 0 and 1; of standardized values and log densities; of their squares
SHARE_TAIL, MEAN_TAIL, SCATTER_TAIL = 1.0 / 3.0, 1.0, 2.0
# columns of a component that a sentence names
MOST_NAMED = 3
SHARE, MEAN, SCATTER = "share", "mean", "scatter"


@dataclass(frozen=True)
class ComponentChange(Attributes):
    """A component among the new rows, and in the fit; in the units of the model's features.

    Attributes
    ----------
    number : int
        As labels hold it.
    share, fit_share : float
        Share of the rows with its label, of those that have one.
    mean, fit_mean, deviation, fit_deviation : tuple of float, or None
        Means and standard deviations of the columns; None without rows.
    moved : tuple of str
        What differs by more than chance explains: its ``share``, its ``mean``, its ``scatter``.
    name : str or None
        Its name, if it has one.
    """

    number: int
    share: float
    fit_share: float
    mean: tuple[float, ...] | None
    fit_mean: tuple[float, ...] | None
    deviation: tuple[float, ...] | None
    fit_deviation: tuple[float, ...] | None
    moved: tuple[str, ...]
    name: str | None = None

    @property
    def title(self) -> str:
        """Number and name, as in :attr:`pipeline.store.StoredModel.titles`."""
        return titled(self.number, self.name)


@dataclass(frozen=True)
class NoiseChange(Attributes):
    """The noise among the new rows, and in the fit.

    Attributes
    ----------
    share, fit_share : float
        Share of the rows of the noise, of those that have a label.
    moved : tuple of str
        ``share`` if they differ by more than chance explains; nothing else can.
    """

    share: float
    fit_share: float
    moved: tuple[str, ...]


@dataclass(frozen=True)
class MissingChange(Attributes):
    """A column of which more or fewer values are missing than in the fit, by more than chance explains.

    Attributes
    ----------
    column : str
    share, fit_share : float
        Share of the usable rows that lack it.
    """

    column: str
    share: float
    fit_share: float


@dataclass(frozen=True, kw_only=True)
class Comparison(Attributes):
    """New rows compared with the reference.

    Attributes
    ----------
    rows : RowSummary
        Of the new rows.
    fit_mean_log_density : float
        Mean log density of the reference.
    fit_sample : int or None
        Rows of the sample that these are of; None if they are of all rows of the fit.
    components : tuple of ComponentChange
    gain : float or None
        By how much one M-step on the new rows raises their mean log density, at least; None if that is not possible.
    chance_gain : float
        What it would be about for rows that have not drifted.
    drift : tuple of str
        A sentence for each difference that chance does not explain.
    noise : NoiseChange or None
        None of a model without noise.
    missing : tuple of MissingChange
        Other gaps than in the fit, which are no drift.
    """

    rows: RowSummary
    fit_mean_log_density: float
    fit_sample: int | None
    components: tuple[ComponentChange, ...]
    gain: float | None
    chance_gain: float
    drift: tuple[str, ...]
    noise: NoiseChange | None = None
    missing: tuple[MissingChange, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as it is stored."""
        fit = {
            "mean_log_density": self.fit_mean_log_density,
            "sampled_rows": self.fit_sample,
        }
        return {
            **self.rows.to_dict(),
            "fit": fit,
            "components": [one.to_dict() for one in self.components],
            "gain": self.gain,
            "chance_gain": self.chance_gain,
            "drift": list(self.drift),
            **({} if self.noise is None else {"noise_change": self.noise.to_dict()}),
            **({"missing_changes": [one.to_dict() for one in self.missing]} if self.missing else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a stored comparison; raises KeyError, TypeError or ValueError if it is none."""
        fit = values["fit"]
        return super().from_dict(
            {
                **{name: values[name] for name in ("components", "gain", "chance_gain", "drift")},
                "rows": values,
                "fit_mean_log_density": fit["mean_log_density"],
                "fit_sample": fit["sampled_rows"],
                "noise": values.get("noise_change"),
                "missing": values.get("missing_changes", ()),
            }
        )

    @property
    def mean_log_density(self) -> float:
        """Mean over the usable rows: minus infinity if the density of one is zero, NaN without any."""
        mean = self.rows.mean_log_density
        if mean is None:
            return -math.inf if self.rows.usable else math.nan
        return mean

    @property
    def missing_lines(self) -> list[str]:
        """Sentences about the columns with other gaps, those that differ most."""
        if not self.missing:
            return []
        largest = sorted(self.missing, key=lambda one: -abs(one.share - one.fit_share))
        named = [
            f"{one.column} in {one.share:.1%} of the rows here and {one.fit_share:.1%} in the fit" for one in largest
        ]
        return [f"other values are missing: {listed(named, MOST_NAMED)}; drift is that of filled rows"]

    @property
    def threshold_of_fit(self) -> bool:
        """Whether the threshold of anomalies is that of the fit, and not a quantile of these rows."""
        return self.rows.anomaly_rank_error is None


def compare(rows: RowSummary, sums: ComponentSums, reference: Reference) -> Comparison:
    """Compare new rows with the reference.

    Parameters
    ----------
    rows : RowSummary
    sums : ComponentSums
        Over them, with their gaps filled.
    reference : Reference
    """
    tests = _Tests.of(sums, reference)
    here = _Groups.of(sums, np.array(rows.label_shares), reference)
    fit = _Groups.of(reference.sums, reference.shares, reference)
    moved = [tests.moved(k) for k in range(reference.model.n_components)]
    noise = _noise_change(rows, tests, reference)
    lines = [*_unlikely_rows(rows, sums, tests, reference), *_moved_together(sums, tests, reference)]
    # a component's share is that of the labels as they are stored; with gaps, what has moved is that of filled rows
    filled = replace(here, shares=_shares(sums)), replace(fit, shares=reference.compared_shares[0])
    lines += [filled[0].describe(k, kinds, filled[1], reference.model) for k, kinds in enumerate(moved) if kinds]
    if noise and noise.moved:
        lines.append(f"noise: its share is {noise.share:.2%} here and {noise.fit_share:.2%} in the fit")
    return Comparison(
        rows=rows,
        fit_mean_log_density=reference.mean,
        fit_sample=reference.n_sampled,
        components=tuple(here.change(k, kinds, fit, reference.model) for k, kinds in enumerate(moved)),
        gain=_gain(sums, reference),
        chance_gain=_chance_gain(sums, reference),
        drift=tuple(lines),
        noise=noise,
        missing=_missing_changes(sums, reference),
    )


def _shares(sums: ComponentSums) -> Array:
    """Return the share of each label."""
    return sums.labels / max(1, sums.n_rows)


# -- the tests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Means:
    """Means over rows that are compared with those of other rows.

    Attributes
    ----------
    outliers : float
        Their share.
    log_density : float
        Of the rows that are none, less the reference's.
    offset : ndarray of shape (n_features,)
        Of rows from the means of their components.
    components : ndarray of shape (n_components, n_numbers)
        As :meth:`gmm_dask.families.Family.standardized` has them, without the responsibilities.
    labels : ndarray of shape (n_densities,)
        Share of each label, that of the noise last.
    """

    outliers: Any
    log_density: Any
    offset: Array
    components: Array
    labels: Array

    @classmethod
    def of(cls, sums: ComponentSums, labels: Array, reference: Reference) -> Self:
        """Take them from sums over some rows."""
        family, parameters = reference.model.model
        n, components = max(1, sums.n_rows), reference.standardized(sums)
        factors = np.linalg.cholesky(family.full_covariances(parameters))
        offset = np.einsum("kij,kj->i", factors, components[:, 1 : parameters.means.shape[1] + 1])
        return cls(sums.n_outliers / n, sums.log_density / n, offset / n, components[:, 1:] / n, labels)

    def flat(self) -> Array:
        """Return all as one array."""
        return np.concatenate([[self.outliers, self.log_density], self.offset, self.components.ravel(), self.labels])

    def like(self, values: Array) -> _Means:
        """Return other values in these places."""
        first, second = 2 + len(self.offset), len(values) - len(self.labels)
        components = values[first:second].reshape(self.components.shape)
        return _Means(values[0], values[1], values[2:first], components, values[second:])


@dataclass(frozen=True, eq=False)
class _Tests:
    """How many standard errors each mean over the new rows is apart from that of the reference.

    Attributes
    ----------
    errors : _Means
    bound : float
        What chance explains.
    """

    errors: _Means
    bound: float

    @classmethod
    def of(cls, sums: ComponentSums, reference: Reference) -> Self:
        """Compare new rows with the reference."""
        n, m = max(1, sums.n_rows), reference.sums.n_rows
        shares, n_labels = reference.compared_shares
        here, fit = _Means.of(sums, _shares(sums), reference), _Means.of(reference.sums, shares, reference)
        # by how the floor is chosen; how many rows of the sample lie under it is no more than chance. Many rows of the
        # noise have one density, the least, under which no row lies
        if not reference.model.candidate.noise:
            fit = replace(fit, outliers=max(OUTLIERS, 1.0 / (m + 1)))
        lost = _lost_by_gaps(sums, reference)
        tails, optimism = _tails_and_optimism(fit, reference, reference.n_fitted / lost)
        off = np.maximum(np.abs(here.flat() - fit.flat()) - optimism, 0.0) * (sums.n_rows > 0)
        variances, sizes = _variances(fit, reference), np.full(off.shape, m / lost)
        # the shares of labels are known of all rows of the fit. These and that of outliers are of rows that are counted
        sizes[-len(fit.labels) :] = n_labels / lost
        counted = [0, *range(len(off) - len(fit.labels), len(off))]
        pooled = (n * here.flat()[counted] + sizes[counted] * fit.flat()[counted]) / (n + sizes[counted])
        variances[counted] = pooled * (1.0 - pooled)
        # Bernstein's inequality: a mean of n rows exceeds x with a probability of about exp(-x^2 / 2 (v/n + c x/n)).
        # Its second term matters where few rows of a component are expected, whose number is far from normal
        squares = variances * (1.0 / n + 1.0 / sizes) + tails * off / np.minimum(n, sizes)
        errors = np.divide(off, np.sqrt(squares), out=np.zeros_like(off), where=squares > 0.0)
        n_tests = max(1, int(np.count_nonzero(variances)))
        bound = float(student.ppf(1.0 - 0.5 * LEVEL / n_tests, max(1, len(reference.groups) - 1)))
        return cls(fit.like(errors), bound)

    def moved(self, k: int) -> tuple[str, ...]:
        """Return what of a component has moved."""
        mean, scatter = np.split(self.errors.components[k], [len(self.errors.offset)])
        largest = {SHARE: self.errors.labels[k], MEAN: mean.max(), SCATTER: scatter.max()}
        return tuple(name for name, error in largest.items() if error > self.bound)


def _variances(means: _Means, reference: Reference) -> Array:
    """Return the variance of one row's part in each mean, from groups of the sample."""
    sizes = np.array([group.n_rows for group in reference.groups])[:, None]
    parts = np.array([_Means.of(group, means.labels, reference).flat() for group in reference.groups])
    squares = sizes * (parts - means.flat()) ** 2
    found: Array = squares.sum(axis=0) / max(1, len(parts) - 1)
    return found


def _lost_by_gaps(sums: ComponentSums, reference: Reference) -> float:
    """Return by what factor the reference has fewer rows than it seems, of a column that new rows have more often.

    Rows are filled by parameters that are known from the share a of values that the fit has: they are off by
    1/(a m), in the variance of a complete row, and the means of new rows, which have the share b, by b^2 of that. To
    these come the draws of the reference, (1 - a)/m. Where both have the same share, that is 1/m in all.
    """
    n, m = max(1, sums.n_rows), reference.sums.n_rows
    a = np.maximum(1.0 - reference.sums.missing / m, 1.0 / m)
    b = 1.0 - sums.missing / n
    return max(1.0, float(np.max(b * b / a + 1.0 - a)))


def _tails_and_optimism(means: _Means, reference: Reference, n_fitted: float) -> tuple[Array, Array]:
    """Return Bernstein's scale of each mean, and how much rows of the fit lie nearer to it than others would.

    Rows of the fit are more likely by it than others, by p/n on average, with p free parameters. Around a mean and a
    covariance of N rows, a new row's squared Mahalanobis distance is larger by D (D + 3) / N than their D.
    """
    family, parameters = reference.model.model
    k, d = parameters.means.shape
    n_numbers = means.components.shape[1] - d
    spread = np.sqrt(np.einsum("kii,k->i", family.full_covariances(parameters), parameters.weights))
    tails = np.tile([*[MEAN_TAIL] * d, *[SCATTER_TAIL] * n_numbers], (k, 1))
    optimism = np.tile([0.0] * d + [(d + 3.0) / n_fitted] * n_numbers, (k, 1))
    gained = family.n_parameters(k, d) / n_fitted
    return (
        _Means(SHARE_TAIL, MEAN_TAIL, MEAN_TAIL * spread, tails, np.full_like(means.labels, SHARE_TAIL)).flat(),
        _Means(0.0, gained, np.zeros(d), optimism, np.zeros_like(means.labels)).flat(),
    )


# -- what is said of them ------------------------------------------------------------------------------------------


def _unlikely_rows(rows: RowSummary, sums: ComponentSums, tests: _Tests, reference: Reference) -> list[str]:
    """Describe drift of the densities."""
    if rows.usable and rows.mean_log_density is None:
        return ["some rows are so far from all components that their density is zero in float64"]
    if max(tests.errors.outliers, tests.errors.log_density) <= tests.bound:
        return []
    assert rows.mean_log_density is not None
    here, fit, of = rows.mean_log_density, reference.mean, ""
    if sums.missing.any() or reference.sums.missing.any():
        here, fit = (
            reference.floor.shift + one.log_density / max(1, one.n_rows - one.n_outliers)
            for one in (sums, reference.sums)
        )
        of = " of rows whose gaps are filled"
    lines = [
        f"the rows are {'less' if here < fit else 'more'} likely than those of the fit: the mean log density{of} is "
        f"{here:.4f} here and {fit:.4f} in the fit"
    ]
    if tests.errors.outliers > tests.bound:
        share = sums.n_outliers / sums.n_rows
        lines.append(
            f"{share:.2%} of the rows are less likely than all but {OUTLIERS:.1%} of the fit's; "
            "means and deviations of components are those of the others"
        )
    return lines


def _missing_changes(sums: ComponentSums, reference: Reference) -> tuple[MissingChange, ...]:
    """Return the columns whose gaps are more or fewer; the bound is that of :class:`_Tests`, over the columns."""
    n, m, columns = sums.n_rows, reference.sums.n_rows, reference.model.columns
    if not n:
        return ()
    here, fit = sums.missing / n, reference.sums.missing / m
    off, pooled = np.abs(here - fit), (sums.missing + reference.sums.missing) / (n + m)
    squares = pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m) + SHARE_TAIL * off / min(n, m)
    moved = np.flatnonzero(off > norm.isf(0.5 * LEVEL / len(columns)) * np.sqrt(squares)).tolist()
    return tuple(MissingChange(columns[i], float(here[i]), float(fit[i])) for i in moved)


def _noise_change(rows: RowSummary, tests: _Tests, reference: Reference) -> NoiseChange | None:
    if not reference.model.candidate.noise:
        return None
    moved = (SHARE,) if tests.errors.labels[-1] > tests.bound else ()
    return NoiseChange(rows.label_shares[-1], float(reference.shares[-1]), moved)


def _moved_together(sums: ComponentSums, tests: _Tests, reference: Reference) -> list[str]:
    """Describe a move of all rows within their components, in the units of the features."""
    moved = np.flatnonzero(tests.errors.offset > tests.bound)
    if not len(moved):
        return []
    here, fit = (_Means.of(one, reference.shares, reference).offset for one in (sums, reference.sums))
    scaling = reference.model.transform.scaling
    scale = np.ones(len(here)) if scaling is None else scaling.scale
    largest = moved[np.argsort(-tests.errors.offset[moved], kind="stable")][:MOST_NAMED]
    named = [f"{reference.model.columns[i]} by {(here - fit)[i] * scale[i]:+.3g}" for i in largest.tolist()]
    return [f"all rows have moved within their components: {', '.join(named)}"]


@dataclass(frozen=True, eq=False)
class _Groups:
    """The components as the rows show them, in the units of the model's features.

    Attributes
    ----------
    shares : ndarray of shape (n_components,)
        Of the labels.
    means : ndarray of shape (n_components, n_features)
        Of the rows that are no outliers; NaN without rows, as the following.
    covariances : ndarray of shape (n_components, n_features, n_features)
    """

    shares: Array
    means: Array
    covariances: Array

    @classmethod
    def of(cls, sums: ComponentSums, labels: Array, reference: Reference) -> Self:
        """Take them from sums over some rows."""
        family, parameters = reference.model.model
        d = parameters.means.shape[1]
        total = reference.standardized(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = total[:, 1 : d + 1] / total[:, :1]
            squares = _scatters(total[:, d + 1 :] / total[:, :1], u)
        # with the Cholesky factor A of the covariance, x = mean + A u
        factors = np.linalg.cholesky(family.full_covariances(parameters))
        means = parameters.means + np.einsum("kij,kj->ki", factors, u)
        covariances = factors @ squares @ np.swapaxes(factors, 1, 2)
        scaling = reference.model.transform.scaling
        if scaling is not None:
            scale = scaling.scale
            means, covariances = means * scale + scaling.center, covariances * np.outer(scale, scale)
        return cls(labels, means, covariances)

    def deviations(self, k: int) -> Array:
        """Return the standard deviations of a component's columns, not quite 0 where all rows are equal."""
        found: Array = np.sqrt(np.maximum(np.diagonal(self.covariances[k]), 1e-300))
        return found

    def change(self, k: int, kinds: tuple[str, ...], fit: _Groups, model: StoredModel) -> ComponentChange:
        """Return a component's numbers beside those of the fit."""
        return ComponentChange(
            number=model.numbers[k],
            share=float(self.shares[k]),
            fit_share=float(fit.shares[k]),
            mean=_numbers(self.means[k]),
            fit_mean=_numbers(fit.means[k]),
            deviation=_numbers(self.deviations(k)),
            fit_deviation=_numbers(fit.deviations(k)),
            moved=kinds,
            name=model.component_names.get(model.numbers[k]),
        )

    def describe(self, k: int, kinds: tuple[str, ...], fit: _Groups, model: StoredModel) -> str:
        """Say what of a component has moved, from where to where."""
        parts, columns = [], model.columns
        if SHARE in kinds:
            parts.append(f"its share is {self.shares[k]:.2%} here and {fit.shares[k]:.2%} in the fit")
        spread = fit.deviations(k)
        if MEAN in kinds:
            off = (self.means[k] - fit.means[k]) / spread
            named = [f"{columns[i]} {fit.means[k, i]:.4g} -> {self.means[k, i]:.4g}" for i in _largest(off)]
            parts.append(
                f"its mean has moved, by up to {np.abs(off).max():.2g} standard deviations ({', '.join(named)})"
            )
        if SCATTER in kinds:
            parts.append(f"its shape has changed ({self._shape(k, fit, columns)})")
        return f"component {model.titles[k]}: {'; '.join(parts)}"

    def _shape(self, k: int, fit: _Groups, columns: tuple[str, ...]) -> str:
        """Say how a component's shape has changed most: by standard deviations, or by a correlation."""
        before, after = fit.deviations(k), self.deviations(k)
        ratios = np.log(np.maximum(after, 1e-300) / before)
        correlations = [one.covariances[k] / np.outer(d, d) for one, d in ((fit, before), (self, after))]
        off = np.abs(np.triu(correlations[1] - correlations[0], k=1))
        if off.size and off.max() > np.abs(ratios).max():
            i, j = np.unravel_index(off.argmax(), off.shape)
            values = " -> ".join(f"{one[i, j]:.2f}" for one in correlations)
            return f"correlation of {columns[i]} and {columns[j]} {values}"
        named = [f"{columns[i]} {before[i]:.4g} -> {after[i]:.4g}" for i in _largest(ratios)]
        return f"standard deviations: {', '.join(named)}"


def _scatters(numbers: Array, u: Array) -> Array:
    """Return covariances (n_components, d, d) of standardized rows about their means u.

    From the numbers on and above the diagonal of the mean of u u^T - I, those on it, or their mean. Of the latter two
    no correlations are known: there are none.
    """
    k, d = u.shape
    if numbers.shape[1] > d:
        a, b = np.triu_indices(d)
        found = np.empty((k, d, d))
        found[:, a, b] = found[:, b, a] = numbers
        return found + np.eye(d) - u[:, :, None] * u[:, None, :]
    squares = u * u if numbers.shape[1] == d else np.mean(u * u, axis=1, keepdims=True)
    return np.broadcast_to(numbers + 1.0 - squares, (k, d))[:, :, None] * np.eye(d)


def _numbers(values: Array) -> tuple[float, ...] | None:
    return tuple(values.tolist()) if np.isfinite(values).all() else None


def _largest(values: Array) -> list[int]:
    order: list[int] = np.argsort(-np.abs(values), kind="stable")[:MOST_NAMED].tolist()
    return order


# -- one M-step ----------------------------------------------------------------------------------------------------


def _gain(sums: ComponentSums, reference: Reference) -> float | None:
    """Return what one M-step gains, in expected log density of rows and components, which the log density exceeds."""
    if reference.has_prior:  # a step without it would gain on the rows of the fit, too
        return None
    family, parameters = reference.model.model
    origins = origins_of_model(reference.batch)
    (after,) = family.maximise_all([family.unpack_centred(sums.sums, origins)], 0.0, [parameters])
    if after is None:
        return None
    with np.errstate(invalid="ignore"):
        gained = family.natural(after, origins) - family.natural(parameters, origins)
        gain = float(np.sum(sums.sums * gained)) / max(1, sums.n_rows)
    return gain if math.isfinite(gain) else None


def _chance_gain(sums: ComponentSums, reference: Reference) -> float:
    """Return p/2 (1/n + 1/m), for p free parameters, the rows and those of the fit."""
    family, parameters = reference.model.model
    return 0.5 * family.n_parameters(*parameters.means.shape) * (1.0 / max(1, sums.n_rows) + 1.0 / reference.n_fitted)
