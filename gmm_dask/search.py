"""The search: every number of components and covariance type at once, from the same reads of the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from numpy.random import RandomState
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from gmm_dask.em import loop
from gmm_dask.em.loop import Status
from gmm_dask.em.regularization import AUTO, settings_for
from gmm_dask.em.spurious import weights_warning
from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import INIT_PARAMS, first_states
from gmm_dask.inputs import read_input, read_weights, sample_seed
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows, as_rows, hold_out
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.plotting import notebook
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import remarks
from gmm_dask.selection.grid import GridExtension, check_candidates, extend_grid, generator_copies, in_grid_order
from gmm_dask.selection.outcomes import Outcome, by_candidate, choose, evaluate_states
from gmm_dask.selection.results import results_table


class GaussianMixtureSearch(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Choice of the number of components and the covariance type by an information criterion.

    All candidates and all their starts take their statistics from the same read of the data; a candidate that has
    converged leaves. Each ends where a :class:`GaussianMixture` with the same settings would.

    Parameters
    ----------
    n_components : int or iterable of int, default=range(1, 10)
    covariance_types : str or iterable of str, default=('full', 'tied', 'diag', 'spherical')
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        The smallest wins. 'held_out' is -2 times the log-likelihood of the rows that ``held_out`` holds out.
    n_init, init_params, tol, max_iter, reg_covar
        As in :class:`GaussianMixture`.
    random_state : int, RandomState instance or None, default=None
        Every candidate starts from this seed, or from a copy of this generator.
    accelerate : bool, default=False
        As in :class:`GaussianMixture`.
    held_out : float, default=0.0
        Share of the rows, 0 <= share < 1, that take no part in the fits and their criteria, and tell how well the
        mixtures describe rows that they have not seen. Which rows follows from the seed and each row's position, not
        from chunks; where a Dask collection's lengths are not known, from its partition and the position in it.
    extend : bool, default=False
        Whether the grid is widened as long as the winner has the most components of it, or the fewest and more than
        one: by half as many numbers of components as it has, in its own stride, for all covariance types. Only the
        new candidates are fitted; with ``init_params='auto'`` their starts are searched for without the others, so
        that they may end elsewhere than in a search that has the whole grid at first. It ends when the winner lies
        inside the grid, when no new candidate can be trusted, or at as many components as there are rows.

    Attributes
    ----------
    best_estimator_ : GaussianMixture
        Fitted, with the best start's parameters.
    best_params_ : dict
        Its ``n_components`` and ``covariance_type``.
    results_ : pandas.DataFrame
        A row a candidate: n_components, covariance_type, status, bic, delta (of the criterion, to the winner;
        NaN where a candidate may not win), aic,
        icl, held_out (the criterion; NaN where no rows are held out), log_likelihood (total over the fitted rows),
        held_out_log_likelihood (mean over the rows held out), n_parameters, n_iter, start (the best start's number),
        starts (how many were tried), untrusted (how many of them do not compare, having no usable parameters, or a
        status that is not trusted where the best one's is), agreed (how many ended at the best one's likelihood),
        spread (how far the worst ended below it, in log-likelihood a row), agreeing (which agreed, a tuple of their
        numbers).
    remarks_ : list of str
        What to know before the choice is trusted: the winner is on the edge of the grid, fewer components do as
        well, or its starts disagree.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X has column names that are strings.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), "array-like", range],
        "covariance_types": [StrOptions(set(FAMILIES)), "array-like"],
        "criterion": [StrOptions(set(CRITERIA))],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(INIT_PARAMS))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left"), StrOptions({AUTO})],
        "random_state": ["random_state"],
        "accelerate": ["boolean"],
        "held_out": [Interval(Real, 0.0, 1.0, closed="left")],
        "extend": ["boolean"],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = range(1, 10),
        covariance_types: str | Iterable[str] = tuple(FAMILIES),
        *,
        criterion: str = "bic",
        n_init: int = 1,
        init_params: str = "kmeans",
        tol: float = 1e-3,
        max_iter: int = 100,
        reg_covar: float | str = 1e-6,
        random_state: Any = None,
        accelerate: bool = False,
        held_out: float = 0.0,
        extend: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_types = covariance_types
        self.criterion = criterion
        self.n_init = n_init
        self.init_params = init_params
        self.tol = tol
        self.max_iter = max_iter
        self.reg_covar = reg_covar
        self.random_state = random_state
        self.accelerate = accelerate
        self.held_out = held_out
        self.extend = extend

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit all candidates and choose.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            As in :meth:`GaussianMixture.fit`.
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, for the starts too, as in :meth:`GaussianMixture.fit`.

        Returns
        -------
        self : GaussianMixtureSearch

        Raises
        ------
        ValueError
            If a parameter, X or the weights are not usable, or if no candidate could be fitted.
        """
        self._validate_params()
        if CRITERIA[self.criterion].needs_held_out and not self.held_out:
            raise UserError(
                f"criterion={self.criterion!r} needs rows that are held out of the fits: pass their share, such as "
                "held_out=0.2."
            )
        candidates = check_candidates(self.n_components, self.covariance_types)
        array, seed = read_input(self, X, reset=True), sample_seed(self.random_state)
        rows = hold_out(as_rows(array, read_weights(sample_weight, array)), self.held_out, seed)
        with one_blas_thread():
            data_summary = summarize_rows(rows, seed, getattr(self, "feature_names_in_", None))
            if note := weights_warning(data_summary.total_weight, data_summary.n_rows):
                warnings.warn(note, UserWarning, stacklevel=2)
            settings = settings_for(data_summary, self.tol, self.max_iter, self.reg_covar, self.accelerate)
            fit_some = partial(self._outcomes, rows, data_summary, settings, generator_copies(self.random_state))
            outcomes = fit_some(candidates)
            while (wider := self._extension(outcomes, data_summary.n_rows)).candidates:
                outcomes = in_grid_order([*outcomes, *fit_some(wider.candidates)])
        self.results_ = results_table(outcomes, self.criterion)
        self._set_best(choose(outcomes, self.criterion))
        self.remarks_ = remarks(
            self.results_, self.criterion, self._winner_row(), wider.stopped if self.extend else None
        )
        return self

    def _outcomes(
        self,
        rows: Rows,
        data_summary: DataSummary,
        settings: loop.Settings,
        copies: Callable[[], RandomState],
        candidates: Sequence[Candidate],
    ) -> list[Outcome]:
        """All starts of some candidates, fitted."""
        states = first_states(
            candidates,
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=copies,
            reg_covar=settings.reg_covar,
        )
        collect = partial(collect_statistics, rows, data_summary)
        return evaluate_states(rows, data_summary, loop.run(states, collect, data_summary.total_weight, settings))

    def _extension(self, outcomes: Sequence[Outcome], n_rows: int) -> GridExtension:
        if not self.extend:
            return GridExtension()
        best = choose(outcomes, self.criterion).state
        return extend_grid(list(by_candidate(outcomes)), best.candidate, best.status.trusted, n_rows)

    def _winner_row(self) -> dict[str, Any]:
        chosen = [self.results_[name] == value for name, value in self.best_params_.items()]
        row: dict[str, Any] = self.results_[chosen[0] & chosen[1]].iloc[0].to_dict()
        return row

    def _set_best(self, outcome: Outcome) -> None:
        state = outcome.state
        self.best_params_: dict[str, Any] = {
            "n_components": state.n_components,
            "covariance_type": state.covariance_type,
        }
        self.best_estimator_ = GaussianMixture(
            **self.best_params_,
            n_init=self.n_init,
            init_params=self.init_params,
            tol=self.tol,
            max_iter=self.max_iter,
            reg_covar=self.reg_covar,
            random_state=self.random_state,
            accelerate=self.accelerate,
        )
        self.best_estimator_.set_fitted(state)
        if state.status is Status.MAX_ITER:
            warnings.warn(f"The winner did not converge: {state.status.remedy}", ConvergenceWarning, stacklevel=3)
        elif not state.status.trusted:
            warnings.warn(
                f"No candidate can be trusted, and the winner is {state.status}: {state.status.remedy}",
                ConvergenceWarning,
                stacklevel=3,
            )
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(self.best_estimator_, name, getattr(self, name))

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit all candidates, choose, and label the rows of X; as ``fit(X).predict(X)``."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Labels of the winner; see :meth:`GaussianMixture.predict`."""
        return self._winner.predict(X)

    def predict_proba(self, X: Any) -> Any:
        """Responsibilities of the winner; see :meth:`GaussianMixture.predict_proba`."""
        return self._winner.predict_proba(X)

    def score_samples(self, X: Any) -> Any:
        """Log densities of the winner; see :meth:`GaussianMixture.score_samples`."""
        return self._winner.score_samples(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log density of the winner; see :meth:`GaussianMixture.score`."""
        return self._winner.score(X, sample_weight=sample_weight)

    def _html_repr(self) -> str:
        return notebook.search_html(super()._html_repr(), self)

    @property
    def _winner(self) -> GaussianMixture:
        check_is_fitted(self)
        return self.best_estimator_
