"""Compiled loops of the sums over documents (numba)."""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit


@jit()
def sparse_sums(ids, start, token, value, document, n_documents):
    """(sum of x, sum of x^2) by document, (ids, documents), of sparse columns."""
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    for place in range(len(ids)):
        for entry in range(start[ids[place]], start[ids[place] + 1]):
            x = np.float64(value[entry])
            first[place, document[token[entry]]] += x
            second[place, document[token[entry]]] += x * x
    return first, second


@jit()
def dense_sums(ids, dense, document, n_documents):
    """(sum of x, sum of x^2) by document, (ids, documents), of dense columns."""
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    stripes = (len(ids) + 63) // 64
    for stripe in range(stripes):
        for t in range(dense.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids))):
                x = np.float64(dense[t, ids[place]])
                first[place, document[t]] += x
                second[place, document[t]] += x * x
    return first, second


@jit()
def sparse_by_sparse(
    ids_a, ids_b, start_a, token_a, value_a, start_b, token_b, value_b, document, n_documents
):
    """Both token lists ascend: one merge of the two lists a pair."""
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        a, end_a = start_a[ids_a[place]], start_a[ids_a[place] + 1]
        b, end_b = start_b[ids_b[place]], start_b[ids_b[place] + 1]
        while a < end_a and b < end_b:
            if token_a[a] == token_b[b]:
                out[place, document[token_a[a]]] += np.float64(value_a[a]) * np.float64(value_b[b])
                a += 1
                b += 1
            elif token_a[a] < token_b[b]:
                a += 1
            else:
                b += 1
    return out


@jit()
def sparse_by_dense(ids_a, ids_b, start_a, token_a, value_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        for entry in range(start_a[ids_a[place]], start_a[ids_a[place] + 1]):
            t = token_a[entry]
            out[place, document[t]] += np.float64(value_a[entry]) * np.float64(
                dense_b[t, ids_b[place]]
            )
    return out


@jit()
def dense_by_dense(ids_a, ids_b, dense_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    stripes = (len(ids_a) + 63) // 64
    for stripe in range(stripes):
        for t in range(dense_a.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids_a))):
                product = np.float64(dense_a[t, ids_a[place]]) * np.float64(
                    dense_b[t, ids_b[place]]
                )
                out[place, document[t]] += product
    return out
