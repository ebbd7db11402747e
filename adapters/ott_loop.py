"""OTT's Sinkhorn as one compiled function: tolerance, start, relaxation and budget are data, only shapes compile anew.

The loop, the updates, momentum and Anderson acceleration are OTT's own (`ott.solvers.linear.sinkhorn`). What is ours
are leaves that OTT lets a caller replace: kernels that are applied as they are stored, a stop test on both marginals,
and a grid that takes atoms without mass. Atoms without mass have f or g 0 outside, -inf inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_pytree_node_class
from ott.geometry import costs, geometry, grid, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration
from ott.solvers.linear import sinkhorn as ott_sinkhorn

from warmstart.transport import Ground, Transport

SINGLE_RANGE = 40.0  # largest |cost| over epsilon up to which float32 holds exp(-cost / epsilon)
CAPACITY = 500  # iterations of one call at most: the fixed length of OTT's list of errors
STATIC = ("n", "m", "mode", "inner", "anderson", "resume", "capacity")


@register_pytree_node_class
class Geodesic(costs.CostFn):
    """Great-circle distance of unit vectors; OTT's `Arccos` is the arc-cosine kernel of Cho and Saul, another cost."""

    def __call__(self, x: Any, y: Any) -> Any:
        """The distance of two points, in radians."""
        return 2.0 * jnp.arctan2(jnp.linalg.norm(x - y), jnp.linalg.norm(x + y))


OTT_COSTS = {"sqeuclidean": costs.SqEuclidean(), "euclidean": costs.Euclidean(), "arccos": Geodesic()}


@register_pytree_node_class
class Kernel(geometry.Geometry):
    """A dense kernel applied as it is stored; OTT's own raises it to a power at every product."""

    def apply_kernel(self, vec: Any, eps: Any = None, axis: int = 0) -> Any:
        """K v or K' v."""
        K: Any = self._kernel_matrix
        return K @ vec if axis == 1 else vec @ K


@register_pytree_node_class
class Factors(geometry.Geometry):
    """The kernel of a grid as one symmetric factor for every axis; OTT's Grid computes them anew at every product."""

    def __init__(self, factors: tuple[Any, ...], epsilon: Any) -> None:
        super().__init__(epsilon=epsilon)
        self.factors = factors

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        n = int(np.prod([factor.shape[0] for factor in self.factors]))
        return n, n

    @property
    def dtype(self) -> Any:
        """Of the factors."""
        return self.factors[0].dtype

    def apply_kernel(self, vec: Any, eps: Any = None, axis: int = 0) -> Any:
        """K v, which is K' v."""
        sizes = [factor.shape[0] for factor in self.factors]
        out = (self.factors[0] @ vec.reshape(sizes[0], -1)).reshape(sizes)
        for i, factor in enumerate(self.factors[1:], start=1):
            out = jnp.moveaxis(jnp.tensordot(out, factor, axes=(i, 0)), -1, i)
        return out.ravel()

    def tree_flatten(self) -> tuple[Any, Any]:
        """Children and static data."""
        return (self.factors, self._epsilon_init), None

    @classmethod
    def tree_unflatten(cls, aux_data: Any, children: Any) -> Factors:
        """The inverse."""
        return cls(*children)


@register_pytree_node_class
class LogGrid(grid.Grid):
    """OTT's Grid, but -inf in the potential that only stabilises does not reach the other axes."""

    def __init__(self, matrices: tuple[Any, ...], epsilon: Any) -> None:
        super().__init__(x=tuple(matrix[0] for matrix in matrices), epsilon=epsilon)
        self.matrices = matrices

    @property
    def geometries(self) -> list[geometry.Geometry]:
        """One geometry for every axis."""
        return [geometry.Geometry(matrix, epsilon=self._epsilon_init) for matrix in self.matrices]

    def apply_lse_kernel(self, f: Any, g: Any, eps: Any, vec: Any = None, axis: int = 0) -> Any:
        """As OTT's."""
        f, g = (_finite(f), g) if axis == 1 else (f, _finite(g))
        return super().apply_lse_kernel(f, g, eps, vec, axis)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Children and static data."""
        return (self.matrices, self._epsilon_init), None

    @classmethod
    def tree_unflatten(cls, aux_data: Any, children: Any) -> LogGrid:
        """The inverse."""
        return cls(*children)


class BothMarginals(ott_sinkhorn.SinkhornState):
    """OTT's state with a stop test on both marginals: with over-relaxation neither is exact."""

    def solution_error(self, ot_prob: Any, norm_error: Any, *, lse_mode: bool, **_: Any) -> Any:
        """(1,) The larger L1 error."""
        geom = ot_prob.geom
        marginal = geom.marginal_from_potentials if lse_mode else geom.marginal_from_scalings
        rows = jnp.sum(jnp.abs(marginal(self.fu, self.gv, axis=1) - ot_prob.a))
        columns = jnp.sum(jnp.abs(marginal(self.fu, self.gv, axis=0) - ot_prob.b))
        return jnp.maximum(rows, columns)[None]


