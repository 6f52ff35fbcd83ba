"""Draft of `helpers.diagnostics.report` (to stand beside log_weights)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Markdown

import short_chains
from short_chains import CHAINS, STEPS, WIDE, Chains

ROUNDS = 8
MOST = 1_000  # numbers of a site that are judged
FAR = 4.0  # sds at which a chain from a wide start is elsewhere
SHIFT, NARROW, WIDTH = 0.4, 0.72, 1.28  # bounds of a good fit


@dataclass(frozen=True)
class Report:
    """What importance weights and short chains say about a fit.

    Attributes
    ----------
    verdict : str
        ``"good"``, ``"off"`` or ``"cannot tell"``.
    reasons : list of str
        Why, the worst first.
    sites : list of dict
        A line for each unknown and each deterministic site: its largest shift of a mean
        (in sds of the posterior), its narrowest and widest sd over that of the
        posterior, and the largest distance of chains from wide starts.
    """

    verdict: str
    reasons: list[str]
    sites: list[dict]
    facts: dict


def moved(rng_key, target, start, wide):
    """Move chains for some rounds; return where those of the last half were."""
    dim = start.shape[1]
    joint = dim <= short_chains.MOST_JOINT
    spread = start.std(0)
    at = jnp.concatenate([start[:CHAINS], wide])
    root = jnp.diag(spread) if joint else spread
    chains = Chains(at, root, jnp.log(jnp.float32(0.5 / dim**0.25)))
    run = jax.jit(partial(short_chains.hmc, log_density=target.log_density))
    kept, logs = [], []
    for key in jax.random.split(rng_key, ROUNDS):
        chains, places, log_p = run(key, chains=chains)
        kept.append(places)
        logs.append(log_p)
        recent = jnp.concatenate(kept[-2:])[:, :CHAINS]
        first = jnp.log(jnp.float32(1.2 / dim**0.25))
        log_step = jnp.minimum(chains.log_step, first) if len(kept) == 1 else chains.log_step
        root = short_chains.root_of(recent, 2 * CHAINS * min(len(kept), 2))
        chains = Chains(chains.at, root, log_step)
    half = ROUNDS // 2
    return jnp.concatenate(kept[half:]), jnp.concatenate(logs[half:])


def _affordable(target, start, seconds):
    """Return how many rounds fit into the time, judged by one gradient (compiled)."""
    slope = jax.jit(jax.grad(target.log_density))
    slope(start[0]).block_until_ready()
    began = time.perf_counter()
    for at in start[1:4]:
        slope(at).block_until_ready()
    each = (time.perf_counter() - began) / 3
    gradients = STEPS * short_chains.LEAPS * (CHAINS + WIDE)
    # Many chains in step cost less than one after the other where the data are few.
    return int(seconds / (each * gradients / 10))


def _lines(names, of_guide, of_chains, of_wide, arrived):
    """Return a line for each site: shifts and widths, the worst of its numbers."""
    lines = []
    for name in names:
        q, p, w = (np.asarray(each[name], float) for each in (of_guide, of_chains, of_wide))
        # p: (steps, chains, size); w: (steps, wide chains, size)
        mean, sd = p.mean((0, 1)), p.std((0, 1))
        if not sd.max() > 0:
            continue  # a function of the data alone
        shift = (q.mean(0) - mean) / sd
        width = q.std(0) / sd
        far = np.abs(w.mean(0) - mean)[arrived] / sd
        lines.append(
            {
                "site": name,
                "size": mean.size,
                "shift": float(shift[np.abs(shift).argmax()]),
                "narrowest": float(width.min()),
                "widest": float(width.max()),
                "far": float(far.max(initial=0)),
            }
        )
    return lines


def _reasons(lines):
    """Return what is wrong, in words."""
    found = []
    for line in lines:
        if line["far"] > FAR:
            found.append(
                f"{line['site']}: chains from the prior ended elsewhere, "
                f"{line['far']:.0f} sds away and as probable: another mode"
            )
        if abs(line["shift"]) > SHIFT:
            found.append(f"{line['site']}: a mean is off by {line['shift']:+.1f} sds")
        if line["narrowest"] < NARROW:
            found.append(
                f"{line['site']}: an sd is {line['narrowest']:.2f} of the posterior's"
            )
        if line["widest"] > WIDTH:
            found.append(
                f"{line['site']}: an sd is {line['widest']:.2f} times the posterior's"
            )
    return found
