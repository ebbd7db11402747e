"""Compiled kernels (numba) of transport problems: what a solve needs of the marginals, in one pass each.

A kernel matrix comes as `factors`, its symmetric factors along the axes of a grid end to end with their `sizes`, or as
one dense matrix `K` (n, m); the other is empty. The NumPy twins are in `warmstart.marginals`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "arcp", "nsz"}  # all but the assumption that there are no NaN and inf
SMALLEST = 1e-300  # a product below it has lost digits


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _dot(a, b):
    s = 0.0
    for i in range(len(a)):
        s += a[i] * b[i]
    return s


@njit(cache=True, fastmath=FAST, error_model="numpy")
def product(factors, sizes, K, v, transposed, out):
    """K v into out, or K' v."""
    if len(sizes) == 0:
        if transposed:
            np.dot(v, K, out)
        else:
            np.dot(K, v, out)
        return
    inside = v.copy()
    at, after = 0, len(v)
    for axis in range(len(sizes)):
        k = sizes[axis]
        after //= k
        F = factors[at : at + k * k].reshape(k, k)
        at += k * k
        if after == 1:
            np.dot(inside.reshape(-1, k), F, out.reshape(-1, k))
            return
        for begin in range(0, len(v), k * after):
            block = slice(begin, begin + k * after)
            np.dot(F, inside[block].reshape(k, after), out[block].reshape(k, after))
        inside[:] = out


@njit(cache=True, fastmath=FAST, error_model="numpy")
def measure(factors, sizes, K, a, b, f, g, epsilon):
    """L1 errors of both marginals, and the semi-dual gain of f over 0 in epsilons; NaN where digits are lost."""
    n, m = len(a), len(b)
    total = mean = 0.0
    for i in range(n):
        total += a[i]
        if a[i] > 0.0:
            mean += a[i] * f[i]
    mean /= total
    top = -np.inf
    for i in range(n):
        if a[i] > 0.0 and f[i] > top:
            top = f[i]
    u, v, ones = np.zeros(n), np.zeros(m), np.zeros(n)
    for i in range(n):
        if a[i] > 0.0:
            u[i], ones[i] = math.exp((f[i] - top) / epsilon), 1.0
    for j in range(m):
        if b[j] > 0.0:
            v[j] = math.exp((g[j] + top) / epsilon)
    Kv, Ku, cold = np.empty(n), np.empty(m), np.empty(m)
    product(factors, sizes, K, v, False, Kv)
    product(factors, sizes, K, u, True, Ku)
    product(factors, sizes, K, ones, True, cold)
    rows = columns = gain = 0.0
    for i in range(n):
        rows += abs(u[i] * Kv[i] - a[i])
    for j in range(m):
        columns += abs(v[j] * Ku[j] - b[j])
        if b[j] > 0.0:
            if not (Ku[j] > SMALLEST and cold[j] > SMALLEST):
                return np.nan, np.nan, np.nan
            gain += b[j] * math.log(cold[j] / Ku[j])
    return rows, columns, gain + (mean - top) * total / epsilon


@njit(cache=True, fastmath=FAST, error_model="numpy")
def complete(factors, sizes, K, a, b, phi, epsilon, f, g):
    """f (n,) = epsilon (phi + log a), centred by a, and g (m,) by its c-transform; False where digits are lost."""
    n, m = len(a), len(b)
    total = mean = 0.0
    for i in range(n):
        f[i] = 0.0
        if a[i] > 0.0:
            f[i] = epsilon * (phi[i] + math.log(a[i]))
            total += a[i]
            mean += a[i] * f[i]
    mean /= total
    top = -np.inf
    for i in range(n):
        if a[i] > 0.0:
            f[i] -= mean
            top = max(top, f[i])
    u = np.zeros(n)
    for i in range(n):
        if a[i] > 0.0:
            u[i] = math.exp((f[i] - top) / epsilon)
    product(factors, sizes, K, u, True, g)
    fine = abs(top) < np.inf
    for j in range(m):
        if b[j] > 0.0:
            fine &= g[j] > SMALLEST
            g[j] = epsilon * math.log(b[j] / g[j]) - top
        else:
            g[j] = 0.0
    return fine


@njit(cache=True, fastmath=FAST, error_model="numpy")
def check(a, b, balance):
    """Whether masses are finite, not negative, and balanced; b is then scaled to a's total, as far as it differs."""
    fine, total_a, total_b = True, 0.0, 0.0
    for i in range(len(a)):
        fine &= (a[i] >= 0.0) & (a[i] < np.inf)
        total_a += a[i]
    for j in range(len(b)):
        fine &= (b[j] >= 0.0) & (b[j] < np.inf)
        total_b += b[j]
    largest = max(total_a, total_b)
    fine &= (largest < np.inf) & (min(total_a, total_b) > 0.0) & (abs(total_a - total_b) <= balance * largest)
    if fine and total_a != total_b:
        for j in range(len(b)):
            b[j] *= total_a / total_b
    return fine


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _layer(weights, x, out):
    """out = weights @ x."""
    for i in range(len(out)):
        s = np.float32(0.0)
        row = weights[i]
        for k in range(len(x)):
            s += row[k] * x[k]
        out[i] = s


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _silu(x, bias):
    """x = silu(x + bias)."""
    for i in range(len(x)):
        v = x[i] + bias[i]
        x[i] = v / (np.float32(1.0) + math.exp(min(-v, np.float32(80.0))))


