"""A fit over devices and over processes has the losses of one device."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks.measure import devices, processes
from benchmarks.shared.record import RESULTS

ROWS = devices.problems(quick=True)["logistic"].num_rows


@pytest.fixture(scope="module")
def one_device():
    """The fit on one device, and its losses, for each problem."""
    with jax.default_device(jax.devices("cpu")[0]):
        placed = {
            name: devices.on_one_device(problem)
            for name, problem in devices.problems(quick=True).items()
        }
        losses = {name: fitted.fit().losses for name, fitted in placed.items()}
    return placed, losses


def equal(losses, expected):
    return losses.shape == (500,) and np.allclose(losses, expected, rtol=1e-4, atol=0)


def test_two_processes_have_the_losses_of_one(one_device):
    placed, losses = one_device
    both, _ = processes.run(2, rows=ROWS, timeout=120)
    assert len(both) == 2
    assert all(equal(each, losses["logistic"]) for each in both)
    # It could be otherwise: with other draws it is.
    others = placed["logistic"].fit(seed=2).losses
    assert not equal(others, losses["logistic"])


def test_eight_devices_have_the_losses_of_one(one_device):
    _, losses = one_device
    eight, _ = devices.run_worker(8, quick=True, losses_only=True)
    assert set(eight) == {"logistic/rows", "network/width"}
    for name, each in eight.items():
        assert equal(each, losses[name.split("/")[0]]), name


SPREAD = """
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from helpers.training import fit

jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(seconds) if "backend_compile" in event
    else None
)


def model(x):
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(loc, 1), obs=x)


x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("rows")))
counts = []
for steps in (4, 4, 2_000):  # the first compiles what is used once
    svi = SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())
    compiled.clear()
    result = fit(jax.random.key(1), svi, steps, x, progress_bar=False)
    counts.append(len(compiled))
leaves = jax.tree.leaves(result.state)
print(*counts[1:], {leaf.sharding.num_devices for leaf in leaves})
"""


def test_a_long_fit_on_several_devices_compiles_no_more_than_a_short_one():
    line = [sys.executable, "-c", SPREAD]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=120)
    short, long, spread = done.stdout.split()
    assert (short, spread) == (long, "{2}"), done.stdout + done.stderr


def test_a_process_that_fails_is_shown_with_what_all_printed():
    with pytest.raises(RuntimeError, match="2 processes: failed") as error:
        processes.run(2, rows=-1, timeout=60)
    for part in ("process 0, exit code", "process 1, exit code", "negative dimensions"):
        assert part in str(error.value)


def test_processes_that_take_too_long_are_ended():
    with pytest.raises(TimeoutError, match=r"over 0\.2 seconds") as error:
        processes.run(2, rows=ROWS, timeout=0.2)
    assert "process 1, exit code None" in str(error.value)


def test_none_outlives_the_block(tmp_path):
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        pytest.raises(ZeroDivisionError),
        processes.started([sleeper], tmp_path) as running,
    ):
        _ = 1 / 0
    assert running[0].poll() is not None


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("mesh['axis_0'=8] {'axis_0'}", 8),
        ("mesh['rows'=2,'width'=4] {'width'}", 4),
    ],
)
def test_what_is_sent_is_read_from_the_program(groups, size):
    program = """
  %sum = f32[10]{0} add(%a, %b), metadata={op_name="all-reduce("}
  %all-reduce.4 = (f32[20]{0}, s32[], pred[3,2]{1,0}) all-reduce(%a, %b),
""".rstrip()
    program += f" channel_id=1, replica_groups={groups}, use_global_device_ids=true\n"
    assert devices.collectives(program) == [
        {"kind": "all-reduce", "bytes": 4 * 20 + 4 + 6, "group": size}
    ]


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match="replica_groups"):
        devices.collectives("  %a = f32[] all-to-all(%b), replica_groups=some,\n")


def test_a_ring_is_as_fast_as_the_book_says():
    ring = {"latency": 1e-3, "bandwidth": 1e6}
    assert devices.all_reduce_seconds(1, 10**6, **ring) == 0
    assert devices.all_reduce_seconds(2, 10**6, **ring) == pytest.approx(1.002)
    assert devices.all_reduce_seconds(8, 10**6, **ring) == pytest.approx(1.764)


@pytest.mark.parametrize("name", ["devices", "processes"])
def test_stored_results_reach_what_they_must(name):
    facts = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for key in ("command", "date", "hardware", "device", "versions"):
        assert facts[key]
    assert facts["steps"] == 500
    fits = facts["eight_devices"].values() if name == "devices" else [facts]
    assert all(fit["max_relative_difference"] < 1e-4 for fit in fits)
