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
    square, left = np.empty(n_groups), np.empty((n, n_groups))
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
            a, column = (x, f) if v == 0 else (controls, f * n_controls + v - 1)
            square[:] = 0.0
            add_products(a, column, a, column, group, square)
            predict(sums[v], square, seen[:n_seen], half, of_half, means[v])
        # Sums, and of products, of what is left when that is taken off; then about the mean of all.
        for v in range(n):
            for g in range(n_groups):
                left[v, g] = 0.0
                for place in range(n_seen):
                    s = seen[place]
                    left[v, g] += sums[v, g, s] - count[g, s] * means[v, half[g], s]
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
                mean_v, mean_w = left[v].sum() / size.sum(), left[w].sum() / size.sum()
                for g in range(n_groups):
                    within[g, v, w] += size[g] * mean_v * mean_w
                    within[g, v, w] -= mean_v * left[w, g] + mean_w * left[v, g]
                    within[g, w, v] = within[g, v, w]
        line(x, y, f, group, size, out, change)
        explained(within, f, out, change)
        for place in range(n_seen):
            is_seen[seen[place]] = False
            for v in range(n):
                for g in range(n_groups):
                    sums[v, g, seen[place]] = 0.0


@jit(nogil=True, error_model="numpy")
def predict(sums, square, seen, half, of_half, out):
    """What each half of the documents predicts in the other of a column, by kind of token.

    sums: (groups, kinds).  square: sum of the squares of each group.  seen: kinds on which the
    column may fire.  of_half: (2, kinds) tokens.  out: (2, kinds), means for the half in which they
    predict, shrunk as the noise in them asks for; other kinds stay as they are.
    """
    n_kinds = of_half.shape[1]
    for h in range(2):
        total, squares, tokens, tokens_squared, kinds = 0.0, 0.0, 0.0, 0.0, 0
        for s in range(n_kinds):
            tokens += of_half[1 - h, s]
            tokens_squared += of_half[1 - h, s] ** 2
            kinds += of_half[1 - h, s] > 0
        for place in range(len(seen)):
            out[h, seen[place]] = 0.0
        for g in range(len(half)):
            if half[g] != h:
                squares += square[g]
                for place in range(len(seen)):
                    out[h, seen[place]] += sums[g, seen[place]]
        between = 0.0
        for place in range(len(seen)):
            s = seen[place]
            total += out[h, s]
            out[h, s] /= max(1.0, of_half[1 - h, s])
            between += of_half[1 - h, s] * out[h, s] ** 2
        mean = total / max(1.0, tokens)
        noise = (squares - between) / max(1.0, tokens - kinds)
        between -= tokens * mean**2  # kinds on which it does not fire have a mean of 0
        spread = between - (kinds - 1) * noise
        spread /= max(1.0, tokens - tokens_squared / max(1.0, tokens))
        for place in range(len(seen)):
            s = seen[place]
            weight = 0.0
            if spread > 0 and of_half[1 - h, s] > 0:
                weight = of_half[1 - h, s] / (of_half[1 - h, s] + noise / spread)
            out[h, s] *= weight


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
