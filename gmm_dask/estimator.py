"""The estimator: scikit-learn's ``GaussianMixture`` for data of any size."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import sklearn.mixture
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gmm_dask.em import loop
from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.regularization import AUTO, settings_for
from gmm_dask.em.spurious import weights_warning
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.given import GivenParameters, check_given
from gmm_dask.init.starts import STARTS, first_states, require_rows
from gmm_dask.inputs import FIT_CONSTRAINTS, at_least, check_parameters, is_lazy, one_of, read_rows, sample_seed
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model, Totals
from gmm_dask.passes.predict import predict_rows, total_rows
from gmm_dask.passes.rows import Rows
from gmm_dask.plotting.notebook import estimator_html
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import shortcomings

Array = NDArray[np.float64]


class MixtureMethods(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The methods of :class:`GaussianMixture` and :class:`GaussianMixtureSearch` that use the fitted mixture."""

    @property
    def _model(self) -> Model:
        """Covariance family and parameters of the fitted mixture."""
        raise NotImplementedError

    def _summarize(self, rows: Rows, seed: int) -> tuple[DataSummary, Settings]:
        """Pass 0 over the rows of a fit, and the settings of EM that follow from it."""
        data_summary = summarize_rows(rows, seed, getattr(self, "feature_names_in_", None))
        if note := weights_warning(data_summary.total_weight, data_summary.n_rows):
            warnings.warn(note, UserWarning, stacklevel=3)
        return data_summary, settings_for(data_summary, self.tol, self.max_iter, self.reg_covar, self.accelerate)

    def _html_repr(self) -> str:
        return estimator_html(super()._html_repr(), self)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit and label the rows of X; the same as ``fit(X).predict(X)``."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Label each row with its most probable component.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        labels : ndarray of int64, or a lazy Dask array for a Dask X, of shape (n_rows,)
        """
        return self._predict(X, "label")

    def predict_proba(self, X: Any) -> Any:
        """Compute the probability of each component for each row.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        responsibilities : ndarray, or a lazy Dask array for a Dask X, of shape (n_rows, n_components)
        """
        return self._predict(X, "responsibility")

    def score_samples(self, X: Any) -> Any:
        """Compute the log density of each row, in natural logarithms per unit of volume.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        log_density : ndarray, or a lazy Dask array for a Dask X, of shape (n_rows,)
        """
        return self._predict(X, "log_density")

    def _predict(self, X: Any, output: str) -> Any:
        check_is_fitted(self)
        found = predict_rows(read_rows(self, X, reset=False), *self._model, [output])[output]
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
        rows = read_rows(self, X, sample_weight, reset=False)
        with one_blas_thread():
            return total_rows(rows, *self._model)

    def _criterion(self, name: str, X: Any, sample_weight: Any) -> float:
        totals, total_weight = self._totals(X, sample_weight)
        family, parameters = self._model
        return CRITERIA[name].formula(totals, family.n_parameters(*parameters.means.shape), total_weight)

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

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Draw rows from the mixture, component by component.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            The component of each row.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise UserError(f"n_samples must be at least 1; got {n_samples}.")
        rng = check_random_state(self.random_state)
        family, parameters = self._model
        counts = rng.multinomial(n_samples, parameters.weights)
        rows = [family.draw(rng, parameters, k, int(count)) for k, count in enumerate(counts)]
        return np.vstack(rows), np.repeat(np.arange(len(counts)), counts)


class GaussianMixture(MixtureMethods):
    """Gaussian mixture fitted by expectation-maximisation, one read of the data a pass.

    The constructor, methods and fitted attributes are those of :class:`sklearn.mixture.GaussianMixture`. With the
    same ``random_state``, on data small enough that all its rows seed the starts (262,144 rows, fewer beyond 8
    features), it walks the same path and ends at the same parameters. All starts advance together, from the same
    read; memory does not grow with the rows.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Each component its own covariance matrix; one matrix for all; its own variances; its own single variance.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood per row changes by less.
    reg_covar : float or 'auto', default=1e-6
        Added to the diagonal of every covariance, in the squared units of the data; 'auto' adds a millionth of each
        feature's variance, so that the fit does not depend on units, and not less than a twelfth of the square of the
        step that its values are rounded to.
    max_iter : int, default=100
        Largest number of iterations of a start.
    n_init : int, default=1
        Number of starts; the best is kept. A start that becomes singular is dropped with a warning.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'auto'}, default='kmeans'
        How the starts are made, from all rows, or from a random sample of them if there are too many. The first four
        are scikit-learn's. 'auto' takes the best of many short runs of EM on a subsample in memory, improved by
        split and merge moves, also from fits of one component less and one more; each of the ``n_init`` starts is an
        independent search.
    weights_init : array-like of shape (n_components,), default=None
    means_init : array-like of shape (n_components, n_features), default=None
    precisions_init : array-like, default=None
        First parameters, in place of the start's own. Precisions have shape (n_components, n_features, n_features),
        (n_features, n_features), (n_components, n_features) or (n_components,), by ``covariance_type``.
    random_state : int, RandomState instance or None, default=None
        Draws the starts, and the rows of :meth:`sample`.
    warm_start : bool, default=False
        Whether the next fit goes on from the last one's parameters.
    verbose : int, default=0
        1 prints every ``verbose_interval`` iterations; 2 adds the lower bounds.
    verbose_interval : int, default=10
    accelerate : bool, default=False
        Whether steps of EM are extrapolated, which takes fewer passes to the same likelihood where tol is small.
    start_effort : float, default=1.0
        How long ``init_params='auto'`` may search for a start: 1 is up to about five seconds on a core, 0.1 a tenth of
        it. Small data take less. Where even the first runs would take much more, as with full covariances of 1,000
        columns, the start is that of k-means.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Of the shape that ``precisions_init`` has; ``precisions = U U^T`` with U upper triangular.
    converged_ : bool
    status_ : str
        How the best start stands: ``'converged'``, ``'max_iter'``, or, where a component is no group of rows,
        ``'degenerate'`` (it holds one row or less) or ``'spurious'`` (it is far too narrow for its few rows): see
        :class:`gmm_dask.em.status.Status`.
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        Its mean log-likelihood per row, before the last M-step.
    lower_bounds_ : list of float
        The same, for each of its iterations.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X has column names that are strings.

    Examples
    --------
    >>> import numpy as np
    >>> from gmm_dask import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> mixture.predict([[0, 0], [12, 3]])
    array([1, 0])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FIT_CONSTRAINTS,
        "n_components": [at_least(1)],
        "covariance_type": [one_of(FAMILIES)],
        "max_iter": [at_least(0)],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [at_least(1)],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        accelerate: bool = False,
        start_effort: float = 1.0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.accelerate = accelerate
        self.start_effort = start_effort

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            A NumPy, Dask, Zarr or xarray array, or a pandas or Dask DataFrame. It is read once a pass.
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts; fractions are taken. The starts see the weights too: k-means and k-means++
            weight the rows, ``random_from_data`` draws rows in proportion.

        Returns
        -------
        self : GaussianMixture

        Raises
        ------
        ValueError
            If a parameter, X or the weights are not usable, or if every start became singular; the message says
            what was expected, what came and what to do.
        """
        check_parameters(self)
        rows = read_rows(self, X, sample_weight, reset=True)
        inits = self.weights_init, self.means_init, self.precisions_init
        given = check_given(get_family(self.covariance_type), self.n_components, rows.n_features, *inits)
        with one_blas_thread():
            data_summary, settings = self._summarize(rows, sample_seed(self.random_state))
            require_rows(data_summary.n_rows, self.n_components)
            states = self._first_states(rows, data_summary, given, settings)
            states = fit_states(states, rows, data_summary, settings, self._print_progress if self.verbose else None)
        self._set_best(states)
        return self

    def _first_states(
        self, rows: Rows, data_summary: DataSummary, given: GivenParameters, settings: Settings
    ) -> list[State]:
        candidate = Candidate(self.covariance_type, self.n_components)
        if self.warm_start and hasattr(self, "converged_"):
            self._require_same_model(len(data_summary.center))
            return [State(candidate, 0, self._model[1], prior_bound=self.lower_bound_)]
        if given.are_complete:
            return [State(candidate, 0, given.parameters())]
        states = first_states(
            [candidate],
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=lambda: check_random_state(self.random_state),
            reg_covar=settings.reg_covar,
            effort=self.start_effort,
            rows=lambda: rows,
        )
        return [s if s.parameters is None else replace(s, parameters=given.replace_in(s.parameters)) for s in states]

    def _require_same_model(self, n_features: int) -> None:
        """Raise :class:`UserError` if the last fit was of a model that the next one cannot go on from."""
        settings = ("covariance_type", "n_components", "the number of features")
        before = (getattr(self, "_fitted_type", self.covariance_type), *self.means_.shape)
        now = (self.covariance_type, self.n_components, n_features)
        for name, old, new in zip(settings, before, now, strict=True):
            if old != new:
                raise UserError(
                    f"warm_start goes on from the last fit, in which {name} was {old}; now it is {new}. Set "
                    "warm_start=False, or fit a new estimator."
                )

    def _print_progress(self, states: list[State]) -> None:
        """Print what ``verbose`` requests, after a pass."""
        iteration = max(state.n_iter for state in states)
        if iteration % self.verbose_interval:
            return
        running = sum(state.status is Status.RUNNING for state in states)
        line = f"  Iteration {iteration}: {running} of {len(states)} starts running"
        if self.verbose > 1:
            line += f", best lower bound {max(state.lower_bound for state in states):.6f}"
        print(line)

    def _set_best(self, states: list[State]) -> None:
        """Take over the best start's parameters; warn about what did not go well."""
        # scikit-learn's own starts are chosen as scikit-learn chooses: the largest likelihood wins, trusted or not
        best = loop.best_start(states, trusted=STARTS[self.init_params].is_search)
        if best is None:
            raise UserError(f"Fitting the mixture failed: {states[0].status.remedy}")
        for text in shortcomings(states, best):
            warnings.warn(text, ConvergenceWarning, stacklevel=3)
        self.set_fitted(best)

    def set_fitted(self, state: State) -> None:
        """Set the fitted attributes from the state in which a fit ended."""
        assert state.parameters is not None
        parameters = state.parameters
        self._fitted_type = self.covariance_type  # which may be set to another before the next fit
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

    @property
    def _model(self) -> Model:
        parameters = Parameters(self.weights_, self.means_, self.covariances_, self.precisions_cholesky_)
        return get_family(self.covariance_type), parameters

    # -- exchange with scikit-learn -----------------------------------------------------------------------------
    def to_sklearn(self) -> sklearn.mixture.GaussianMixture:
        """Return the same fitted mixture as a :class:`sklearn.mixture.GaussianMixture`.

        Settings that scikit-learn does not know (``accelerate``, and the value ``'auto'``) get its defaults.
        """
        check_is_fitted(self)
        mixture = sklearn.mixture.GaussianMixture()
        known = mixture.get_params()
        for name, value in self.get_params().items():
            if name in known and not (isinstance(value, str) and value == AUTO):
                setattr(mixture, name, value)
        return _copy_fitted(self, mixture)

    @classmethod
    def from_sklearn(cls, mixture: sklearn.mixture.GaussianMixture) -> Self:
        """Return a fitted :class:`sklearn.mixture.GaussianMixture` as one of ours."""
        check_is_fitted(mixture)
        fitted: Self = _copy_fitted(mixture, cls(**mixture.get_params()))
        return fitted


def _copy_fitted(source: Any, target: Any) -> Any:
    """Copy the fitted attributes, whose names end with an underscore."""
    for name, value in vars(source).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(target, name, copy.copy(value))
    return target
