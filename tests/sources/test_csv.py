"""CSV files as spreadsheets, instruments and people write them."""

from pathlib import Path

import numpy as np
import pytest

from gmm_dask import UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.sources import open_source

ROWS = np.round(np.random.default_rng(0).normal(size=(40, 2)), 3)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def source(text, **options):
    Path("x.csv").write_bytes(text.encode())
    return open_source(DataConfig(source="x.csv", **options))


def lines(rows=ROWS, end="\n"):
    return "".join(f"{a},{b}{end}" for a, b in rows)


@pytest.mark.parametrize("commas", [1, 3])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_comma_at_the_end_of_each_line(commas, end):
    opened = source(f"a,b{commas * ','}{end}{lines(end=commas * ',' + end)}")
    assert opened.columns == ("a", "b")
    assert any("without a name" in note for note in opened.notes)
    np.testing.assert_array_equal(opened.array.compute(), ROWS)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 40])
@pytest.mark.parametrize("seed", range(3))
def test_blank_lines_are_no_rows(end, chunk_rows, seed):
    rng = np.random.default_rng(seed)
    text = "".join(f"{a},{b}{end}{end * rng.integers(0, 3)}" for a, b in ROWS) + end * rng.integers(0, 3)
    opened = source(f"a,b{end}{end * rng.integers(0, 3)}{text}", chunk_rows=chunk_rows)
    blocks = [np.asarray(block.compute()) for block in opened.array.blocks]
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)
    assert opened.first_rows() == tuple(np.cumsum([0, *map(len, blocks[:-1])]))


def test_a_last_line_without_an_end(monkeypatch):
    opened = source("a,b\n" + lines().rstrip("\n"), chunk_rows=9)
    assert sum(len(block.compute()) for block in opened.array.blocks) == 40
    assert opened.first_rows()[-1] < 40


# -- line breaks within quotes ------------------------------------------------------------------------------------


def commented(comment, at=5):
    return "id,comment,a,b\n" + "".join(
        f'{i},"{comment if i == at else "plain"}",{a},{b}\n' for i, (a, b) in enumerate(ROWS)
    )


@pytest.mark.parametrize("comment", ["one\ntwo", "\n", 'a ""quote""\n, and more', "one\r\ntwo\r\nthree"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 40])
@pytest.mark.parametrize("beyond", [False, True])
def test_line_breaks_within_quotes_are_refused_at_the_first(comment, chunk_rows, beyond, monkeypatch):
    if beyond:
        monkeypatch.setattr("pipeline.sources.formats.csv.SAMPLE_BYTES", 60)
    with pytest.raises(
        UserError, match=names("x.csv", "line break", "quotes", ("line 7", "line 8", "line 9"), "Parquet")
    ):
        source(commented(comment), chunk_rows=chunk_rows, columns=["a", "b"]).array.compute()


@pytest.mark.parametrize("comment", ["plain", 'a ""quote""', "a, b", '""', ""])
def test_quotes_without_line_breaks_are_read(comment):
    opened = source(commented(comment), chunk_rows=7, columns=["a", "b"])
    np.testing.assert_array_equal(opened.array.compute(), ROWS)


def test_quotes_within_a_field_are_read():
    text = "size,a\n" + '5" pipe,1\n' * 3 + 'a "b" c,2\n'
    np.testing.assert_array_equal(source(text, columns=["a"]).array.compute()[:, 0], [1, 1, 1, 2])


# -- cells that are no numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["oops", "1,5", "12%", "--", "#REF!", "1.2.3"])
@pytest.mark.parametrize("beyond", [False, True])
@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_a_cell_that_is_no_number_is_named(cell, beyond, blank, monkeypatch):
    if beyond:
        monkeypatch.setattr("pipeline.sources.formats.csv.SAMPLE_BYTES", 60)
    text = "a,b\n" + blank + lines(ROWS[:20]) + f'1,"{cell}"\n' + lines(ROWS[20:])
    line = 22 + len(blank)
    with pytest.raises(UserError, match=names("x.csv", "'b'", f"'{cell}'", f"line {line}", "data.columns")):
        source(text, chunk_rows=15).array.compute()
    assert source(text, columns=["a"]).array.compute().shape == (41, 1)


@pytest.mark.parametrize("cell", ["", "NA", "NaN", "null", "#N/A"])
def test_missing_values_are_missing(cell):
    found = source(f"a,b\n1,2\n3,{cell}\n").array.compute()
    np.testing.assert_array_equal(found, [[1, 2], [3, np.nan]])


def test_text_is_left_out_with_a_note():
    opened = source("a,place,b\n1,A1,2\n2,7,3\n3,B2,4\n4,C,5\n")
    assert opened.columns == ("a", "b")
    assert any("place" in note for note in opened.notes)