class Relaxation(acceleration.Momentum):
    """OTT's over-relaxation after some plain iterations; powers by exp and log, which XLA makes vector instructions."""

    def weight(self, state: Any, iteration: Any) -> Any:
        """The relaxation of one iteration."""
        plain, omega = self.value
        return jnp.where(iteration < plain, 1.0, omega)

    def __call__(self, weight: Any, value: Any, new_value: Any, lse_mode: bool = True) -> Any:
        """The relaxed value."""
        if lse_mode:
            return super().__call__(weight, value, new_value, lse_mode)
        value = jnp.where(value > 0, value, 1.0)  # as OTT's: an underflow is no trap to stay in
        return value * jnp.exp(weight * jnp.log(new_value / value))


class Sinkhorn(ott_sinkhorn.Sinkhorn):
    """OTT's Sinkhorn with a budget that is data, and both marginals in its stop test where they are asked for."""

    def __init__(self, budget: Any, both: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.budget, self.both = budget, both

    def init_state(self, ot_prob: Any, init: Any) -> Any:
        """As OTT's."""
        state = super().init_state(ot_prob, init)
        return BothMarginals(*state) if self.both else state

    def _continue(self, state: Any, iteration: Any) -> Any:
        return super()._continue(state, iteration) & (iteration < self.budget)


def geometry_arrays(ground: Ground, domain: str, precision: int = 64) -> tuple[str, tuple[Any, ...]]:
    """The mode of the compiled function, and its arrays on the device.

    `domain`: "kernel" for scalings where they are safe, else and for "log" potentials; "stock" for OTT's own geometry.
    `precision`: 64 or 32 bits of the floats that the function computes with.
    """
    arrays: tuple[Any, ...]
    safe = ground.scales if precision == 64 else ground.spans <= SINGLE_RANGE
    if domain == "stock":
        mode, arrays = "stock", (ground.matrix(),)
        if ground.kind == "points":
            mode, arrays = f"stock {ground.metric}", (ground.arrays["x"], ground.arrays["y"])
    elif domain == "kernel" and safe:
        mode, arrays = ("factors" if ground.kind == "grid" else "kernel"), ground.kernels
    else:
        mode, arrays = ("grid" if ground.kind == "grid" else "log"), ground.costs
    dtype = np.float64 if precision == 64 else np.float32
    with jax.enable_x64(precision == 64):
        return mode, tuple(jax.device_put(array.astype(dtype)) for array in arrays)


def _geometry(mode: str, arrays: tuple[Any, ...], epsilon: Any) -> geometry.Geometry:
    if mode == "kernel":
        return Kernel(kernel_matrix=arrays[0], epsilon=epsilon)
    if mode == "factors":
        return Factors(arrays, epsilon)
    if mode == "grid":
        return LogGrid(arrays, epsilon)
    if len(arrays) == 2:
        return pointcloud.PointCloud(*arrays, cost_fn=OTT_COSTS[mode.split()[1]], epsilon=epsilon)
    return geometry.Geometry(arrays[0], epsilon=epsilon)


def _sinkhorn(
    arrays: tuple[Any, ...],
    packed: Any,
    *,
    n: int,
    m: int,
    mode: str,
    inner: int,
    anderson: int,
    resume: bool,
    capacity: int = CAPACITY,
) -> Any:
    """[f, g, iterations, converged] of [a, b, f, g if resume, epsilon, tol, omega, budget, plain].

    One array each way: every further one costs 4 microseconds. The budget is rounded up to a multiple of `inner`.
    `resume`: begin from this g too, and not from the c-transform of f.
    """
    a, b, f, g, knobs = jnp.split(packed, np.cumsum([n, m, n, m * resume]))
    epsilon, tol, omega, budget, plain = knobs
    scalings = mode in ("kernel", "factors")
    geom = _geometry(mode, arrays, epsilon)
    has_a, has_b = a > 0, b > 0
    shift = _centre(a, f)  # the gauge: a constant that could overflow exp
    fu = jnp.where(has_a, f - shift, -jnp.inf)
    fu = geom.scaling_from_potential(fu) if scalings else fu
    if resume:
        gv = jnp.where(has_b, g + shift, -jnp.inf)
        gv = geom.scaling_from_potential(gv) if scalings else gv
    elif scalings:
        gv = geom.update_scaling(fu, b, axis=0)
    else:
        gv = geom.update_potential(fu, jnp.zeros_like(b), jnp.log(b), axis=0)
    solver = Sinkhorn(
        budget,
        not mode.startswith("stock"),
        lse_mode=not scalings,
        threshold=tol,
        inner_iterations=inner,
        max_iterations=-(-capacity // inner) * inner,
        anderson=acceleration.AndersonAcceleration(memory=anderson) if anderson else None,
    )
    if not anderson:
        solver.momentum = Relaxation(value=(plain, omega))
    # not solver(problem, init): its custom_vjp flattens the solver, and data among its settings do not pass
    out = ott_sinkhorn.iterations(linear_problem.LinearProblem(geom, a, b), solver, (fu, gv))
    errors: Any = out.errors
    done = jnp.sum(errors != -1)  # -1: not reached
    error = errors[done - 1]
    shift = _centre(a, out.f)
    f, g = jnp.where(has_a, out.f - shift, 0.0), jnp.where(has_b, out.g + shift, 0.0)
    return jnp.concatenate((f, g, jnp.stack((done * inner, error < tol)).astype(f.dtype)))


def _finite(potential: Any) -> Any:
    return jnp.where(jnp.isfinite(potential), potential, 0.0)


def _centre(a: Any, f: Any) -> Any:
    return jnp.sum(jnp.where(a > 0, a * f, 0.0)) / jnp.sum(a)


_one = jax.jit(_sinkhorn, static_argnames=STATIC)


@partial(jax.jit, static_argnames=STATIC)
def _many(arrays: tuple[Any, ...], packed: Any, **static: Any) -> Any:
    return jax.vmap(partial(_sinkhorn, **static), in_axes=(None, 0))(arrays, packed)


def iterate(
    mode: str,
    arrays: tuple[Any, ...],
    problem: Transport,
    at: Mapping[str, np.ndarray],
    resume: bool,
    tol: float,
    budget: int,
    settings: Mapping[str, Any],
    plain: int,
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """f (n,), g (m,), iterations done, and OTT's word that its error is below `tol`."""
    n, m = problem.n, problem.m
    knobs = (problem.epsilon, tol, settings["omega"], budget, plain)
    parts = (problem.a, problem.b, at["f"], at["g"] if resume else at["g"][:0], knobs)
    dtype = arrays[0].dtype
    with jax.enable_x64(dtype == np.float64):
        out = np.asarray(
            _one(
                arrays, np.concatenate(parts).astype(dtype, copy=False), n=n, m=m, mode=mode,
                inner=int(settings["inner_iterations"]), anderson=int(settings["anderson"]), resume=resume,
            )
        )  # fmt: skip
    return out[:n].astype(np.float64), out[n : n + m].astype(np.float64), int(out[-2]), bool(out[-1] == 1)


def iterate_batch(
    mode: str,
    arrays: tuple[Any, ...],
    problems: Sequence[Transport],
    f: np.ndarray,
    tol: float,
    budget: int,
    settings: Mapping[str, Any],
) -> Iterator[tuple[np.ndarray, np.ndarray, int, bool]]:
    """As `iterate` for problems of one ground cost from f (B, n), in one call as long as the slowest of them."""
    n, m = problems[0].n, problems[0].m
    a, b = np.array([problem.a for problem in problems]), np.array([problem.b for problem in problems])
    knobs = (problems[0].epsilon, tol, settings["omega"], budget, settings["plain"])
    packed = np.concatenate((a, b, f, np.broadcast_to(knobs, (len(a), len(knobs)))), axis=1)
    rows = np.arange(1 << (len(a) - 1).bit_length())  # a power of two, so that few sizes are compiled
    packed = packed[np.minimum(rows, len(a) - 1)]
    dtype = arrays[0].dtype
    with jax.enable_x64(dtype == np.float64):
        out = np.asarray(
            _many(
                arrays, packed.astype(dtype, copy=False), n=n, m=m, mode=mode, inner=int(settings["inner_iterations"]),
                anderson=int(settings["anderson"]), resume=False, capacity=-(-budget // CAPACITY) * CAPACITY,
            )
        )  # fmt: skip
    for row in out[: len(a)]:
        yield row[:n].astype(np.float64), row[n : n + m].astype(np.float64), int(row[-2]), bool(row[-1] == 1)
