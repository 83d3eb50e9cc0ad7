"""Each transform beside NumPy's, SciPy's and scikit-learn's, and the chain of several."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import Rows
from messages import names
from pipeline.config.job import JobConfig
from pipeline.store import prepare_store, write_transform
from pipeline.store.contents.transforms import read_transform
from pipeline.transforms import Chain
from pipeline.transforms.fitting import check_steps, first_steps, fit_steps, more_reads
from pipeline.transforms.scale import Scale
from stores import stored_data

COLUMNS = ("income", "share", "marker", "age")


def rows_of(n_rows=400):
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(n_rows, 4)) @ rng.normal(size=(4, 4))
    return np.column_stack([np.exp(mixed[:, 0]), expit(mixed[:, 1]), 300.0 * mixed[:, 2], 40.0 + mixed[:, 3]])


def steps_of(*steps):
    return JobConfig.model_validate({"data": {"source": "a.csv", "transform": list(steps)}}).data.steps


def fitted(*steps, rows=None):
    """The chain of steps that are fitted to rows in memory, and how often these were read for it."""
    rows, reads = rows_of() if rows is None else rows, []

    def read(chain):
        reads.append(chain)
        return summarize_rows(Rows(chain.rows(rows)), 0)

    chain, summary = fit_steps(steps_of(*steps), COLUMNS, read(first_steps(steps_of(*steps), COLUMNS)), read)
    expected = summarize_rows(Rows(chain.rows(rows)), 0)
    for name in ("center", "scatter", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(summary, name), getattr(expected, name), rtol=1e-9, atol=1e-8)
    assert len(reads) == 1 + more_reads(steps_of(*steps))
    return chain


INCOME = {"columns": ["income"]}
CHAINS = {
    "log": ["log", {"columns": ["income", "age"]}],
    "log1p": ["log1p", INCOME],
    "logit": ["logit", {"columns": ["share"]}],
    "arcsinh": ["arcsinh", {"cofactor": {"marker": 5.0, "income": 0.5}}],
    "clip": ["clip", {"columns": ["marker"], "minimum": -200.0}],
    "standard": ["scale", "standard"],
    "robust": ["scale", {"method": "robust", "columns": ["marker", "age"]}],
    "pca": ["pca", {"whiten": True}],
    "some": ["pca", {"columns": ["age", "marker"], "prefix": "part"}],
}
MANY = [{"log": INCOME}, {"logit": {"columns": ["share"]}}, "scale", {"arcsinh": 2.0}, {"pca": {"n_components": 4}}]


@pytest.mark.parametrize("steps", [*[[dict([one])] for one in CHAINS.values()], MANY], ids=[*CHAINS, "many"])
def test_rows_come_back_and_densities_follow_the_derivative(steps):
    rows = rows_of(20)
    chain = fitted(*steps)
    images = chain.rows(rows)
    if not chain.is_clipped:
        np.testing.assert_allclose(chain.undo(images), rows, rtol=1e-9, atol=1e-9)
    slopes = np.broadcast_to(chain.log_slopes(rows), len(rows))
    width = 1e-6 * np.maximum(np.abs(rows), 0.1)
    for i, row in enumerate(rows):
        ends = [chain.rows(row + sign * np.diag(width[i])) for sign in (1.0, -1.0)]
        determinant = np.linalg.det((ends[0] - ends[1]) / (2.0 * width[i][:, None]))
        # a clipped value does not move: its density is that of the values within
        expected = 0.0 if chain.is_clipped else np.log(np.abs(determinant))
        assert slopes[i] == pytest.approx(expected, abs=1e-5)


def test_images_are_those_of_numpy_scipy_and_scikit_learn():
    x = rows_of()
    income, share, marker, age = x.T
    expected = {
        "log": [np.log(income), share, marker, np.log(age)],
        "log1p": [np.log1p(income), share, marker, age],
        "logit": [income, logit(share), marker, age],
        "arcsinh": [np.arcsinh(income / 0.5), share, np.arcsinh(marker / 5.0), age],
        "clip": [income, share, np.maximum(marker, -200.0), age],
        "standard": StandardScaler().fit_transform(x).T,
        "robust": [income, share, *RobustScaler().fit_transform(x[:, 2:]).T],
        "pca": PCA(whiten=True).fit_transform(x).T,
        "some": [income, share, *PCA().fit_transform(x[:, [3, 2]]).T],
    }
    for name, step in CHAINS.items():
        np.testing.assert_allclose(fitted(dict([step])).rows(x), np.transpose(expected[name]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999999])
def test_as_many_components_are_kept_as_scikit_learn_keeps(share):
    chain = fitted("scale", {"pca": {"n_components": share}})
    theirs = make_pipeline(StandardScaler(), PCA(share)).fit(rows_of())
    np.testing.assert_allclose(chain.rows(rows_of()), theirs.transform(rows_of()), atol=1e-9)
    assert chain.labels(COLUMNS) == tuple(f"pc{i + 1}" for i in range(theirs[-1].n_components_))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("steps", [*[[dict([one])] for one in CHAINS.values()], MANY], ids=[*CHAINS, "many"])
def test_scikit_learns_transformers_are_the_same(steps, named):
    rows, chain = rows_of(), fitted(*steps)
    pipeline = Pipeline(chain.to_sklearn(COLUMNS, named=named))
    given = pd.DataFrame(rows, columns=COLUMNS) if named else rows
    np.testing.assert_allclose(pipeline.transform(given), chain.rows(rows), rtol=1e-12, atol=1e-12)


def test_single_precision_stays_and_what_is_not_finite_is_not_made_finite():
    rows = rows_of().astype(np.float32)
    for step in CHAINS.values():
        chain = fitted(dict([step]))
        found = chain.rows(rows)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, chain.rows(rows.astype(np.float64)).astype(np.float32))
        for bad in (np.nan, np.inf, -np.inf):
            x = rows_of(4)
            x[1] = bad
            assert np.isfinite(chain.rows(x)).all(axis=1).tolist() == [True, False, True, True]


def test_values_outside_a_domain_have_no_image():
    chain = fitted({"log": INCOME}, {"logit": {"columns": ["share"]}}, "scale")
    rows = rows_of(6)
    rows[1, 0], rows[2, 0], rows[3, 1] = 0.0, -2.0, 1.0
    assert np.isfinite(chain.rows(rows)).all(axis=1).tolist() == [True, False, False, False, True, True]
    assert chain.outside(rows, COLUMNS) == [
        ("income", "log takes values greater than 0", 2),
        ("share", "logit takes values between 0 and 1", 1),
    ]


def test_features_tell_what_was_done_to_them():
    assert fitted("scale").labels(COLUMNS) == COLUMNS  # results are in the user's units
    chain = fitted({"log": INCOME}, {"scale": {"columns": ["income", "age"]}}, {"pca": {"columns": ["age", "share"]}})
    assert chain.labels(COLUMNS) == ("scale(log(income))", "marker", "pc1", "pc2")


def test_reads_are_counted_before_anything_is_read():
    expected = [
        (["log"], 0),
        (["log", "scale"], 0),
        (["scale", {"scale": "robust"}], 0),
        (["pca"], 1),
        (["log", "scale", "pca"], 1),
        (["scale", {"arcsinh": 5}], 1),
        (["scale", {"arcsinh": 5}, "pca"], 2),
        (["scale", {"clip": {"maximum": 5.0}}, "scale", "pca"], 2),
    ]
    assert [(steps, more_reads(steps_of(*steps))) for steps, _ in expected] == expected


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ([{"log": {"columns": ["incme"]}}], ("log", "'incme'", "income")),
        ([{"arcsinh": {"cofactor": {"CD4": 5}}}], ("arcsinh", "'CD4'", "marker")),
        ([{"pca": 5}], ("5 components", "4 columns")),
        ([{"pca": 2}, {"scale": {"columns": ["pc3"]}}], ("scale", "'pc3'", "pc1, pc2")),
        (
            [{"pca": {"columns": ["age", "share"]}}, {"pca": {"columns": ["income", "marker"]}}],
            ("two columns", "'pc1'", "prefix"),
        ),
    ],
)
def test_columns_that_are_not_there_are_named_before_anything_is_read(steps, parts):
    with pytest.raises(UserError, match=names("data.transform", *parts)):
        check_steps(steps_of(*steps), COLUMNS)


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        (["scale"], ("data.transform: scale", "'income'", "same value", "columns: [...]")),
        (
            [{"clip": {"columns": ["age"], "maximum": -1e3}}, "scale"],
            ("data.transform: scale", "'age'", "at that step"),
        ),
        ([{"pca": {"columns": ["income"]}}], ("data.transform: pca", "'income'", "same value", "columns: [...]")),
        ([{"pca": {"columns": ["income"], "n_components": 0.5}}], ("pca", "'income'", "same value")),
        ([{"scale": "robust"}], ("robust", "'income'", "standard")),
        (["pca"], ("4 components", "3 directions", "n_components")),
    ],
)
def test_columns_that_do_not_vary_are_refused(steps, parts):
    rows = rows_of()
    rows[:, 0] = 3.7
    with pytest.raises(UserError, match=names(*parts)):
        fitted(*steps, rows=rows)


def test_robust_scales_follow_the_weights():
    rows, weights = rows_of(300), np.random.default_rng(1).integers(0, 4, 300)
    heavy = summarize_rows(Rows(rows, weights.astype(float)), 0)
    repeated = np.repeat(rows, weights, axis=0)
    chain, _ = fit_steps(steps_of({"scale": "robust"}), COLUMNS, heavy, None)
    found = chain.scaling
    expected = np.quantile(repeated, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found.center, expected[1])
    np.testing.assert_allclose(found.scale, expected[2] - expected[0])


@pytest.mark.parametrize("steps", [[dict([CHAINS["robust"]])], MANY, [dict([CHAINS["some"]])]])
def test_the_store_has_it_bit_by_bit_and_refuses_another(tmp_path, steps):
    path, chain = str(tmp_path / "r.zarr"), fitted(*steps)
    config = JobConfig.model_validate({"data": {"source": "a.csv"}, "output": {"store": path}})
    prepare_store(path, config.model_dump(mode="json"), stored_data(COLUMNS))
    assert read_transform(path, COLUMNS) is None
    write_transform(path, Chain((*chain.steps, *chain.steps)))
    write_transform(path, chain)
    found = read_transform(path, COLUMNS)
    assert found.same_as(chain)
    assert found.labels(COLUMNS) == chain.labels(COLUMNS)
    with pytest.raises(ValueError, match="column"):
        read_transform(path, COLUMNS[:2])


@pytest.mark.parametrize("weighted", [False, True])
def test_robust_scales_are_of_the_values_that_are_there(weighted):
    rows = np.random.default_rng(0).normal(size=(101, 3))
    weights = np.random.default_rng(1).integers(0, 3, size=101).astype(float) if weighted else None
    rows[::3, 1] = np.nan
    summary = summarize_rows(Rows(rows, weights, gaps=True), 0)
    found = Scale.fit(steps_of({"scale": "robust"})[0].settings, ["a", "b", "c"], summary)
    for i, column in enumerate(rows.T):
        there = np.isfinite(column)
        # whole weights stand for as many rows
        column = column[there] if weights is None else np.repeat(column[there], weights[there].astype(int))
        method = "linear" if weights is None else "inverted_cdf"
        low, middle, high = np.quantile(column, (0.25, 0.5, 0.75), method=method)
        np.testing.assert_allclose([found.center[i], found.scale[i]], [middle, high - low], rtol=1e-12)
