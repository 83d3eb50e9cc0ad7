"""Row outputs are values: whatever knows them derives from one table."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_dask.passes import row_outputs
from gmm_dask.passes.row_outputs import KERNEL_OUTPUTS, RowOutput, empty_outputs, kernel_inputs, row_bytes

UNCERTAINTY = RowOutput(
    name="uncertainty",
    dtype=np.dtype(np.float64),
    stored_dtype=np.dtype(np.float32),
    fill_value=np.nan,
    long_name="probability of another component",
    inputs=("responsibility",),
)


@pytest.fixture
def uncertainty(monkeypatch):
    monkeypatch.setitem(row_outputs.ROW_OUTPUTS, "uncertainty", UNCERTAINTY)


def test_bytes_and_fill_values(uncertainty):
    assert kernel_inputs(["uncertainty", "label"]) == ("label", "responsibility")
    assert row_bytes(["uncertainty"], 5, 7) == 8 + 8 * 5
    assert row_bytes(["label", "log_density"], 5, 7) == 16
    assert row_bytes(["imputed"], 5, 7) == 2 * 8 * 7 + 8 * 5
    empty = empty_outputs(["label", "responsibility", "uncertainty"], 4, 3, noise=False)
    assert {name: values.shape for name, values in empty.items()} == {
        "label": (4,),
        "responsibility": (4, 3),
        "uncertainty": (4,),
    }
    assert empty["label"].tolist() == [-1] * 4
    assert np.isnan(empty["uncertainty"]).all()
    assert empty_outputs(["label"], 2, 3, noise=True)["label"].tolist() == [-2, -2]  # -1 is the noise


def test_the_kernels_compute_what_has_no_inputs():
    assert [output.name for output in KERNEL_OUTPUTS] == ["label", "log_density", "responsibility"]
