"""The compiled part of `helpers.training.fit`: many updates, and looks between them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from helpers._arguments import put_together


class Chunk(NamedTuple):
    """Data of some steps: arrays, and which of them change from step to step.

    Where `varies` says so, step `i` gets ``array[rows[i]]``, or ``array[i]`` where
    `rows` is None: rows of a table, or one of several batches put in one array.
    """

    arrays: list
    rows: Any
    rest: tuple
    varies: tuple[bool, ...]

    def arguments(self, i: jax.Array) -> Any:
        """Return the arguments of the model at step `i`."""
        at = i if self.rows is None else self.rows[i]
        picked = [
            array.at[at].get(mode="promise_in_bounds") if varies else array
            for array, varies in zip(self.arrays, self.varies, strict=True)
        ]
        return put_together(picked, self.rest)


jax.tree_util.register_pytree_node(
    Chunk,
    lambda chunk: (chunk[:2], chunk[2:]),
    lambda constant, changing: Chunk(*changing, *constant),
)


class Best(NamedTuple):
    """The best evaluation so far, its step and parameters, and evaluations since."""

    value: jax.Array
    step: jax.Array
    params: Any
    waited: jax.Array


class Reached(NamedTuple):
    """What a chunk of steps gave; the buffers are filled up to the two counts."""

    steps: jax.Array
    looks: jax.Array
    state: SVIState
    losses: jax.Array
    values: jax.Array
    best: Best


def none_yet(svi: SVI, state: SVIState) -> Best:
    """Return the `Best` of a run that has not been looked at."""
    params = svi.optim.get_params(state.optim_state)
    lowest = jnp.full((), -jnp.inf, jnp.result_type(float))
    return Best(lowest, jnp.int32(0), params, jnp.int32(0))


@partial(jax.jit, static_argnames="svi")
def value_of(svi: SVI, evaluate: Callable, params: Any, rng_key: jax.Array) -> Any:
    """Evaluate unconstrained parameters."""
    return evaluate(svi.constrain_fn(params), rng_key)


def _body(svi: SVI, chunk: Chunk) -> Callable:
    """Return the update as the body of a loop; it writes its loss at its place."""

    def step(i, carry):
        state, losses = carry
        args, kwargs = chunk.arguments(i)
        state, loss = svi.update(state, *args, **kwargs)
        loss = loss.astype(losses.dtype)
        return state, jax.lax.dynamic_update_index_in_dim(losses, loss, i, axis=0)

    return step


@partial(jax.jit, static_argnames=("svi", "size"))
def run(
    svi: SVI, state: SVIState, chunk: Chunk, steps: int, *, size: int
) -> tuple[SVIState, jax.Array]:
    """Take `steps` updates, at most `size`; data travel as arguments.

    The number of steps is an argument too: the last, shorter chunk needs no second
    compilation, and a loop that is known to run once would be compiled to other bits.
    """
    start = state, jnp.zeros(size)
    return jax.lax.fori_loop(0, steps, _body(svi, chunk), start)


@partial(jax.jit, static_argnames=("svi", "size"))
def run_and_look(
    svi: SVI,
    state: SVIState,
    best: Best,
    chunk: Chunk,
    counts: jax.Array,
    evaluate: jax.tree_util.Partial,
    rng_key: jax.Array,
    *,
    size: int,
) -> Reached:
    """Do the same with an evaluation at each multiple of `every` and at the last step.

    It ends early once `patience` evaluations in a row were not better, or something is
    not finite. All of that is compiled: the host would take longer than the steps.
    `counts` are the steps done before, those to do, `every`, and the patience.
    """
    before, steps, every, patience = counts
    step = _body(svi, chunk)

    def goes_on(reached):
        return (reached.steps < steps) & (reached.best.waited < patience)

    def look(reached):
        done, looks, state, losses, values, best = reached
        until = jnp.minimum(steps, ((before + done) // every + 1) * every - before)
        state, losses = jax.lax.fori_loop(done, until, step, (state, losses))
        params = svi.optim.get_params(state.optim_state)
        value = value_of(svi, evaluate, params, rng_key).astype(values.dtype)
        values = jax.lax.dynamic_update_index_in_dim(values, value, looks, axis=0)
        sound = jnp.isfinite(losses).all() & (value < jnp.inf)
        better = (value > best.value) | ((best.step == 0) & (value == best.value))
        now = Best(value, before + until, params, jnp.zeros_like(best.waited))
        best = best._replace(waited=jnp.where(sound, best.waited + 1, patience))
        best = jax.tree.map(partial(jnp.where, sound & better), now, best)
        return Reached(until, looks + 1, state, losses, values, best)

    zero, blank = jnp.zeros_like(steps), jnp.zeros(size)
    start = Reached(zero, zero, state, blank, blank, best)
    return jax.lax.while_loop(goes_on, look, start)
