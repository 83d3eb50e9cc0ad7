"""DataFrames in, Series and DataFrames out: with the rows' index, and Dask's with their partitions."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from messages import names

FEATURES = ["speed", "load"]
METHODS = {
    "predict": "label",
    "score_samples": "log_density",
    "predict_proba": ["responsibility_0", "responsibility_1"],
}


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0.0, 1.0, (120, 2)), rng.normal(7.0, 1.5, (80, 2))])
    index = pd.date_range("2026-01-01", periods=len(rows), freq="h")
    return pd.DataFrame(rng.permutation(rows), columns=FEATURES, index=index).assign(name="x")


@pytest.fixture(scope="module")
def fitted(frame):
    return GaussianMixture(2, random_state=0).fit(frame[FEATURES])


@pytest.fixture(params=["known divisions", "unknown divisions", "parquet", "empty partitions"])
def lazy(request, frame, tmp_path):
    found = dd.from_pandas(frame, npartitions=10)
    if request.param == "unknown divisions":
        return found.clear_divisions()
    if request.param == "parquet":
        for number in range(10):
            frame.iloc[20 * number : 20 * (number + 1)].to_parquet(tmp_path / f"{number:02}.parquet")
        return dd.read_parquet(tmp_path, calculate_divisions=True).map_partitions(lambda part: part)
    return found[found["speed"] > found["speed"].mean()] if request.param == "empty partitions" else found


def columns_of(output):
    return [output.name] if output.ndim == 1 else list(output.columns)


@pytest.mark.parametrize("method", METHODS)
def test_the_index_of_a_pandas_frame_is_kept(frame, fitted, method):
    found = getattr(fitted, method)(frame[FEATURES])
    assert columns_of(found) == np.atleast_1d(METHODS[method]).tolist()
    pd.testing.assert_index_equal(found.index, frame.index)
    plain = GaussianMixture(2, random_state=0).fit(frame[FEATURES].to_numpy())
    np.testing.assert_array_equal(found, getattr(plain, method)(frame[FEATURES].to_numpy()))
    nothing = getattr(fitted, method)(frame[FEATURES].iloc[:0])
    assert (len(nothing), columns_of(nothing)) == (0, columns_of(found))


@pytest.mark.parametrize("method", METHODS)
def test_a_dask_frame_keeps_its_partitions_and_divisions(fitted, lazy, method):
    found = getattr(fitted, method)(lazy[FEATURES])
    assert (found.npartitions, found.divisions) == (lazy.npartitions, lazy.divisions)
    computed = found.compute()
    expected = getattr(fitted, method)(lazy[FEATURES].compute())
    assert type(computed) is type(expected)
    assert columns_of(found) == columns_of(computed) == columns_of(expected)
    # what Dask is told beforehand is what comes
    kinds, come = (np.atleast_1d(np.array(one.dtypes, dtype=object)).tolist() for one in (found, computed))
    assert kinds == come
    assert found._meta.index.dtype == computed.index.dtype
    pd.testing.assert_index_equal(computed.index, expected.index, exact="equiv")
    np.testing.assert_allclose(computed, expected, rtol=1e-9, atol=1e-12)


def test_labels_are_put_back_beside_the_rows(fitted, lazy):
    lazy["label"] = fitted.predict(lazy[FEATURES])
    lazy = lazy.assign(log_density=fitted.score_samples(lazy[FEATURES]))
    whole = dd.concat([lazy, fitted.predict_proba(lazy[FEATURES])], axis=1).compute()
    expected = fitted.predict(whole[FEATURES])
    np.testing.assert_array_equal(whole["label"], expected)
    np.testing.assert_array_equal(whole[METHODS["predict_proba"]].to_numpy().argmax(axis=1), expected)
    assert len(lazy[lazy["label"] == 0].compute()) == np.count_nonzero(expected == 0)
    means = lazy.groupby("label")["speed"].mean().compute()
    assert means.sort_index().tolist() == pytest.approx(whole.groupby("label")["speed"].mean().tolist())


def test_a_read_that_dask_fuses_is_told(frame, fitted, tmp_path):
    for number in range(10):
        frame.iloc[20 * number : 20 * (number + 1)].to_parquet(tmp_path / f"{number:02}.parquet")
    lazy = dd.read_parquet(tmp_path, calculate_divisions=True)
    with pytest.warns(UserWarning, match=names("fuses the 10 partitions", "ddf.map_partitions", "ddf.persist()")):
        found = fitted.predict(lazy[FEATURES])
    pd.testing.assert_series_equal(found.compute(), fitted.predict(frame[FEATURES]), check_freq=False)
    kept = lazy.persist()
    kept["label"] = fitted.predict(kept[FEATURES])
    assert kept.groupby("label")["speed"].count().compute().sum() == len(frame)


def test_a_search_answers_for_frames(frame):
    lazy = dd.from_pandas(frame, npartitions=4)
    search = GaussianMixtureSearch([1, 2], "diag", init_params="kmeans", random_state=0)
    lazy["label"] = search.fit_predict(lazy[FEATURES])
    np.testing.assert_array_equal(lazy["label"].compute(), search.predict(frame[FEATURES]))


def test_the_columns_are_those_of_the_fit(frame, fitted):
    lazy = dd.from_pandas(frame.drop(columns="name"), npartitions=2)
    for wrong in (lazy.assign(more=1.0), lazy[FEATURES[::-1]], lazy[["speed"]]):
        for given in (wrong, wrong.compute()):
            with pytest.raises(ValueError, match=names("feature names")):
                fitted.predict(given)
    with pytest.raises(UserError, match=names("numeric", "load", "X[[...]]")):
        fitted.predict(lazy.astype({"load": str}))
    with pytest.raises(UserError, match=names("2D", "Series", "X[['a']]")):
        fitted.predict(lazy["speed"])


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_nullable_columns_are_numbers_and_a_gap_is_an_error(frame, fitted, backend):
    nullable = frame[FEATURES].convert_dtypes(dtype_backend=backend)
    lazy = dd.from_pandas(nullable, npartitions=3)
    expected = fitted.predict(frame[FEATURES])
    np.testing.assert_array_equal(fitted.predict(nullable), expected)
    np.testing.assert_array_equal(fitted.predict(lazy).compute(), expected)
    nullable.iloc[3, 0] = pd.NA
    with pytest.raises(UserError, match=names("NaN", "1 of")):
        fitted.predict(dd.from_pandas(nullable, npartitions=3)).compute()
