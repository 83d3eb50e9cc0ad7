"""The estimator: scikit-learn's ``GaussianMixture`` for data of any size."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import sklearn.mixture
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.em.regularization import AUTO, settings_for
from gmm_dask.em.spurious import weights_warning
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Family, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.given import GivenParameters, check_given
from gmm_dask.init.starts import INIT_PARAMS, STARTS, first_states, require_rows
from gmm_dask.inputs import is_lazy, read_input, read_weights, sample_seed
from gmm_dask.passes import predict
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Totals
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.plotting import notebook
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import shortcomings

Array = NDArray[np.float64]


class GaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
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
        EM stops when the mean log-likelihood a row changes by less.
    reg_covar : float or 'auto', default=1e-6
        Added to the diagonal of every covariance, in the squared units of the data; 'auto' adds a millionth of each
        feature's variance, so that the fit does not depend on units.
    max_iter : int, default=100
        Largest number of iterations of a start.
    n_init : int, default=1
        Number of starts; the best is kept. A start that becomes singular is dropped with a warning.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'auto'}, default='kmeans'
        How the starts are made, from all rows, or from a random sample of them if there are too many. The first four
        are scikit-learn's. 'auto' takes the best of many short runs of EM on a subsample in memory, improved by
        split and merge moves; each of the ``n_init`` starts is an independent search.
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
        Its mean log-likelihood a row, before the last M-step.
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
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(FAMILIES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left"), StrOptions({AUTO})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(INIT_PARAMS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "accelerate": ["boolean"],
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

    # -- fitting ---------------------------------------------------------------------------------------------
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            A NumPy, Dask or Zarr array, or a pandas or Dask DataFrame. It is read once a pass.
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
        self._fit(X, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture and label the rows of X; as ``fit(X).predict(X)``."""
        self._fit(X, sample_weight)
        return self.predict(X)

    def _fit(self, X: Any, sample_weight: Any) -> None:
        self._validate_params()
        array = read_input(self, X, reset=True)
        rows = as_rows(array, read_weights(sample_weight, array))
        family = get_family(self.covariance_type)
        given = check_given(
            family, self.n_components, rows.n_features, self.weights_init, self.means_init, self.precisions_init
        )
        with one_blas_thread():
            data_summary = summarize_rows(
                rows, sample_seed(self.random_state), getattr(self, "feature_names_in_", None)
            )
            require_rows(data_summary.n_rows, self.n_components)
            if note := weights_warning(data_summary.total_weight, data_summary.n_rows):
                warnings.warn(note, UserWarning, stacklevel=3)
            settings = settings_for(data_summary, self.tol, self.max_iter, self.reg_covar, self.accelerate)
            states = loop.run(
                self._first_states(family, data_summary, given, settings),
                partial(collect_statistics, rows, data_summary),
                data_summary.total_weight,
                settings,
                self._report_pass,
            )
        self._keep_best(states)

    def _first_states(
        self, family: Family, data_summary: DataSummary, given: GivenParameters, settings: Settings
    ) -> list[State]:
        if self.warm_start and hasattr(self, "converged_"):
            state = State(Candidate(family.name, self.n_components), 0, self._parameters, prior_bound=self.lower_bound_)
            return [state]
        if given.are_complete:
            return [State(Candidate(family.name, self.n_components), 0, given.parameters())]
        states = first_states(
            [Candidate(family.name, self.n_components)],
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=lambda: check_random_state(self.random_state),
            reg_covar=settings.reg_covar,
        )
        return [s if s.parameters is None else replace(s, parameters=given.replace_in(s.parameters)) for s in states]

    def _report_pass(self, states: list[State]) -> None:
        """What ``verbose`` asks for, after a pass."""
        iteration = max(state.n_iter for state in states)
        if not self.verbose or iteration % self.verbose_interval:
            return
        running = sum(state.status is Status.RUNNING for state in states)
        line = f"  Iteration {iteration}: {running} of {len(states)} starts running"
        if self.verbose > 1:
            line += f", best lower bound {max(state.lower_bound for state in states):.6f}"
        print(line)

    def _keep_best(self, states: list[State]) -> None:
        """Keep the best start's parameters; warn of what did not go well."""
        # scikit-learn's own starts are chosen as it chooses them: the largest likelihood wins, whatever it comes from
        best = loop.best_start(states, trusted=STARTS[self.init_params].is_search)
        if best is None:
            raise UserError(f"Fitting the mixture failed: {states[0].status.remedy}")
        for text in shortcomings(states, best):
            warnings.warn(text, ConvergenceWarning, stacklevel=4)
        self.set_fitted(best)

    def set_fitted(self, state: State) -> None:
        """Set the fitted attributes from the state that a fit ended with."""
        assert state.parameters is not None
        parameters = state.parameters
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
    def _parameters(self) -> Parameters:
        return Parameters(self.weights_, self.means_, self.covariances_, self.precisions_cholesky_)

    # -- predictions ---------------------------------------------------------------------------------------------
    def predict(self, X: Any) -> Any:
        """The most probable component of each row.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        labels : ndarray of int64, or a lazy Dask array for a Dask X, of shape (n_rows,)
        """
        return self._predict(X, "label")

    def predict_proba(self, X: Any) -> Any:
        """The probability of each component, for each row.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        responsibilities : ndarray, or a lazy Dask array for a Dask X, of shape (n_rows, n_components)
        """
        return self._predict(X, "responsibility")

    def score_samples(self, X: Any) -> Any:
        """The log density of each row, in natural logarithms per unit of volume.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        log_density : ndarray, or a lazy Dask array for a Dask X, of shape (n_rows,)
        """
        return self._predict(X, "log_density")

    def _predict(self, X: Any, which: str) -> Any:
        check_is_fitted(self)
        array = read_input(self, X, reset=False)
        family = get_family(self.covariance_type)
        found = predict.predict_rows(as_rows(array), family, self._parameters, [which])[which]
        if is_lazy(X) or isinstance(found, np.ndarray):
            return found
        with one_blas_thread():
            return found.compute()

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean log density of the rows.

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
        array = read_input(self, X, reset=False)
        rows = as_rows(array, read_weights(sample_weight, array))
        with one_blas_thread():
            return predict.total_rows(rows, get_family(self.covariance_type), self._parameters)

    def _criterion(self, name: str, X: Any, sample_weight: Any) -> float:
        totals, total_weight = self._totals(X, sample_weight)
        n_parameters = get_family(self.covariance_type).n_parameters(*self.means_.shape)
        return CRITERIA[name].formula(totals, n_parameters, total_weight)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion on X (n_rows, n_features); the smaller the better (Schwarz 1978)."""
        return self._criterion("bic", X, sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion on X (n_rows, n_features); the smaller the better (Akaike 1974)."""
        return self._criterion("aic", X, sample_weight)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Integrated completed likelihood on X (n_rows, n_features); the smaller the better.

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
        counts = rng.multinomial(n_samples, self.weights_)
        family = get_family(self.covariance_type)
        rows = [family.draw(rng, self._parameters, k, int(count)) for k, count in enumerate(counts)]
        return np.vstack(rows), np.repeat(np.arange(len(counts)), counts)

    def _html_repr(self) -> str:
        return notebook.mixture_html(super()._html_repr(), self)

    # -- exchange --------------------------------------------------------------------------------------------
    def to_sklearn(self) -> sklearn.mixture.GaussianMixture:
        """The same fitted mixture as a :class:`sklearn.mixture.GaussianMixture`."""
        check_is_fitted(self)
        return _to_sklearn(self)

    @classmethod
    def from_sklearn(cls, mixture: sklearn.mixture.GaussianMixture) -> Self:
        """A fitted :class:`sklearn.mixture.GaussianMixture` as one of ours."""
        check_is_fitted(mixture)
        fitted: Self = _copy_fitted(mixture, cls(**mixture.get_params()))
        return fitted


def _to_sklearn(mixture: Any) -> sklearn.mixture.GaussianMixture:
    """A fitted mixture as scikit-learn's; settings that it does not know stay at its defaults."""
    theirs = sklearn.mixture.GaussianMixture()
    for name, value in mixture.get_params().items():
        if _is_known(name, value):
            setattr(theirs, name, value)
    return _copy_fitted(mixture, theirs)


def _is_known(name: str, value: Any) -> bool:
    """Whether scikit-learn has such a parameter, and takes such a value."""
    defaults = sklearn.mixture.GaussianMixture().get_params()
    return name in defaults and not (isinstance(value, str) and value == "auto")


def _copy_fitted(source: Any, target: Any) -> Any:
    """Give the target the source's fitted attributes."""
    for name, value in vars(source).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(target, name, copy.copy(value))
    return target
