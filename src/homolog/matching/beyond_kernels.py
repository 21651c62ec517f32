"""Compiled loops of what controls explain of features (numba)."""

from __future__ import annotations

import numpy as np

from homolog.compiled import jit


@jit(nogil=True, error_model="numpy")
def shares(x, y, controls, tokens, counts, rows, out, change):
    """Explained shares of the features `rows`, and how each group of documents moves them.

    x, y: (start, token, value), sparse columns, entries of a column by ascending token.  controls:
    (start, token, value) of K columns for each feature, feature f's k-th at K f + k.  tokens: kind
    and group of each, int32.  counts: tokens of each group and kind; of each group; of all others
    by kind; and of all others (tokens, sum of their squares by kind, number of kinds).

    out: (features, 3), shares of the variance of x explained by y, by the kinds of tokens, by those
    and the controls.  change: (features, groups), influence of each group on the first less the
    third.
    """
    kind, group = tokens
    count, size, others, of_others = counts
    n_groups, n_kinds = count.shape
    n = 1 + (len(controls[0]) - 1) // (len(x[0]) - 1)
    sums = np.zeros((n, n_groups, n_kinds))
    means = np.zeros((n, n_groups, n_kinds))
    seen, is_seen = np.empty(n_kinds, np.int64), np.zeros(n_kinds, np.bool_)
    within = np.empty((n_groups, n, n))
    square, spread = np.empty(n_groups), np.empty(n_groups)
    left, left_y, left_controls = np.empty((n, n_groups)), np.empty(n_groups), np.empty(n_groups)
    for f in rows:
        n_seen = 0
        for v in range(n):
            a, column = (x, f) if v == 0 else (controls, f * (n - 1) + v - 1)
            n_seen = add_sums(a, column, kind, group, sums[v], seen, is_seen, n_seen)
        here = seen[:n_seen]
        for v in range(n):
            a, column = (x, f) if v == 0 else (controls, f * (n - 1) + v - 1)
            square[:] = 0.0
            add_products(a, column, a, column, group, square)
            predict(sums[v], square, here, others, of_others, means[v])
        what_is_left(sums, means, here, count, left)
        for v in range(n):
            for w in range(v + 1):
                within[:, v, w] = 0.0
                a, column_a = (x, f) if v == 0 else (controls, f * (n - 1) + v - 1)
                b, column_b = (x, f) if w == 0 else (controls, f * (n - 1) + w - 1)
                add_products(a, column_a, b, column_b, group, within[:, v, w])
                about_means(sums, means, here, count, size, left, v, w, within)
        total = line(x, y, f, group, size, spread, left_y)
        out[f, 0] = 1 - left_y.sum() / total
        out[f, 1] = 1 - within[:, 0, 0].sum() / total
        explain(within, left_controls)
        out[f, 2] = 1 - left_controls.sum() / total
        beyond = out[f, 0] - out[f, 2]
        for g in range(n_groups):
            moved = left_controls[g] / total - beyond * (spread[g] / total)
            change[f, g] = -left_y[g] / total + moved
        for place in range(n_seen):
            is_seen[here[place]] = False
            sums[:, :, here[place]] = 0.0


@jit(nogil=True, error_model="numpy")
def add_sums(a, column, kind, group, sums, seen, is_seen, n_seen):
    """Adds a column by group and kind, and the kinds on which it fires to those that are seen."""
    start, token, value = a
    for entry in range(start[column], start[column + 1]):
        t = token[entry]
        s = kind[t]
        if not is_seen[s]:
            is_seen[s] = True
            seen[n_seen] = s
            n_seen += 1
        sums[group[t], s] += value[entry]
    return n_seen


@jit(nogil=True, error_model="numpy")
def what_is_left(sums, means, seen, count, out):
    """Sums of each column and group when what the other groups predict is taken off."""
    for v in range(len(sums)):
        for g in range(len(count)):
            out[v, g] = 0.0
            for place in range(len(seen)):
                s = seen[place]
                out[v, g] += sums[v, g, s] - count[g, s] * means[v, g, s]


@jit(nogil=True, error_model="numpy")
def about_means(sums, means, seen, count, size, left, v, w, within):
    """Sums of products of columns v and w become those of what is left, about its mean of all."""
    n_groups = len(count)
    for place in range(len(seen)):
        s = seen[place]
        for g in range(n_groups):
            m, q = means[v, g, s], means[w, g, s]
            within[g, v, w] += count[g, s] * m * q - m * sums[w, g, s]
            within[g, v, w] -= q * sums[v, g, s]
    mean_v, mean_w = left[v].sum() / size.sum(), left[w].sum() / size.sum()
    for g in range(n_groups):
        within[g, v, w] += size[g] * mean_v * mean_w
        within[g, v, w] -= mean_v * left[w, g] + mean_w * left[v, g]
        within[g, w, v] = within[g, v, w]


@jit(nogil=True, error_model="numpy")
def predict(sums, square, seen, others, of_others, out):
    """What all other groups of documents predict in each of a column, by kind of token.

    sums: (groups, kinds).  square: sum of the squares of each group.  seen: kinds on which the
    column may fire.  others, of_others: what `shares` says.  out: (groups, kinds), means for the
    group in which they predict, shrunk as the noise in them asks for; other kinds stay as they are.
    """
    n_groups, squares = len(square), square.sum()
    for place in range(len(seen)):
        s = seen[place]
        of_all = sums[:, s].sum()
        for g in range(n_groups):
            out[g, s] = of_all - sums[g, s]
    for g in range(n_groups):
        tokens, tokens_squared, kinds = of_others[g]
        total, between = 0.0, 0.0
        for place in range(len(seen)):
            s = seen[place]
            total += out[g, s]
            out[g, s] /= max(1.0, others[g, s])
            between += others[g, s] * out[g, s] ** 2
        mean = total / max(1.0, tokens)
        noise = (squares - square[g] - between) / max(1.0, tokens - kinds)
        between -= tokens * mean**2  # kinds on which it does not fire have a mean of 0
        spread = between - (kinds - 1) * noise
        spread /= max(1.0, tokens - tokens_squared / max(1.0, tokens))
        for place in range(len(seen)):
            s = seen[place]
            weight = 0.0
            if spread > 0 and others[g, s] > 0:
                weight = others[g, s] / (others[g, s] + noise / spread)
            out[g, s] *= weight


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
def line(x, y, f, group, size, spread, left):
    """Sum of squares of x about its mean; by group in `spread`, and about the line through y in
    `left`.
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
    slope = xy.sum() / yy.sum()
    spread[:] = xx
    left[:] = xx - 2 * slope * xy + slope**2 * yy
    return xx.sum()


@jit(nogil=True, error_model="numpy")
def explain(within, left):
    """Sum of squares of x that the best combination of controls leaves, by group."""
    n_groups, n, _ = within.shape
    both = within.sum(axis=0)
    weights = np.zeros(n)
    weights[0] = 1.0
    if n > 1:
        gram = both[1:, 1:].copy()
        for k in range(n - 1):
            gram[k, k] += 1e-9 * gram[k, k] + 1e-30  # a control may repeat another
        weights[1:] = -np.linalg.solve(gram, both[1:, 0].copy())
    for g in range(n_groups):
        left[g] = 0.0
        for v in range(n):
            for w in range(n):
                left[g] += weights[v] * weights[w] * within[g, v, w]
