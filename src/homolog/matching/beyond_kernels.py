"""Compiled loops of what controls explain of features (numba)."""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit


@jit(nogil=True, error_model="numpy")
def shares(x, y, controls, kind, group, half, count, rows, out, change):
    """Explained shares of the features `rows`, and how each group of documents moves them.

    x, y: (start, token, value), sparse columns, entries of a column by ascending token.  controls:
    (start, token, value) of K columns for each feature, feature f's k-th at K f + k.  kind: of each
    token, int32.  group: of each token; half: 0 or 1 of each group.  count: (groups, kinds) tokens.

    out: (features, 3), shares of the variance of x explained by y, by the kinds of tokens, by those
    and the controls.  change: (features, 2 groups), influence of each group on the first less the
    third, then its share of the variance.
    """
    n_groups, n_kinds = count.shape
    size = np.zeros(n_groups)
    of_half = np.zeros((2, n_kinds))
    for g in range(n_groups):
        for s in range(n_kinds):
            size[g] += count[g, s]
            of_half[half[g], s] += count[g, s]
    n_controls = (len(controls[0]) - 1) // (len(x[0]) - 1)
    n = 1 + n_controls
    sums = np.zeros((n, n_groups, n_kinds))
    means = np.zeros((n, 2, n_kinds))
    seen, is_seen = np.empty(n_kinds, np.int64), np.zeros(n_kinds, np.bool_)
    within = np.empty((n_groups, n, n))
    for f in rows:
        # Sums by group and kind of x and of its controls; the kinds that any of them fires on.
        n_seen = 0
        for v in range(n):
            start, token, value = x if v == 0 else controls
            column = f if v == 0 else f * n_controls + v - 1
            for entry in range(start[column], start[column + 1]):
                t = token[entry]
                s = kind[t]
                if not is_seen[s]:
                    is_seen[s] = True
                    seen[n_seen] = s
                    n_seen += 1
                sums[v, group[t], s] += value[entry]
        for v in range(n):
            for place in range(n_seen):
                s = seen[place]
                for h in range(2):
                    means[v, h, s] = 0.0
                for g in range(n_groups):
                    means[v, 1 - half[g], s] += sums[v, g, s]  # predicts the other half
                for h in range(2):
                    means[v, h, s] /= max(1.0, of_half[1 - h, s])
        # Sums of products of what is left when each kind's mean in the other half is taken off.
        for v in range(n):
            for w in range(v + 1):
                for g in range(n_groups):
                    within[g, v, w] = 0.0
                a, b = x if v == 0 else controls, x if w == 0 else controls
                column_a = f if v == 0 else f * n_controls + v - 1
                column_b = f if w == 0 else f * n_controls + w - 1
                add_products(a, column_a, b, column_b, group, within[:, v, w])
                for place in range(n_seen):
                    s = seen[place]
                    for g in range(n_groups):
                        m, q = means[v, half[g], s], means[w, half[g], s]
                        within[g, v, w] += count[g, s] * m * q - m * sums[w, g, s]
                        within[g, v, w] -= q * sums[v, g, s]
                for g in range(n_groups):
                    within[g, w, v] = within[g, v, w]
        line(x, y, f, group, size, out, change)
        explained(within, f, out, change)
        for place in range(n_seen):
            is_seen[seen[place]] = False
            for v in range(n):
                for g in range(n_groups):
                    sums[v, g, seen[place]] = 0.0


@jit(nogil=True, error_model="numpy")
def add_products(a, column_a, b, column_b, group, out):
    """Adds the sum of the products of two columns, by group: one merge of two ascending lists."""
    start_a, token_a, value_a = a
    start_b, token_b, value_b = b
    i, j = start_a[column_a], start_b[column_b]
    while i < start_a[column_a + 1] and j < start_b[column_b + 1]:
        if token_a[i] == token_b[j]:
            out[group[token_a[i]]] += np.float64(value_a[i]) * np.float64(value_b[j])
            i += 1
            j += 1
        elif token_a[i] < token_b[j]:
            i += 1
        else:
            j += 1


@jit(nogil=True, error_model="numpy")
def line(x, y, f, group, size, out, change):
    """Share that the line through y explains; its influence, and the group's share of variance.

    Leaves in `change` the group's sum of squares around the line, negative, over that around the
    mean of all; `explained` adds its own and takes off what follows from the group's variance.
    """
    n_groups = len(size)
    first, second = np.zeros((2, n_groups)), np.zeros((3, n_groups))
    for v in range(2):
        start, token, value = x if v == 0 else y
        for entry in range(start[f], start[f + 1]):
            first[v, group[token[entry]]] += value[entry]
    add_products(x, f, x, f, group, second[0])
    add_products(x, f, y, f, group, second[1])
    add_products(y, f, y, f, group, second[2])
    n = size.sum()
    mean_x, mean_y = first[0].sum() / n, first[1].sum() / n
    xx = second[0] - 2 * mean_x * first[0] + size * mean_x**2
    xy = second[1] - mean_x * first[1] - mean_y * first[0] + size * mean_x * mean_y
    yy = second[2] - 2 * mean_y * first[1] + size * mean_y**2
    total, slope = xx.sum(), xy.sum() / yy.sum()
    left = xx - 2 * slope * xy + slope**2 * yy
    out[f, 0] = 1 - left.sum() / total
    for g in range(n_groups):
        change[f, g] = -left[g] / total
    out[f, 1] = total  # for `explained`
    out[f, 2] = 0.0
    for g in range(n_groups):
        change[f, n_groups + g] = xx[g] / total


@jit(nogil=True, error_model="numpy")
def explained(within, f, out, change):
    """Shares that kinds of tokens, and those with the controls, explain; what groups change."""
    n_groups, n, _ = within.shape
    total, both = out[f, 1], within.sum(axis=0)
    weights = np.zeros(n)
    weights[0] = 1.0
    if n > 1:
        gram = both[1:, 1:].copy()
        for k in range(n - 1):
            gram[k, k] += 1e-9 * gram[k, k] + 1e-30  # a control may repeat another
        weights[1:] = -np.linalg.solve(gram, both[1:, 0].copy())
    out[f, 1] = 1 - both[0, 0] / total
    left = np.zeros(n_groups)
    for g in range(n_groups):
        for v in range(n):
            for w in range(n):
                left[g] += weights[v] * weights[w] * within[g, v, w]
    out[f, 2] = 1 - left.sum() / total
    beyond = out[f, 0] - out[f, 2]
    for g in range(n_groups):
        change[f, g] += left[g] / total - beyond * change[f, n_groups + g]
