"""The rows of a chunk by pattern: which of their values are there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import compiled, compiled_part

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

# bits of a word
BITS = 64


@compiled
def sort_by_pattern(rows: NDArray[Any]) -> tuple[Positions, Positions, Positions]:
    """Sort the rows of a chunk that lack values, in linear time; a value that is not finite is missing.

    Returns
    -------
    complete : ndarray of int64
        Positions of the rows that lack none.
    positions : ndarray of int64
        Those of the others, pattern by pattern, in the order in which the patterns and their rows first come.
    starts : ndarray of int64, shape (n_patterns + 1,)
        Where each pattern begins among the positions, and where the last one ends.
    """
    n_rows, d = rows.shape
    n_words = -(-d // BITS)
    numbers, words = np.empty(n_rows, np.int64), np.empty(n_words, np.uint64)
    # an open hash table of the patterns so far, each with its words and its hash
    table, known, codes, n_patterns = _empty_table(64), np.empty((32, n_words), np.uint64), np.empty(32, np.uint64), 0
    n_complete = 0
    for i in range(n_rows):
        n_present = 0
        for w in range(n_words):
            words[w] = np.uint64(0)
            for a in range(w * BITS, min(d, (w + 1) * BITS)):
                if np.isfinite(rows[i, a]):
                    words[w] |= np.uint64(1) << np.uint64(a - w * BITS)
                    n_present += 1
        if n_present == d:
            numbers[i] = -1
            n_complete += 1
            continue
        code = _hash(words)
        slot = _slot(words, code, table, known)
        if table[slot] < 0:
            if n_patterns == len(known):
                known, codes, table = _grown(known, codes)
                slot = _slot(words, code, table, known)
            for w in range(n_words):
                known[n_patterns, w] = words[w]
            codes[n_patterns] = code
            table[slot] = n_patterns
            n_patterns += 1
        numbers[i] = table[slot]
    return _sorted(numbers, n_complete, n_patterns)


@compiled_part
def _empty_table(size: int) -> Positions:
    table = np.empty(size, np.int64)
    for i in range(size):
        table[i] = -1
    return table


@compiled_part
def _hash(words: Words) -> np.uint64:
    """A hash of a pattern: products with an odd number move bits up, and shifts bring them back."""
    code = np.uint64(0)
    for w in range(len(words)):
        code = (code ^ words[w]) * np.uint64(0x9E3779B97F4A7C15)
        code ^= code >> np.uint64(29)
    return code


@compiled_part
def _slot(words: Words, code: np.uint64, table: Positions, known: NDArray[np.uint64]) -> int:
    """Where a pattern is in the table, or where it belongs."""
    mask = len(table) - 1
    slot = np.int64(code & np.uint64(mask))
    while table[slot] >= 0:
        same = True
        for w in range(len(words)):
            same &= known[table[slot], w] == words[w]
        if same:
            break
        slot = (slot + 1) & mask
    return int(slot)


@compiled_part
def _grown(known: NDArray[np.uint64], codes: Words) -> tuple[NDArray[np.uint64], Words, Positions]:
    """Twice the memory for patterns, and a table in which those so far are."""
    n, n_words = known.shape
    more, more_codes, table = np.empty((2 * n, n_words), np.uint64), np.empty(2 * n, np.uint64), _empty_table(4 * n)
    for p in range(n):
        more_codes[p] = codes[p]
        for w in range(n_words):
            more[p, w] = known[p, w]
        slot = np.int64(codes[p] & np.uint64(len(table) - 1))
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = p
    return more, more_codes, table


@compiled_part
def _sorted(numbers: Positions, n_complete: int, n_patterns: int) -> tuple[Positions, Positions, Positions]:
    """Positions by number; -1 stands for complete rows."""
    starts = np.zeros(n_patterns + 1, np.int64)
    for i in range(len(numbers)):
        if numbers[i] >= 0:
            starts[numbers[i] + 1] += 1
    for p in range(n_patterns):
        starts[p + 1] += starts[p]
    complete, positions = np.empty(n_complete, np.int64), np.empty(len(numbers) - n_complete, np.int64)
    free, n = starts.copy(), 0
    for i in range(len(numbers)):
        if numbers[i] < 0:
            complete[n] = i
            n += 1
        else:
            positions[free[numbers[i]]] = i
            free[numbers[i]] += 1
    return complete, positions, starts
