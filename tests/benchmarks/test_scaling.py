"""Short runs of the benchmarks of notebook 06 work, and tell what the page needs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.measure import accelerators
from benchmarks.measure.accelerators import Work, network
from benchmarks.measure.many_fits import best_normal, divergence
from benchmarks.measure.rows import crossing, slope
from benchmarks.shared import record
from benchmarks.shared.logistic_model import TRUE, make_rows, posterior
from benchmarks.shared.tables import (
    map_loader,
    parquet_loader,
    write_maps,
    write_parquet,
)

NAMES = ("streaming", "production", "rows", "resume", "prediction", "many_fits")
DEVICE = f"accelerators-{jax.default_backend()}"
COMMON = {"command", "date", "hardware", "versions", "device", "targets"}


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Run all of them, two at a time, with one cache of compiled code."""
    folder = tmp_path_factory.mktemp("benchmarks")
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run(name):
        options = "--quick", f"--out={folder}"
        line = record.command(f"benchmarks.measure.{name}", *options)
        pipes = {"capture_output": True, "text": True, "cwd": record.ROOT}
        return subprocess.run(line, env=env, **pipes)

    with ThreadPoolExecutor(2) as pool:
        names = (*NAMES, "accelerators")
        return folder, dict(zip(names, pool.map(run, names), strict=True))


@pytest.fixture
def facts(results, request):
    folder, runs = results
    done = runs[request.param.partition("-")[0]]
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{request.param}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("facts", NAMES, indirect=True)
def test_each_says_where_its_figures_come_from_and_what_they_must_reach(facts):
    assert facts.keys() >= COMMON
    assert facts["command"].endswith("--quick")
    assert facts["targets"]
    for each in facts["targets"].values():
        assert each.keys() == {"measured", "target", "met"}


@pytest.mark.parametrize("facts", ["rows"], indirect=True)
def test_rows(facts):
    sizes = facts["rows"]
    assert len(sizes) == 2
    for by_size in facts["step_seconds"].values():
        assert len(by_size) == len(sizes)
        assert min(by_size) > 0
    curves = facts["seconds_to_target"]
    assert set(curves) == {"full batch", "minibatch", "NUTS", "Newton"}
    for curve in curves.values():
        assert len(curve) == len(sizes)
        assert curve[0] > 0
    for runs in facts["runs_to_target"].values():
        reached = runs[0]["reached"]
        assert reached["center"] + reached["width"] <= facts["target_nats"]
    nuts = facts["nuts"][0]
    assert nuts["largest_shift_from_mode_in_sd"] < 0.6
    assert nuts.keys() >= {"worst_effective_draws", "sd_over_that_of_reference"}
    assert facts["slopes"].keys() >= {"to the target, minibatch"}
    assert len(facts["crossings"]) == 4


@pytest.mark.parametrize("facts", ["streaming"], indirect=True)
def test_streaming(facts):
    (throughput,) = facts["throughput"].values()
    assert set(throughput["rows_per_second"]) == {"memory", "memory map", "Parquet"}
    assert set(throughput["times_memory"]) == {"memory map", "Parquet"}
    peaks = [
        each["memory map"]["peak_mib"]
        for each in facts["one_epoch_in_a_fresh_process"].values()
    ]
    assert peaks[1] < 1.3 * peaks[0]
    assert facts.keys() >= {"share_of_files_in_page_cache", "limited"}


@pytest.mark.parametrize("facts", ["resume"], indirect=True)
def test_resume(facts):
    (run,) = facts["runs"].values()
    assert run["bit_identical"]
    (kill,) = run["kills"]
    assert 0 < kill["steps_reached"] < run["steps"]
    assert all(each["met"] for each in facts["targets"].values())


@pytest.mark.parametrize("facts", ["prediction"], indirect=True)
def test_prediction(facts):
    few, many = facts["batched"].values()
    assert many["rows_per_second"] > 0
    assert many["peak_mib"] < 1.2 * few["peak_mib"]
    compared = facts["comparison"]
    for each in compared["largest_difference_in_batches_of"].values():
        assert each["p"] < 1e-6
    assert compared["share_of_outcomes_that_differ_in_batches_of_draws"] < 1e-3
    assert compared["largest_difference_to_numpyro"]["p"] < 1e-6
    assert 0.5 < compared["root_mean_square_z_of_means_to_numpyro"] < 2
    (whole,) = facts["unbatched"].values()
    assert np.abs(whole["difference_of_means"]).max() < 0.02


@pytest.mark.parametrize("facts", ["many_fits"], indirect=True)
def test_many_fits(facts):
    assert facts["largest_difference_to_loop"] < 1e-3
    ways = {"loop", "loop_of_fit", "loop_that_compiles"}
    assert set(facts["times_vmap"]) == ways
    assert set(facts["seconds_of_all_groups"]) == {"vmap", *ways}
    kl = facts["accuracy"]["kl_nats"]
    assert facts["accuracy"]["kl_nats_of_best_normal"]["median"] < kl["median"] < 0.1


@pytest.mark.parametrize("facts", ["production"], indirect=True)
def test_production(facts):
    kinds = {"no cache", "empty cache", "full cache"}
    assert facts["starts"].keys() >= kinds
    assert facts["starts"]["cache_kib"] > 0
    assert len({facts["starts"][kind]["loss"] for kind in kinds}) == 1
    assert facts["unwanted_modules"] == []
    assert facts["largest_difference"] < 1e-5
    assert facts["server"]["seconds_request"].keys() == {"1", "32"}