@njit(cache=True, fastmath=FAST, error_model="numpy")
def predict(context, project, weights1, bias1, weights2, bias2, weights3, bias3, basis, offset, out):
    """What `warmstart.predictors.Network` gives for a context (d,)."""
    k, size = project.shape
    x, inputs = np.empty(len(context), np.float32), np.empty(len(context) // size * k, np.float32)
    for i in range(len(context)):
        x[i] = context[i]
    for block in range(len(context) // size):
        _layer(project, x[block * size : (block + 1) * size], inputs[block * k : (block + 1) * k])
    h1, h2 = np.empty(len(bias1), np.float32), np.empty(len(bias2), np.float32)
    _layer(weights1, inputs, h1)
    _silu(h1, bias1)
    _layer(weights2, h1, h2)
    _silu(h2, bias2)
    latent, values = np.empty(len(bias3), np.float32), np.empty(len(out), np.float32)
    _layer(weights3, h2, latent)
    for i in range(len(latent)):
        latent[i] += bias3[i]
    _layer(basis, latent, values)
    for i in range(len(out)):
        out[i] = offset[i] + values[i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _relax(x, target, Kx, w):
    """x = (target / Kx)^w x^(1 - w) where the target has mass; False where digits are lost."""
    fine = True
    for i in range(len(x)):
        if target[i] > 0.0:
            fine &= Kx[i] > SMALLEST
            new = target[i] / Kx[i]
            x[i] = new if w == 1.0 else x[i] * math.exp(w * math.log(new / x[i]))
    return fine


@njit(cache=True, fastmath=FAST, error_model="numpy")
def sweep(factors, sizes, K, a, b, phi, epsilon, steps, plain, omega, tol, f, g):
    """Complete phi to f and g, as `complete`, and take up to `steps` Sinkhorn iterations until `tol` is met.

    The first `plain` ones are not relaxed, the others by `omega`. Returns the iterations, negative where digits are
    lost, and the numbers of `measure`; no gain where `tol` is met.
    """
    n, m = len(a), len(b)
    top = -np.inf
    for i in range(n):
        if a[i] > 0.0:
            top = max(top, phi[i])
    u, v, Kv, Ku = np.zeros(n), np.zeros(m), np.empty(n), np.empty(m)
    for i in range(n):
        if a[i] > 0.0:
            u[i] = a[i] * math.exp(phi[i] - top)
    product(factors, sizes, K, u, True, Ku)
    fine = (abs(top) < np.inf) & _relax(v, b, Ku, 1.0)
    product(factors, sizes, K, v, False, Kv)
    done = 0
    while True:
        rows = columns = 0.0
        for i in range(n):
            rows += abs(u[i] * Kv[i] - a[i])
        for j in range(m):
            columns += abs(v[j] * Ku[j] - b[j])
        if not (fine and rows + columns < np.inf):
            return -1, 0.0, 0.0, 0.0
        if max(rows, columns) <= tol or done == steps:
            break
        w = 1.0 if done < plain else omega
        fine = _relax(u, a, Kv, w)
        product(factors, sizes, K, u, True, Ku)
        fine &= _relax(v, b, Ku, w)
        product(factors, sizes, K, v, False, Kv)
        done += 1
    for i in range(n):
        fine &= (u[i] > 0.0) | (a[i] == 0.0)
    for j in range(m):
        fine &= (v[j] > 0.0) | (b[j] == 0.0)
    if not fine:
        return -1, 0.0, 0.0, 0.0
    total = mean = 0.0
    for i in range(n):
        f[i] = 0.0
        total += a[i]
        if a[i] > 0.0:
            f[i] = epsilon * math.log(u[i])
            mean += a[i] * f[i]
    mean /= total
    for i in range(n):
        if a[i] > 0.0:
            f[i] -= mean
    for j in range(m):
        g[j] = 0.0
        if b[j] > 0.0:
            g[j] = epsilon * math.log(v[j]) + mean
    gain = 0.0
    if max(rows, columns) > tol:
        for i in range(n):
            Kv[i] = 1.0 if a[i] > 0.0 else 0.0
        product(factors, sizes, K, Kv, True, v)
        gain = mean * total / epsilon
        for j in range(m):
            if b[j] > 0.0:
                gain += b[j] * math.log(v[j] / Ku[j])
    return done, rows, columns, gain


@njit(cache=True, fastmath=FAST, error_model="numpy")
def arrive(
    data,
    n,
    balance,
    mean,
    scale,
    basis,
    spread,
    limits,
    net,
    factors,
    sizes,
    K,
    epsilon,
    steps,
    plain,
    omega,
    tol,
    f,
    g,
):
    """Check masses, locate them, predict, complete, take the first iterations and measure, in one call.

    `data` holds a (n,) and b (m,), which become their checked values; f and g are filled. Returns what stands in the
    way (0: nothing, -1: something to be explained, -3: out of range), the score, and the numbers of `sweep`.
    """
    a, b = data[:n], data[n:]
    if not check(a, b, balance):
        return -1, 0.0, (0, 0.0, 0.0, 0.0)
    d, square, inside, along = len(data), 0.0, 0.0, 0.0
    context = np.empty(d)
    for i in range(d):
        context[i] = (data[i] - mean[i]) / scale[i]
        square += context[i] * context[i]
    for k in range(len(spread)):
        t = _dot(basis[k], context)
        along += t * t
        inside += (t / spread[k]) ** 2
    score = math.sqrt(inside / len(spread)) / limits[0]
    if d > len(spread):
        score = max(score, math.sqrt(max(square - along, 0.0) / (d - len(spread))) / limits[1])
    if not score <= 1.0:
        return -3, score, (0, 0.0, 0.0, 0.0)
    phi = np.empty(n)
    project, weights1, bias1, weights2, bias2, weights3, bias3, decode, offset = net
    predict(context, project, weights1, bias1, weights2, bias2, weights3, bias3, decode, offset, phi)
    found = sweep(factors, sizes, K, a, b, phi, epsilon, steps, plain, omega, tol, f, g)
    return (0 if found[0] >= 0 else -1), score, found
