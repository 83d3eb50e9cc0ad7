"""Anderson acceleration of a compiled fit: the last mixtures and their images under EM, and where they lead.

:mod:`gmm_dask.em.acceleration` explains it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.arguments import FitSettings, Model
from gmm_dask.kernels.cholesky import factorise
from gmm_dask.kernels.compilation.jit import compiled_part, inlined_part
from gmm_dask.kernels.constants import TRIES, UNCONSTRAINED, UNSOUND
from gmm_dask.kernels.m_step import constrained, fill_factors

Array = NDArray[np.float64]


class Mixture(NamedTuple):
    """A mixture as one vector (:mod:`gmm_dask.kernels.m_step`), and the factors of its precisions."""

    vector: Array
    factors: Array


class History(NamedTuple):
    """The last mixtures and their images (n_most, n_values), in the units of the extrapolation."""

    points: Array
    images: Array


@compiled_part
def empty_mixture(n_values: int, n_factors: int) -> Mixture:
    """Memory of a mixture."""
    return Mixture(np.empty(n_values), np.empty(n_factors))


@compiled_part
def copy(given: Mixture, to: Mixture) -> None:
    """Copy a mixture with its factors."""
    for i in range(len(given.vector)):
        to.vector[i] = given.vector[i]
    for i in range(len(given.factors)):
        to.factors[i] = given.factors[i]


@compiled_part
def remember(now: Mixture, image: Mixture, settings: FitSettings, history: History, n_remembered: int) -> int:
    """Add a point and its image to the last ones, or begin anew; returns how many are remembered."""
    points, images, origin, unit = history.points, history.images, settings.origin, settings.unit
    n_values, step, last = len(now.vector), 0.0, 0.0
    for i in range(n_values):
        moved = (image.vector[i] - now.vector[i]) / unit[i]
        step += moved * moved
    if n_remembered:
        for i in range(n_values):
            moved = images[n_remembered - 1, i] - points[n_remembered - 1, i]
            last += moved * moved
    # restart: where steps become longer, as when EM leaves a plateau, the linear model of the past does not hold
    if not (n_remembered and step <= last):
        n_remembered = 0
    if n_remembered == len(points):
        n_remembered -= 1
        for j in range(n_remembered):
            for i in range(n_values):
                points[j, i] = points[j + 1, i]
                images[j, i] = images[j + 1, i]
    for i in range(n_values):
        points[n_remembered, i] = (now.vector[i] - origin[i]) / unit[i]
        images[n_remembered, i] = (image.vector[i] - origin[i]) / unit[i]
    return n_remembered + 1


@compiled_part
def extrapolate(
    model: Model, history: History, n_remembered: int, settings: FitSettings, plain: Mixture, found: Mixture
) -> bool:
    """Fill the Anderson extrapolation of the last passes and its factors; whether it is a mixture.

    ``plain`` is the plain step that it replaces.
    """
    n, n_values = n_remembered - 1, history.points.shape[1]
    move = np.zeros(n_values)
    if not _fill_move(history.points, history.images, n, settings.regularization, move):
        return False
    # a step out of the parameter space is damped, towards the plain step
    damping = 1.0
    for _ in range(TRIES):
        for i in range(n_values):
            found.vector[i] = (history.images[n, i] + damping * move[i]) * settings.unit[i] + settings.origin[i]
        damping *= 0.25
        if _is_mixture(model, found.vector) and _fill_sound_factors(model, plain, found):
            return True
    return False


@inlined_part
def _fill_move(points: Array, images: Array, n: int, regularization: float, move: Array) -> bool:
    """Add to ``move`` the way from the last image to the extrapolated point; whether it is determined.

    With n differences dF of the residuals and dG of the images, ``gamma = argmin |f - gamma dF|^2``, and the point is
    ``g - gamma dG``.
    """
    n_values, products, gamma, trace = len(move), np.zeros(n * n), np.zeros(n), 0.0
    for j in range(n):
        for k in range(j, n):
            for i in range(n_values):
                one = images[j + 1, i] - points[j + 1, i] - images[j, i] + points[j, i]
                other = images[k + 1, i] - points[k + 1, i] - images[k, i] + points[k, i]
                products[j * n + k] += one * other
            products[k * n + j] = products[j * n + k]
        trace += products[j * n + j]
        for i in range(n_values):
            one = images[j + 1, i] - points[j + 1, i] - images[j, i] + points[j, i]
            gamma[j] += one * (images[n, i] - points[n, i])
    for j in range(n):
        products[j * n + j] += regularization * trace
    if not factorise(products, n):  # the last steps are equal
        return False
    for j in range(n):  # R' R gamma = dF f
        for k in range(j):
            gamma[j] -= products[k * n + j] * gamma[k]
        gamma[j] /= products[j * n + j]
    for j in range(n - 1, -1, -1):
        for k in range(j + 1, n):
            gamma[j] -= products[j * n + k] * gamma[k]
        gamma[j] /= products[j * n + j]
        for i in range(n_values):
            move[i] -= gamma[j] * (images[j + 1, i] - images[j, i])
    return True


@compiled_part
def _is_mixture(model: Model, vector: Array) -> bool:
    """Whether all numbers are finite and all weights positive; normalises the weights."""
    for i in range(len(vector)):
        if not math.isfinite(vector[i]):
            return False
    total, noise = 0.0, len(vector) - 1
    for k in range(model.n_components):
        if not vector[k] > 0.0:
            return False
        total += vector[k]
    if model.is_noisy:
        if not vector[noise] > 0.0:
            return False
        total += vector[noise]
        vector[noise] /= total
    for k in range(model.n_components):
        vector[k] /= total
    return True


@inlined_part
def _fill_sound_factors(model: Model, plain: Mixture, found: Mixture) -> bool:
    """Fill the factors of a mixture, whose covariances become those of its model; whether all are positive definite."""
    kind, n_components, d = model.kind, model.n_components, model.n_features
    if not fill_factors(kind, n_components, d, found.vector, found.factors):
        return False
    # sums of covariances of a model need not be of it: what describes them best is taken
    return model.constraint == UNCONSTRAINED or (
        constrained(model, found.vector, plain.vector) != UNSOUND
        and fill_factors(kind, n_components, d, found.vector, found.factors)
    )