@pytest.mark.parametrize("facts", [DEVICE], indirect=True)
def test_accelerators(facts):
    assert facts.keys() >= COMMON - {"targets"}
    assert all(limit > 0 for limit in facts["limits"].values())
    for kind, size in (
        ("logistic", "rows"),
        ("network", "width"),
        ("particles", "particles"),
    ):
        assert facts[kind]
        for each in facts[kind]:
            assert each.keys() >= {size, "estimate_waits_for"}
            # A short run measures each once, so which is larger is luck.
            assert min(each["step_seconds"], each["estimated_seconds"]) > 0
            assert each["estimate_waits_for"] in {"start", "memory", "arithmetic"}


def test_the_estimate_is_the_slowest_of_three():
    machine = {
        "floor_seconds": 1e-5,
        "copied_bytes_per_second": 2e9,
        "summed_bytes_per_second": 1e9,
        "flops_per_second": 1e10,
    }

    def of(nbytes, flops):
        return accelerators.estimate(Work({}, nbytes, flops, None), machine)

    assert of(1, 1) == (1e-5, "start")
    assert of(2e9, 1) == (1.0, "memory")
    assert of(1, 1e11) == (10.0, "arithmetic")


def test_a_size_whose_step_takes_too_long_is_left_out():
    def start():
        return lambda steps: 0.25 + 1 / steps

    few = accelerators.FEW
    assert accelerators.prepared(start, 1.0, longest=0.2) is None
    assert accelerators.prepared(start, 1.0, longest=0.5)() == 0.25 + 1 / few
    many = int(10 / (0.25 + 1 / few))
    assert accelerators.prepared(start, 10.0, longest=0.5)() == 0.25 + 1 / many
    work = network(4)
    machine = dict.fromkeys(
        ("copied_bytes_per_second", "summed_bytes_per_second", "flops_per_second"), 1.0
    )
    left_out = accelerators.described(work, [], machine | {"floor_seconds": 1.0})
    assert left_out["step_seconds"] is None
    assert left_out["width"] == 4


def test_short_tables_begin_like_long_ones():
    short, long = make_rows(1_000), make_rows(70_000)
    for some, all_ in zip(short, long, strict=True):
        np.testing.assert_array_equal(some, all_[:1_000])
    assert abs(long[1].mean() - 0.3) < 0.02


def test_the_posterior_of_a_table_is_near_the_truth():
    found = posterior(*make_rows(70_000))  # more than a block
    assert abs((found.mode - TRUE) / found.best_scale).max() < 4


@pytest.mark.parametrize("first", [0, 3, 700])
def test_loaders_read_every_row_once_an_epoch_and_start_anywhere(tmp_path, first):
    rows, size = 300_000, 1_024
    paths, path = write_maps(tmp_path, rows), write_parquet(tmp_path, rows)
    table = np.load(paths[0])
    loaders = map_loader(paths, size), parquet_loader(path, size)
    streams = [loader(first) for loader in loaders]
    whole = loaders[0](0)
    for _ in range(first):
        next(whole)
    seen = []
    for _ in range(rows // size + 1):
        x, y = next(whole)
        seen.append(x[:, 3])
        for stream in streams:
            other_x, other_y = next(stream)
            np.testing.assert_array_equal(other_x, x)
            np.testing.assert_array_equal(other_y, y)
    if not first:
        seen = np.sort(np.concatenate(seen)[:rows])
        np.testing.assert_array_equal(seen, np.sort(table[:, 3]))


def test_the_loaders_of_the_notebook_read_the_same_rows(tmp_path):
    rows, size = 8_192, 1_024
    paths, path = write_maps(tmp_path, rows), write_parquet(tmp_path, rows)
    names = {"np": np, "pq": pq}
    notebook = record.ROOT / "notebooks" / "06_scaling.ipynb"
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.source.startswith(("def from_map(", "def from_parquet(")):
            exec(cell.source, names)
    streams = {
        "map of the script": map_loader(paths, size)(0),
        "Parquet of the script": parquet_loader(path, size)(0),
        "map of the notebook": names["from_map"](*paths, size),
        "Parquet of the notebook": names["from_parquet"](path, size),
    }
    table = np.c_[np.load(paths[0]), np.load(paths[1])]
    expected = table[np.argsort(table[:, 3])]
    for name, stream in streams.items():
        epoch = np.concatenate([np.c_[next(stream)] for _ in range(rows // size)])
        found = epoch[np.argsort(epoch[:, 3])]
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_slopes_and_crossings():
    sizes = [10, 100, 1_000]
    assert slope(sizes, [5, 1, 10]) == 1
    assert slope(sizes, [5, 1, None]) is None
    assert crossing(sizes, [1, 10, 100], [20, 20, 20]) == 200
    assert crossing(sizes, [1, 2, 3], [4, 5, 6]) is None


def test_the_divergence_of_the_best_normal_is_the_lowest():
    a, b = np.array([3.0, 40.0, 2.0]), np.array([5.0, 9.0, 200.0])
    loc, scale = best_normal(a, b)
    least = divergence(loc, scale, a, b)
    assert (least > 0).all()
    for step in (-0.01, 0.01):
        assert (divergence(loc + step, scale, a, b) > least).all()
        assert (divergence(loc, scale * (1 + step), a, b) > least).all()
    draws = np.array(jax.random.beta(jax.random.key(1), a, b, (100_000, 3)), float)
    odds = np.log(draws / (1 - draws))
    assert (abs(odds.mean(axis=0) - loc) < 0.1 * scale).all()
