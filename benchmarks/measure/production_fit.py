"""The part of `production.py` that fits, each time in a fresh process.

It starts cold, because importing and compiling are measured.
"""

import time

BEGAN = time.perf_counter()

from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from numpyro.handlers import seed, substitute, trace  # noqa: E402
from numpyro.infer import SVI, Predictive, Trace_ELBO  # noqa: E402
from numpyro.infer.autoguide import AutoNormal  # noqa: E402

from benchmarks.shared import bnn_model, child, logistic_model  # noqa: E402
from helpers.training import fit  # noqa: E402

IMPORTED = time.perf_counter()


COMPILED = []  # an entry for each piece of code that XLA compiled, or read


def count(event: str, seconds: float, **_: Any) -> None:
    """Count a compilation that JAX reports."""
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(seconds)


jax.monitoring.register_event_duration_secs_listener(count)


def problem(name: str) -> tuple[SVI, tuple, Any]:
    """Return SVI, training data and new inputs: of notebook 04, or a smaller one."""
    if name == "network":
        model = bnn_model.model
        train, _, (x, _) = bnn_model.make_data()
    else:
        model = logistic_model.predictive_model
        x, y = logistic_model.make_rows(1_000)
        train = x, y
    svi = SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())
    return svi, train, x


def first_steps(name: str) -> dict[str, Any]:
    """Take a few steps with `fit`, which compiles, and again, which compiles anew."""
    svi, train, _ = problem(name)
    COMPILED.clear()
    seconds, compiled = [], 0
    for seed_of_run in (1, 2):
        began = time.perf_counter()
        result = fit(jax.random.key(seed_of_run), svi, 8, *train, progress_bar=False)
        seconds.append(time.perf_counter() - began)
        compiled = compiled or len(COMPILED)
    return {
        "seconds_import": IMPORTED - BEGAN,
        "pieces_of_code": compiled,
        "seconds_fit": seconds[0],
        "seconds_fit_again": seconds[1],
        "loss": float(result.losses[-1]),
    }


def ahead_of_time(name: str, steps: int) -> dict[str, Any]:
    """Compile a loop of updates ahead of time, and tell what each part takes."""
    svi, train, _ = problem(name)
    COMPILED.clear()
    began = time.perf_counter()
    state = svi.init(jax.random.key(1), *train)
    compiled_by_init = len(COMPILED)

    @jax.jit
    def run(state, x, y):
        def step(state, _):
            return svi.update(state, x, y)

        return jax.lax.scan(step, state, length=steps)

    marks = [began, time.perf_counter()]
    lowered = run.lower(state, *train)
    marks.append(time.perf_counter())
    compiled = lowered.compile()
    marks.append(time.perf_counter())
    for _ in range(2):
        jax.block_until_ready(compiled(state, *train))
        marks.append(time.perf_counter())
    names = ("init", "trace_and_lower", "compile", "first_run", "second_run")
    parts = np.diff(marks).tolist()
    return {
        "pieces_of_code_of_init": compiled_by_init,
        **{f"seconds_{k}": v for k, v in zip(names, parts, strict=True)},
    }


def export(name: str, path: str, steps: int, num_draws: int) -> dict[str, Any]:
    """Fit, and store what predicts: a function of inputs, for any number of rows.

    Inputs of the test data and their probabilities by NumPyro's `Predictive` are stored
    beside it, to compare with.
    """
    svi, train, x = problem(name)
    result = fit(jax.random.key(1), svi, steps, *train, progress_bar=False)
    draw_key, unused_key = jax.random.split(jax.random.key(2))
    draws = svi.guide.sample_posterior(
        draw_key, result.params, sample_shape=(num_draws,)
    )
    del draws["p"]  # the probabilities of the training data, not to be had for others

    def probability(weights, x):
        sites = trace(seed(substitute(svi.model, data=weights), unused_key)).get_trace(
            x
        )
        return sites["p"]["value"]

    @jax.jit
    def predict(x):
        return jax.vmap(partial(probability, x=x))(draws).mean(axis=0)

    began = time.perf_counter()
    rows = jax.export.symbolic_shape("rows")
    inputs = jax.ShapeDtypeStruct((*rows, x.shape[1]), x.dtype)
    exported = jax.export.export(predict)(inputs)
    stored = exported.serialize()
    seconds = time.perf_counter() - began
    Path(path).write_bytes(stored)

    drawing = Predictive(svi.model, posterior_samples=draws, return_sites=["p"])
    p = drawing(unused_key, x)["p"].mean(axis=0)
    np.savez(f"{path}.npz", x=x, p=p)
    return {
        "draws": num_draws,
        "seconds_export": seconds,
        "kib": round(len(stored) / 1024, 1),
        "platforms": list(exported.platforms),
    }


if __name__ == "__main__":
    child.serve(
        {"first_steps": first_steps, "ahead_of_time": ahead_of_time, "export": export}
    )
