"""The methods of mixtures that tell what is missing in a row, given what is there."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from gmm_dask.arrays import is_of
from gmm_dask.base import MixtureMethods
from gmm_dask.errors import UserError
from gmm_dask.families import Posterior
from gmm_dask.inputs import check_frame, is_dask_frame, is_lazy, is_pandas_frame, read_labelled, read_rows
from gmm_dask.passes.gaps.condition import Conditional, condition_partitions, condition_rows
from gmm_dask.passes.map_reduce import one_blas_thread


class ImputationMethods(MixtureMethods):
    """Those of mixtures of Gaussians, whatever they were fitted to: rows of X may have gaps with any ``missing``."""

    def condition(self, X: Any) -> Conditional:
        """Compute the mean and the variance of each missing value, given the values that its row has.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Values that are NaN, infinite or masked are missing.

        Returns
        -------
        mean, variance : array of float64 of shape (n_rows, n_features)
            A named tuple of two of the kind of X, as of :meth:`predict`; DataFrames have its columns. A value that is
            there is its own mean, with variance 0. Both are NaN in rows without any value. An array or a data set of
            xarray whose columns are ``feature_dims`` gives such ones, with its dimensions.

        Raises
        ------
        ValueError
            If the mixture has noise, which tells nothing of a value, or is variational.
        """
        check_is_fitted(self)
        family, parameters = self._model
        if parameters.noise is not None:
            raise UserError("A mixture with noise tells no missing values. Fit it with noise=False.")
        if isinstance(parameters, Posterior):
            raise UserError("A variational mixture tells no missing values. Fit it with inference='em'.")
        if (labelled := read_labelled(self, X, reset=False)) is not None:
            with one_blas_thread():
                sides = labelled.condition(family, parameters)
            if is_of("xarray", "Dataset", X):
                return sides
            return Conditional(*(side[labelled.variables[0].name].rename(X.name) for side in sides))
        if is_dask_frame(X):
            check_frame(self, X)
            return condition_partitions(X, family, parameters)
        found = condition_rows(read_rows(self, X, reset=False, gaps=True), family, parameters)
        if is_pandas_frame(X):
            return Conditional(*(type(X)(side, index=X.index, columns=X.columns) for side in found))
        if is_lazy(X) or isinstance(found.mean, np.ndarray):
            return found
        with one_blas_thread():
            return Conditional(found.mean.compute(), found.variance.compute())

    def impute(self, X: Any) -> Any:
        """Fill the gaps of X with the expectations of the missing values: the mean of :meth:`condition`.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        X : array of float64 of shape (n_rows, n_features)
            Of the kind of X. Such values vary less than measured ones do: :meth:`condition` tells by how much.
        """
        return self.condition(X).mean
