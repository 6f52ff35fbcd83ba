"""The compiled part of predictions: draws of model and guide, block after block."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import replay, substitute, trace
from numpyro.infer.autoguide import AutoGuide
from numpyro.primitives import Messenger

from helpers._arguments import put_together


def refuse_missing(params: dict, sites: dict) -> None:
    """Refuse parameters that lack some; initial values would be used in silence."""
    missing = [
        name
        for name, at in sites.items()
        if at["type"] == "param" and name not in params and jax.tree.leaves(at["value"])
    ]
    if missing:
        raise ValueError(f"params: expected {missing} too, got {list(params)}")


def refuse_new(guide: Callable) -> None:
    """Refuse an autoguide that would be initialized in compiled code."""
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        name = type(guide).__name__
        raise ValueError(f"guide: expected one used in a fit, got a new {name}")


class Keyed(Messenger):
    """Give each site its key: one of the block of rows, or of the draw for all rows.

    So what rows share is the same in all blocks of one draw, and their noise is not.
    """

    def __init__(
        self,
        fn: Callable,
        draw_key: jax.Array,
        block_key: jax.Array,
        with_rows: frozenset[str],
    ):
        super().__init__(fn)
        self.draw_key, self.block_key = draw_key, block_key
        self.with_rows, self.count = with_rows, 0

    def process_message(self, msg: dict) -> None:
        """Fill in the key of a site that wants one."""
        if msg["type"] in ("prng_key", "control_flow", "mutable"):
            raise ValueError(
                f"model: expected plain sample sites, got {msg['type']!r}; draw with "
                "numpyro.infer.Predictive"
            )
        if msg["type"] not in ("sample", "plate"):
            return
        if msg["kwargs"].get("rng_key") is not None or msg["value"] is not None:
            return
        own = msg["name"] in self.with_rows
        self.count += 1
        key = self.block_key if own else self.draw_key
        msg["kwargs"]["rng_key"] = jax.random.fold_in(key, self.count)


def draw_sites(
    model: Callable,
    guide: Callable,
    params: dict[str, Any],
    draw_key: jax.Array,
    block_key: jax.Array,
    with_rows: frozenset[str],
    arguments: tuple,
) -> dict[str, jax.Array]:
    """Return the sites of one draw of the guide and of the model given that."""
    args, kwargs = arguments
    keys = zip(jax.random.split(draw_key), jax.random.split(block_key), strict=True)
    guide_keys, model_keys = keys
    drawing = Keyed(substitute(guide, data=params), *guide_keys, with_rows)
    drawn = trace(drawing).get_trace(*args, **kwargs)
    latent = {name: at for name, at in drawn.items() if at["type"] == "sample"}
    given = replay(substitute(model, data=params), latent)
    sites = trace(Keyed(given, *model_keys, with_rows)).get_trace(*args, **kwargs)
    refuse_missing(params, drawn | sites)
    return {
        name: at["value"]
        for name, at in (drawn | sites).items()
        if at["type"] in ("sample", "deterministic")
        and not isinstance(at.get("fn"), dist.Unit)
    }


@dataclass(frozen=True)
class Predictor:
    """What compiled code is looked up by: model, guide, constants, and sites."""

    model: Callable
    guide: Callable
    rest: tuple
    varies: tuple[bool, ...]
    with_rows: frozenset[str] = frozenset()
    sites: tuple[str, ...] = ()

    def draw(
        self,
        params: dict[str, Any],
        draw_key: jax.Array,
        block_key: jax.Array,
        arrays: list,
    ) -> dict[str, jax.Array]:
        """Return the sites of one draw, for one block of rows."""
        arguments = put_together(arrays, self.rest)
        keys = draw_key, block_key
        return draw_sites(
            self.model, self.guide, params, *keys, self.with_rows, arguments
        )

    def shapes(
        self, params: dict[str, Any], arrays: list, rows: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all sites with so many rows."""
        structs = [
            jax.ShapeDtypeStruct((rows, *a.shape[1:]) if v else a.shape, a.dtype)
            for a, v in zip(arrays, self.varies, strict=True)
        ]
        key = jax.random.key(0)  # nothing is drawn: used twice on purpose
        found = jax.eval_shape(self.draw, params, key, key, structs)  # on purpose
        return {name: value.shape for name, value in found.items()}


@partial(jax.jit, static_argnames="predictor")
def predicted(
    predictor: Predictor,
    params: dict[str, Any],
    draw_keys: jax.Array,
    numbers: jax.Array,
    moving: list,
    fixed: list,
) -> dict[str, jax.Array]:
    """Return the sites for each draw and row, block of rows after block."""

    def block(inputs):
        number, some = inputs
        some, constant = iter(some), iter(fixed)
        arrays = [next(some if varies else constant) for varies in predictor.varies]

        def one(rng_key):
            draw_key, block_key = jax.random.split(rng_key)
            block_key = jax.random.fold_in(block_key, number)
            found = predictor.draw(params, draw_key, block_key, arrays)
            return {name: found[name] for name in predictor.sites}

        return jax.vmap(one)(draw_keys)

    found = jax.lax.map(block, (numbers, moving))
    return {
        name: jnp.moveaxis(value, 0, 1).reshape(len(draw_keys), -1, *value.shape[3:])
        for name, value in found.items()
    }


def padded(array: Any, start: int, blocks: int, block: int) -> np.ndarray:
    """Return rows of a table in blocks, the last row again where there are no more."""
    rows = np.asarray(array[start : start + blocks * block])
    missing = blocks * block - len(rows)
    if missing:
        rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    return rows.reshape(blocks, block, *rows.shape[1:])
