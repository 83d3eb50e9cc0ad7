"""What all estimators share: the methods of a fitted mixture, and how one mixture is fitted."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from gmm_dask.em import loop
from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.regularization import AUTO, settings_for
from gmm_dask.em.spurious import weights_warning
from gmm_dask.em.verbose import FitPrinter
from gmm_dask.errors import UnusableError, UserError
from gmm_dask.families import DEFAULT_TYPES, Posterior, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import counted
from gmm_dask.init.given import NOTHING_GIVEN, GivenParameters
from gmm_dask.init.starts import STARTS, first_states, require_rows, require_search
from gmm_dask.inputs import (
    BY_LIKELIHOOD,
    FIT_CONSTRAINTS,
    GAPS_REMEDY,
    REFUSED,
    at_least,
    check_frame,
    check_parameters,
    is_dask_frame,
    is_lazy,
    is_pandas_frame,
    one_of,
    read_labelled,
    read_rows,
    sample_seed,
)
from gmm_dask.labelled import REMEDY as CELLS_REMEDY
from gmm_dask.passes.bounding_box import Box
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.frames import predict_partitions, with_index
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model, Totals
from gmm_dask.passes.predict import predict_rows, total_rows
from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.passes.rows import Rows
from gmm_dask.plotting.notebook import estimator_html
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import shortcomings

Array = NDArray[np.float64]


class MixtureMethods(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The methods of all estimators that use the fitted mixture."""

    @property
    def _model(self) -> Model:
        """Covariance family and parameters of the fitted mixture."""
        raise NotImplementedError

    @property
    def _noise_box(self) -> Box | None:
        """What the noise of the fitted mixture is uniform in; None without noise."""
        return None

    @property
    def _gaps(self) -> bool:
        """Whether rows may have missing values."""
        return bool(getattr(self, "missing", REFUSED) == BY_LIKELIHOOD)

    @property
    def _may_have_gaps(self) -> bool:
        """Whether ``missing="likelihood"`` goes with the other parameters."""
        return False

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._gaps
        return tags

    def _summarize(self, rows: Rows, seed: int) -> DataSummary:
        """Pass 0 over the rows of a fit."""
        try:
            data_summary = summarize_rows(rows, seed, getattr(self, "feature_names_in_", None))
        except UnusableError as error:
            of_cells = getattr(self, "feature_dims", None) is not None
            remedies = [*([CELLS_REMEDY] if of_cells else []), *([GAPS_REMEDY] if self._may_have_gaps else [])]
            raise UnusableError(" ".join([str(error), *remedies])) from None
        if note := weights_warning(data_summary.total_weight, data_summary.n_rows):
            warnings.warn(note, UserWarning, stacklevel=3)
        return data_summary

    def _settings(self, data_summary: DataSummary) -> Settings:
        """The settings of the fits that follow from pass 0."""
        return settings_for(data_summary, self.tol, self.max_iter, self.reg_covar, self.accelerate)

    def _html_repr(self) -> str:
        return estimator_html(super()._html_repr(), self)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit and label the rows of X; the same as ``fit(X).predict(X)``."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Label each row with its most probable component; -1 is the noise, where the mixture has it.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        labels : array of int64 of shape (n_rows,)
            Of the kind of X: an ndarray, a lazy Dask array for a Dask array, a Series ``label`` with the index of a
            pandas DataFrame, a lazy Dask Series with the partitions and divisions of a Dask DataFrame, a DataArray on
            the grid of an array or a data set of xarray whose columns are ``feature_dims``.
        """
        return self._predict(X, "label")

    def predict_proba(self, X: Any) -> Any:
        """Compute the probability of each component for each row.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        responsibilities : array of shape (n_rows, n_components)
            Of the kind of X, as of :meth:`predict`; DataFrames have the columns ``responsibility_0``,
            ``responsibility_1`` and so on. With noise there is one more column, the last: ``responsibility_noise``.
        """
        return self._predict(X, "responsibility")

    def score_samples(self, X: Any) -> Any:
        """Compute the log density of each row, in natural logarithms per unit of volume.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        log_density : array of shape (n_rows,)
            Of the kind of X, as of :meth:`predict`; a Series is called ``log_density``.
        """
        return self._predict(X, "log_density")

    def _predict(self, X: Any, output: str) -> Any:
        check_is_fitted(self)
        if (labelled := read_labelled(self, X, reset=False)) is not None:
            with one_blas_thread():
                return labelled.predict(*self._model, output, self._gaps)
        if is_dask_frame(X):
            check_frame(self, X)
            return predict_partitions(X, *self._model, output, self._gaps)
        found = predict_rows(read_rows(self, X, reset=False, gaps=self._gaps), *self._model, [output])[output]
        if is_pandas_frame(X):
            return with_index(found, output, X.index, self._model[1].noise is not None)
        if is_lazy(X) or isinstance(found, np.ndarray):
            return found
        with one_blas_thread():
            return found.compute()

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Compute the mean log density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, here and for the criteria below.
        """
        totals, total_weight = self._totals(X, sample_weight)
        return totals.log_likelihood / total_weight

    def _totals(self, X: Any, sample_weight: Any) -> tuple[Totals, float]:
        check_is_fitted(self)
        rows = read_rows(self, X, sample_weight, reset=False, gaps=self._gaps)
        with one_blas_thread():
            return total_rows(rows, *self._model)

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Draw rows from the mixture, component by component.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            The component of each row. Rows of the noise come last, with -1.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise UserError(f"n_samples must be at least 1; got {n_samples}.")
        rng = check_random_state(self.random_state)
        family, parameters = self._model
        counts = rng.multinomial(n_samples, parameters.all_weights)
        numbers, n_components = np.arange(len(counts)), len(parameters.weights)
        rows = [family.draw(rng, parameters, k, int(count)) for k, count in enumerate(counts[:n_components])]
        if (box := self._noise_box) is not None:
            rows.append(box.draw(rng, int(counts[-1])))
            numbers[-1] = NOISE_LABEL
        return np.vstack(rows), np.repeat(numbers, counts)


