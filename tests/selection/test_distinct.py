"""Candidates that are one model in several forms are found by the mathematics."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from gmm_dask import GaussianMixture
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.diag import Diag
from gmm_dask.families.structure import group_of, reduced_structure
from gmm_dask.selection.distinct import alike, distinct, kinds_of, same_models
from messages import names

# mclust's fourteen models
STRUCTURES = ["EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"]


def n_covariance_parameters(structure, k, d):
    """As mclust counts them (nVarParams): volumes, shapes and orientations, shared or of each component."""
    volume, shape, orientation = structure
    shapes = {"I": 0, "E": d - 1, "V": k * (d - 1)}[shape]
    turns = {"I": 0, "E": d * (d - 1) // 2, "V": k * d * (d - 1) // 2}[orientation]
    return (k if volume == "V" else 1) + shapes + turns


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_models_that_coincide_have_as_many_parameters_and_none_else_does(k, d):
    forms = {structure: reduced_structure(structure, k, d) for structure in STRUCTURES}
    for one, other in itertools.combinations(STRUCTURES, 2):
        if forms[one] == forms[other]:
            assert n_covariance_parameters(one, k, d) == n_covariance_parameters(other, k, d)
    # what is left is known: 1 of everything, 3 with one component, 2 with one feature
    assert len(set(forms.values())) == {(1, 1): 1, (1, 3): 3, (4, 1): 2, (4, 3): 14}[k, d]
    # a form is a model, and its own form
    assert all(reduced_structure(form, k, d) == form in STRUCTURES for form in forms.values())


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_families_have_the_structure_that_their_parameters_have(k, d):
    for family in FAMILIES.values():
        assert family.n_covariance_parameters(k, d) == n_covariance_parameters(family.structure, k, d)


@pytest.mark.parametrize("d", [1, 3])
def test_covariance_types_that_coincide_fit_the_same(d):
    x = np.random.default_rng(0).normal(size=(50, d)) * np.arange(1, d + 1)
    densities = {name: GaussianMixture(1, covariance_type=name, reg_covar=0.0).fit(x).score(x) for name in FAMILIES}
    groups = alike([Candidate(name, 1) for name in FAMILIES], d)
    for group in groups:
        of_group = [densities[one.covariance_type] for one in group]
        np.testing.assert_allclose(of_group, of_group[0], rtol=1e-13)
    assert len(groups) == len({round(density, 9) for density in densities.values()})


def test_groups_of_models():
    assert [group_of(get_family(name).structure) for name in ("full", "tied", "diag", "spherical")] == [
        "ellipsoidal",
        "ellipsoidal",
        "diagonal",
        "spherical",
    ]


def table_of(bics, status="converged"):
    rows = [{"covariance_type": kind, "n_components": k, "bic": bic} for (kind, k), bic in bics.items()]
    return pd.DataFrame(rows).assign(status=status)


def test_the_best_fit_of_a_model_stands_for_it():
    """Fits of one model may end at different optima: by numbers alone they would be two models."""
    table = table_of({("full", 2): 7.0, ("tied", 2): 5.0, ("diag", 2): 5.5, ("spherical", 2): np.nan})
    found = distinct(table, "bic", 1)
    assert dict(zip(found["covariance_type"], found["also"], strict=True)) == {
        "diag": ["full-k2", "spherical-k2"],
        "tied": [],
    }
    assert list(distinct(table, "bic", 2)["covariance_type"]) == ["full", "tied", "diag", "spherical"]


def test_of_equal_fits_the_first_stands_for_the_model():
    table = table_of({("full", 1): 7.0, ("tied", 1): 7.0 - 1e-12, ("diag", 1): 6.0})
    assert list(distinct(table, "bic", 2)["covariance_type"]) == ["full", "diag"]
    assert list(
        distinct(table[["status", "covariance_type", "n_components"]].assign(bic=np.nan), "bic", 2)["also"]
    ) == [
        ["tied-k1"],
        [],
    ]


def test_a_fit_that_cannot_be_trusted_does_not_stand_for_its_model():
    table = table_of({("full", 1): 1.0, ("tied", 1): 7.0}, ["degenerate", "converged"])
    assert list(distinct(table, "bic", 2)["covariance_type"]) == ["tied"]


def test_which_types_are_the_same_model_is_said():
    counts = table_of({(kind, k): 0.0 for kind in ("full", "tied", "diag", "spherical") for k in (1, 2)})
    assert re.match(names("With one component, full and tied are"), same_models(counts, 2))
    one = same_models(counts, 1)
    assert re.match(names("one feature, full, diag and spherical are", "one component, all covariance types are"), one)
    assert same_models(counts[counts["n_components"] == 2], 2) == ""
    assert "feature" not in same_models(counts[counts["n_components"] == 1], 1)


def test_several_groups_of_the_same_models_are_said(monkeypatch):
    monkeypatch.setitem(FAMILIES, "EEI", type("EEI", (Diag,), {"name": "EEI", "structure": "EEI"})())
    table = table_of({(kind, 1): 0.0 for kind in ("full", "diag", "tied", "EEI", "spherical")})
    said = "With one component, full and tied are the same model, and so are diag and EEI."
    assert same_models(table, 2) == said


def test_a_form_keeps_what_else_distinguishes_candidates():
    assert Candidate("full", 1).form(2) == Candidate("tied", 1).form(2) != Candidate("tied", 2).form(2)
    assert Candidate("full", 3).form(2) != Candidate("full", 4).form(2)
    assert Candidate("full", 1, noise=True).form(2) != Candidate("full", 1).form(2)


def test_noise_makes_another_model():
    table = table_of({(kind, k): 0.0 for kind in ("full", "tied") for k in (1, 2)})
    both = pd.concat([table.assign(noise=False), table.assign(noise=True)], ignore_index=True)
    assert [one.kind for one in kinds_of(both)] == ["full", "tied", "full-noise", "tied-noise"]
    found = distinct(both, "bic", 2)
    assert found["also"].tolist() == [["tied-k1"], [], [], ["tied-k1-noise"], [], []]
