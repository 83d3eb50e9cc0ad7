"""Two mixtures that were fitted in different units, in the same ones, so that their components can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.families import Parameters, get_family
from gmm_dask.families.noise import family_of
from gmm_dask.passes.model_batch import Model
from pipeline.store.contents.models import StoredModel
from pipeline.transforms import Chain

Array = NDArray[np.float64]

# of a standard deviation: the step of central differences, whose error is of the third order
STEP = 1e-4
# a direction that the map between two units shrinks to a smaller share is lost in it: components that pca keeps have
# standard deviations down to 3e-7 of the largest, and rounding leaves 1e-12 of a direction that is dropped
LEAST_SHARE = 1e-7
# the family that holds any covariances
FULL = "full"


def in_common_units(one: StoredModel, other: Model, transform: Chain, rows: Array) -> tuple[Model, Model, Array]:
    """Return two mixtures and rows in the same units: the user's where both can be told in them, else those of ``one``.

    Parameters
    ----------
    one : StoredModel
    other : (Family, Parameters)
        In the units after ``transform``.
    transform : Chain
        From the same columns as that of ``one``.
    rows : ndarray of shape (n_rows, n_columns)
        In the user's units.

    Raises
    ------
    UserError
        If the covariances of ``other`` are singular in the units of ``one``: these have directions that the others
        drop or clip.
    """
    if one.transform.folds and transform.folds:
        return one.unscaled, _unscaled(other, transform), rows
    return one.model, carried(other, transform, one.transform), one.transform.rows(rows)


def _unscaled(model: Model, transform: Chain) -> Model:
    (family, parameters), scaling = model, transform.scaling
    if scaling is None:
        return model
    kind, parameters = family.unscaled(parameters, scaling.center, scaling.scale)
    return family_of(kind, parameters), parameters


def carried(model: Model, from_units: Chain, to_units: Chain) -> Model:
    """Return a mixture in other units: each component by the linear part, at its mean, of the map between them.

    That is exact where the map is linear, as between two fits of a scaling or of principal components, and close where
    it is nearly so, as between two nights of a transform that follows the data.

    Raises
    ------
    UserError
        If directions are lost between the two.
    """
    if from_units.same_as(to_units):
        return model
    family, parameters = model
    covariances = family.full_covariances(parameters)
    steps = STEP * np.sqrt(np.einsum("kii->ki", covariances))
    means = to_units.rows(from_units.undo(parameters.means))
    derivatives = np.stack(
        [_difference(parameters.means, steps, i, from_units, to_units) for i in range(parameters.means.shape[1])],
        axis=2,
    )
    moved = derivatives @ covariances @ np.swapaxes(derivatives, 1, 2)
    full = get_family(FULL)
    try:
        factors = np.asarray(full.precisions_cholesky(moved), dtype=np.float64)
    except (np.linalg.LinAlgError, ValueError):
        factors = np.full(moved.shape, np.nan)
    is_lost = _ranks(derivatives * steps[:, None, :]) < means.shape[1]
    if is_lost.any() or not (np.isfinite(factors).all() and np.isfinite(means).all()):
        raise UserError("of their transforms (data.transform), one drops, clips or does not take what the other does")
    found = Parameters(parameters.weights, means, moved, factors)
    if (noise := parameters.noise) is not None:
        # the volume grows as around the components, on average
        slopes = 0.5 * np.linalg.slogdet(derivatives @ np.swapaxes(derivatives, 1, 2))[1]
        grown = float(np.average(slopes, weights=parameters.weights))
        found = replace(found, noise=noise._replace(log_volume=noise.log_volume + grown))
    return family_of(FULL, found), found


def _ranks(maps: Array) -> NDArray[np.int64]:
    """Return the ranks of linear maps (n_maps, n_to, n_from), whatever the units of their results."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(maps, axis=2, keepdims=True)
        scaled = np.where(np.isfinite(maps) & (lengths > 0.0), maps / lengths, 0.0)
    return np.asarray(np.linalg.matrix_rank(scaled, rtol=LEAST_SHARE))


def _difference(means: Array, steps: Array, i: int, from_units: Chain, to_units: Chain) -> Array:
    """Return the derivative of the map by feature ``i``, (n_components, n_features of the result)."""
    step = np.zeros_like(means)
    step[:, i] = steps[:, i]
    ends = [to_units.rows(from_units.undo(means + sign * step)) for sign in (1.0, -1.0)]
    found: Array = (ends[0] - ends[1]) / (2.0 * steps[:, i : i + 1])
    return found