class CriterionMethods(MixtureMethods):
    """Those that compare mixtures of largest likelihood on any rows."""

    def _criterion(self, name: str, X: Any, sample_weight: Any) -> float:
        check_is_fitted(self)
        if isinstance(self._model[1], Posterior):
            raise UserError(
                f"{name} is a criterion of the largest likelihood, and this mixture is variational: compare "
                "lower_bound_, or the column elbo of a search with inference='variational'."
            )
        totals, total_weight = self._totals(X, sample_weight)
        return CRITERIA[name].formula(totals, self._n_parameters(), total_weight)

    def _n_parameters(self) -> int:
        """Number of parameters that the fit found."""
        family, parameters = self._model
        return family.n_parameters(*parameters.means.shape)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Compute the Bayesian information criterion on X (n_rows, n_features); smaller is better (Schwarz 1978)."""
        return self._criterion("bic", X, sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Compute the Akaike information criterion on X (n_rows, n_features); smaller is better (Akaike 1974)."""
        return self._criterion("aic", X, sample_weight)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Compute the integrated completed likelihood on X (n_rows, n_features); smaller is better.

        ``bic - 2 sum_i log max_k r_ik``: BIC with a penalty for rows between components (Biernacki, Celeux and
        Govaert 2000, in the form of mclust, negated).
        """
        return self._criterion("icl", X, sample_weight)


class BaseMixture(MixtureMethods):
    """How one mixture is fitted, whatever its parameters are estimated by."""

    # of the parameters that they share
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FIT_CONSTRAINTS,
        "n_components": [at_least(1)],
        "covariance_type": [one_of(DEFAULT_TYPES)],
        "max_iter": [at_least(0)],
        "warm_start": ["boolean"],
    }

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            A NumPy, Dask, Zarr or xarray array, or a pandas or Dask DataFrame. It is read once a pass. Packed numbers
            of Zarr are unpacked, and masked values are missing.
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts; fractions are taken. The starts see the weights too: k-means and k-means++
            weight the rows, ``random_from_data`` draws rows in proportion.

        Returns
        -------
        self : the estimator

        Raises
        ------
        ValueError
            If a parameter, X or the weights are not usable, or if every start became singular; the message says
            what was expected, what came and what to do.
        """
        check_parameters(self)
        require_search(self.init_params, self.start_effort)
        rows = read_rows(self, X, sample_weight, reset=True, gaps=self._gaps)
        given = self._given(rows.n_features)
        with one_blas_thread():
            data_summary = self._summarize(rows, sample_seed(self.random_state))
            rows = data_summary.known(rows)
            settings = replace(self._settings(data_summary), noise=self._box_around(rows, data_summary))
            require_rows(data_summary.n_rows, self.n_components)
            printer = FitPrinter(self.verbose, self.verbose_interval)
            states = self._first_states(rows, data_summary, given, settings, printer)
            states = fit_states(states, rows, data_summary, settings, printer.on_pass)
            printer.end(states)
        self._set_best(states, data_summary, settings)
        return self

    def _box_around(self, rows: Rows, data_summary: DataSummary) -> Box | None:
        """Return what the noise of the next fit is uniform in; None without noise."""
        return None

    def _given(self, n_features: int) -> GivenParameters:
        """Check the parameters whose shapes follow from the data's; return the initial ones among them."""
        return NOTHING_GIVEN

    def _first_states(
        self, rows: Rows, data_summary: DataSummary, given: GivenParameters, settings: Settings, printer: FitPrinter
    ) -> list[State]:
        log_volume = None if settings.noise is None else settings.noise.log_volume
        candidate = Candidate(get_family(self.covariance_type).name, self.n_components, log_volume is not None)
        if self.warm_start and hasattr(self, "converged_"):
            self._require_same_model(len(data_summary.center))
            printer.begin("the parameters of the last fit")
            return [State(candidate, 0, self._model[1], prior_bound=self._last_bound(data_summary.total_weight))]
        if given.are_complete:
            printer.begin("the given parameters")
            return [State(candidate, 0, given.parameters(log_volume))]
        printer.begin(f"{counted(self.n_init, 'start')} by {self.init_params}")
        states = first_states(
            [candidate],
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=lambda: check_random_state(self.random_state),
            reg_covar=settings.reg_covar,
            inference=settings.inference,
            effort=self.start_effort,
            report=printer.note,
            rows=lambda: rows,
            noise_log_volume=log_volume,
        )
        return [s if s.parameters is None else replace(s, parameters=given.replace_in(s.parameters)) for s in states]

    def _require_same_model(self, n_features: int) -> None:
        """Raise :class:`UserError` if the last fit was of a model that the next one cannot go on from."""
        settings = ("covariance_type", "n_components", "the number of features")
        name = get_family(self.covariance_type).name
        before = (getattr(self, "_fitted_type", name), *self.means_.shape)
        now = (name, self.n_components, n_features)
        for setting, old, new in zip(settings, before, now, strict=True):
            if old != new:
                raise UserError(
                    f"warm_start goes on from the last fit, in which {setting} was {old}; now it is {new}. Set "
                    "warm_start=False, or fit a new estimator."
                )

    def _last_bound(self, total_weight: float) -> float:
        """The last fit's lower bound per row."""
        return float(self.lower_bound_)

    def _set_best(self, states: list[State], data_summary: DataSummary, settings: Settings) -> None:
        """Take over the best start's parameters; warn about what did not go well."""
        # scikit-learn's own starts are chosen as scikit-learn chooses: the largest likelihood wins, trusted or not
        best = loop.best_start(states, trusted=STARTS[self.init_params].is_search)
        if best is None:
            raise UserError(f"Fitting the mixture failed: {states[0].status.remedy}")
        for text in shortcomings(states, best):
            warnings.warn(text, ConvergenceWarning, stacklevel=3)
        self._take_over(best, data_summary, settings)

    def _take_over(self, best: State, data_summary: DataSummary, settings: Settings) -> None:
        """Set the fitted attributes from the best start, its data and its settings."""
        self.set_fitted(best)

    def set_fitted(self, state: State) -> None:
        """Set the fitted attributes from the state in which a fit ended."""
        assert state.parameters is not None
        parameters = state.parameters
        # covariance_type may be set to another before the next fit
        self._fitted_type = get_family(self.covariance_type).name
        self.weights_ = parameters.weights
        self.means_ = parameters.means
        self.covariances_ = parameters.covariances
        self.precisions_cholesky_ = parameters.precisions_cholesky
        self.precisions_ = get_family(self.covariance_type).precisions(parameters.precisions_cholesky)
        self.converged_ = state.converged
        self.status_ = state.status.value
        self.n_iter_ = state.n_iter
        self.lower_bound_ = state.lower_bound
        self.lower_bounds_ = list(state.lower_bounds)
        for name in ("component_numbers_", "component_names_"):
            self.__dict__.pop(name, None)  # of a model that was loaded from a result store

    # -- exchange with scikit-learn -----------------------------------------------------------------------------
    # the class of scikit-learn that has the same constructor and attributes
    _peer: ClassVar[type[BaseEstimator]]

    def to_sklearn(self) -> Any:
        """Return the same fitted mixture as scikit-learn's estimator of the same name.

        Settings that scikit-learn does not know (``accelerate``, and the value ``'auto'``) get its defaults. Of one of
        mclust's ten covariance models it gets the densities, as ``'spherical'`` (of EII), ``'diag'`` (of the others
        that end with I) or ``'full'``. Its criteria then count the parameters of these.
        """
        check_is_fitted(self)
        mixture = self._peer()
        known = mixture.get_params()
        settings = self.get_params() | {"covariance_type": get_family(self.covariance_type).sklearn_type}
        for name, value in settings.items():
            if name in known and not (isinstance(value, str) and value == AUTO):
                setattr(mixture, name, value)
        return _copy_fitted(self, mixture)

    @classmethod
    def from_sklearn(cls, mixture: Any) -> Self:
        """Return a fitted estimator of scikit-learn, of the same name, as one of ours."""
        if not isinstance(mixture, cls._peer):
            raise UserError(f"expected a fitted {cls._peer.__name__} of scikit-learn; got {type(mixture).__name__}.")
        check_is_fitted(mixture)
        fitted: Self = _copy_fitted(mixture, cls(**mixture.get_params()))
        return fitted


def _copy_fitted(source: Any, target: Any) -> Any:
    """Copy the fitted attributes, whose names end with an underscore."""
    for name, value in vars(source).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(target, name, copy.copy(value))
    return target
