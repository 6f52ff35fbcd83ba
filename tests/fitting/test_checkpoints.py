"""Checkpoints: a run that was broken off goes on to the same bits, or says why not."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from fitting import checkpoints
from helpers import training
from helpers.training import CheckpointError, NonFiniteLossError

KEY = jax.random.key(21)
N = 60
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 2)).astype("float32")
Y = (X @ np.array([1.0, -2.0]) + RNG.normal(size=N)).astype("float32")
STEPS = 50
fit = partial(training.fit, progress_bar=False)


def model(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


def make_svi(model=model, optimizer=None):
    optimizer = optimizer or optax.adam(0.02)
    return SVI(model, AutoNormal(model), optimizer, Trace_ELBO())


def score(params, key):
    return -((params["w_auto_loc"] - jnp.array([1.0, -2.0])) ** 2).sum()


def batches(first_step):
    for step in range(first_step, STEPS):
        rows = np.random.default_rng(step).integers(0, N, 10)
        yield X[rows], Y[rows]


WAYS = {
    "all rows": ((X, Y), {}),
    "evaluated": ((X, Y), {"evaluate": score, "evaluate_every": 4}),
    "tables": ((X, Y), {"batch_size": 7, "size": N}),
    "stream": ((), {"batches": batches, "num_rows": N, "size": N}),
    "iterator": ((), {"batches": None, "num_rows": N, "size": N}),
}


def run(way, svi=None, num_steps=STEPS, **options):
    args, call = WAYS[way]
    if way == "iterator":
        call = call | {"batches": batches(0)}
    return fit(KEY, svi or make_svi(), num_steps, *args, **call | options)


def assert_same_run(left, right):
    for name in ("params", "state", "best_params"):
        leaves = [jax.tree.leaves(getattr(r, name)) for r in (left, right)]
        assert len(leaves[0]) == len(leaves[1])
        for one, other in zip(*leaves, strict=True):
            assert jnp.array_equal(one, other), name
    np.testing.assert_array_equal(left.losses, right.losses)
    np.testing.assert_array_equal(left.evaluations, right.evaluations)
    assert (left.steps, left.stopped) == (right.steps, right.stopped)
    assert left.best_step == right.best_step


def steps_in(path):
    return int(checkpoints.read(path)["done"])


@pytest.fixture(scope="module")
def ten_steps(tmp_path_factory):
    """What a checkpoint of ten steps holds."""
    path = tmp_path_factory.mktemp("run") / "run.npz"
    run("all rows", num_steps=10, checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, ten_steps):
    """A checkpoint of ten steps with all rows."""
    path = tmp_path / "run.npz"
    path.write_bytes(ten_steps)
    return path


class Stop(BaseException):
    """As if the power went."""


def break_off(monkeypatch, after):
    """Make the run die when it has written so many checkpoints."""
    written, write = [], checkpoints.write

    def counted(*args, **facts):
        write(*args, **facts)
        written.append(1)
        if len(written) == after:
            raise Stop

    monkeypatch.setattr(checkpoints, "write", counted)


@pytest.mark.parametrize(
    ("way", "after"), list(zip(WAYS, (1, 3, 3, 1, 2), strict=True))
)
def test_resumed_run_is_the_same_run(monkeypatch, tmp_path, way, after):
    whole = run(way)
    path = tmp_path / "run.npz"
    keep = {"checkpoint": path, "checkpoint_every": 9}
    with monkeypatch.context() as patch:
        break_off(patch, after)
        with pytest.raises(Stop):
            run(way, **keep)
    assert os.listdir(tmp_path) == ["run.npz"]
    assert steps_in(path) == 9 * after
    # By other objects, as in another process.
    assert_same_run(run(way, **keep), whole)
    # And once more, when there is nothing left to do.
    assert_same_run(run(way, **keep), whole)
    assert os.listdir(tmp_path) == ["run.npz"]


def test_checkpoints_change_nothing_and_take_the_default_interval(tmp_path):
    path = str(tmp_path / "run.npz")
    assert_same_run(run("evaluated", checkpoint=path), run("evaluated"))
    assert steps_in(path) == STEPS


def test_more_steps_go_on_from_a_finished_run(tmp_path):
    path = tmp_path / "run.npz"
    short = run("tables", num_steps=20, checkpoint=path)
    assert short.steps == 20
    assert_same_run(run("tables", checkpoint=path), run("tables"))
    with pytest.raises(ValueError, match="has 50 steps, more than the 20 asked for"):
        run("tables", num_steps=20, checkpoint=path)


def test_patience_is_kept(tmp_path):
    path = tmp_path / "run.npz"
    options = {"evaluate": lambda params, key: 0.0 * params["w_auto_loc"][0]}
    options |= {"evaluate_every": 2, "patience": 3}
    whole = run("all rows", **options)
    assert whole.stopped == "no improvement in 3 evaluations"
    keep = {"checkpoint": path, "checkpoint_every": 3}
    assert_same_run(run("all rows", **options, **keep), whole)
    assert_same_run(run("all rows", **options, **keep), whole)
    later = run("all rows", **options | {"patience": 5}, **keep)
    assert_same_run(later, run("all rows", **options | {"patience": 5}))


def test_interrupted_run_keeps_a_checkpoint(tmp_path):
    def interrupted(first_step):
        for step, batch in enumerate(batches(first_step), first_step):
            if step == 30 and not os.environ.get("GO_ON"):
                signal.raise_signal(signal.SIGINT)
            yield batch

    keep = {"checkpoint": tmp_path / "run.npz", "checkpoint_every": 5}
    first = run("stream", batches=interrupted, **keep)
    assert first.stopped == "interrupted"
    assert steps_in(keep["checkpoint"]) == first.steps > 0
    assert_same_run(run("stream", **keep), run("stream"))


def test_interrupts_reach_tests_that_a_shell_starts_in_the_background():
    one = f"{__file__}::{test_interrupted_run_keeps_a_checkpoint.__name__}"
    ignored = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    command = [*ignored, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", one]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2_000:]


def test_a_stream_that_breaks_keeps_a_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    short = (batch for batch, _ in zip(batches(0), range(33), strict=False))
    with pytest.raises(training.BatchError, match="ended before step 34"):
        run("stream", batches=short, checkpoint=path)
    assert_same_run(run("stream", checkpoint=path), run("stream"))


CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
from test_checkpoints import fit, KEY, X, Y, N, make_svi
fit(KEY, make_svi(), 10**9, X, Y, batch_size=7, size=N, checkpoint=sys.argv[1],
    checkpoint_every=500)
"""


def test_kill_at_a_random_moment(tmp_path):
    """A real process, a real ``kill -9``, and the bits of a run without a break."""
    path = tmp_path / "run.npz"
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", CHILD, str(path), here]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1_200):
            if path.exists() or child.poll() is not None:
                break
            time.sleep(0.05)
        assert path.exists(), child.communicate(timeout=10)[1][-2_000:]
        time.sleep(np.random.default_rng().uniform(0.1, 0.6))
    finally:
        child.kill()
        child.wait()
    done = steps_in(path)
    assert done % 500 == 0
    call = {"batch_size": 7, "size": N}
    resumed = fit(KEY, make_svi(), done + 700, X, Y, **call, checkpoint=path)
    whole = fit(KEY, make_svi(), done + 700, X, Y, **call)
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99, -1])
def test_truncated_checkpoint(path, cut):
    data = path.read_bytes()
    size = int(len(data) * cut) if isinstance(cut, float) else cut
    path.write_bytes(data[:size])
    with pytest.raises(ValueError, match="checkpoint: expected a complete checkpoint"):
        run("all rows", checkpoint=path)
    assert path.read_bytes() == data[:size]


@pytest.mark.parametrize("name", ["run", "losses"])
def test_damaged_checkpoint(path, name):
    """One bit is another one."""
    if name == "losses":  # the last leaf
        name = sorted(n for n in checkpoints.read(path) if n.startswith("leaf_"))[-1]
    data = bytearray(path.read_bytes())
    at = data.index(f"{name}.npy".encode()) + 200
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checkpoint: expected a complete checkpoint"):
        run("all rows", checkpoint=path)


def test_other_files(tmp_path):
    path = tmp_path / "run.npz"
    for write in (
        lambda: path.write_text("my thesis"),
        lambda: np.savez(path, x=X),
        lambda: np.save(path.open("wb"), X),
    ):
        write()
        before = path.read_bytes()
        with pytest.raises(ValueError, match="got another or a damaged file"):
            run("all rows", checkpoint=path)
        assert path.read_bytes() == before
    for folder in (tmp_path, ""):
        with pytest.raises(ValueError, match="checkpoint: expected the path of a file"):
            run("all rows", checkpoint=folder)
    with pytest.raises(FileNotFoundError, match="checkpoint: expected an existing fol"):
        run("all rows", checkpoint=tmp_path / "nowhere" / "run.npz")


LOSSES = "leaf_-1"  # the last leaf of a run are its losses and evaluations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": None}, "a complete checkpoint"),
        ({"run": None}, "a complete checkpoint"),
        ({"code": None}, "a complete checkpoint"),
        ({"begin": None}, "a complete checkpoint"),
        ({"begin": np.zeros(1)}, "another run"),
        ({"format": None}, "a complete checkpoint"),
        ({"format": "fit, 1"}, "a complete checkpoint"),
        ({"done": np.array([10])}, "a complete checkpoint"),
        ({"done": np.array(-5)}, "a complete checkpoint"),
        ({"done": np.array(3.5)}, "a complete checkpoint"),
        ({"done": np.array(7)}, "another run"),
        ({"leaf_0": None}, "another run"),
        ({"leaf_0": np.zeros(3)}, "another run"),
        ({"leaf_1": np.array(0.0)}, "another run"),
        ({"leaf_1": np.array(["a"] * 2)}, "another run"),
        ({LOSSES: np.zeros((2, 7))}, "another run"),
        ({LOSSES: np.zeros(10)}, "another run"),
        ({LOSSES: np.zeros(())}, "another run"),
        ({LOSSES: np.array([["a"] * 10] * 2)}, "another run"),
        ({"leaf_99": np.zeros(2)}, "another run"),
    ],
    ids=str,
)
def test_checkpoint_with_other_content(path, change, message):
    arrays = checkpoints.read(path)
    last = f"leaf_{sum(name.startswith('leaf_') for name in arrays) - 1}"
    arrays |= {last if name == LOSSES else name: a for name, a in change.items()}
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^checkpoint: .*{message}"):
        run("all rows", checkpoint=path)
    assert path.read_bytes() == before


def test_a_path_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    run("all rows", num_steps=10, checkpoint="~/run.npz")
    assert os.listdir(tmp_path) == ["run.npz"]


def wider(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, sigma), obs=y)


FOREIGN = {
    "key": lambda keep: fit(jax.random.key(1), make_svi(), 50, X, Y, **keep),
    "data": lambda keep: fit(KEY, make_svi(), 50, X, Y + 1, **keep),
    "constant": lambda keep: fit(KEY, make_svi(), 50, X, Y, size=N, **keep),
    "batch": lambda keep: fit(KEY, make_svi(), 50, X, Y, batch_size=7, size=N, **keep),
    "evaluation": lambda keep: run("evaluated", **keep),
    "model": lambda keep: run("all rows", svi=make_svi(wider), **keep),
    "optimizer": lambda keep: run(
        "all rows", svi=make_svi(optimizer=optax.sgd(0.1)), **keep
    ),
}


@pytest.mark.parametrize("other", FOREIGN)
def test_foreign_checkpoint(path, other):
    keep = {"checkpoint": path}
    before = keep["checkpoint"].read_bytes()
    with pytest.raises(ValueError, match=r"run\.npz belongs to another run"):
        FOREIGN[other](keep)
    assert keep["checkpoint"].read_bytes() == before


def edited(x, y=None, size=None, prior=1, noise=1):
    """The model as a participant changes a number in it."""
    w = numpyro.sample("w", dist.Normal(0, prior).expand([2]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, noise), obs=y)


def with_guide(**options):
    guide = AutoNormal(model, **options)
    return SVI(model, guide, optax.adam(0.02), Trace_ELBO())


def with_particles(count):
    return SVI(model, AutoNormal(model), optax.adam(0.02), Trace_ELBO(count))


def with_rate(rate):
    return make_svi(optimizer=optax.adam(rate))


def with_array(number):
    """A model that closes over an array."""
    centers = np.full(2, number, "float32")

    def model(x, y=None, size=None):
        w = numpyro.sample("w", dist.Normal(centers, 1).to_event(1))
        with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
            numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)

    return model


EDITED = {
    "prior": lambda: {"svi": make_svi(partial(edited, prior=1.1))},
    "noise": lambda: {"svi": make_svi(partial(edited, noise=0.1))},
    "guide": lambda: {"svi": with_guide(init_scale=0.11)},
    "particles": lambda: {"svi": with_particles(10)},
    "rate": lambda: {"svi": with_rate(0.021)},
    "a rate that breaks it": lambda: {"svi": with_rate(1e30)},
    "start": lambda: {"init_params": {"w_auto_loc": np.full(2, 0.5, "float32")}},
}


@pytest.mark.parametrize("edit", EDITED)
def test_checkpoint_of_another_version(path, edit):
    """An edited cell is run again: the file of the run before is not quite its own."""
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="goes on with a .* something else than"):
        result = run("all rows", num_steps=10, checkpoint=path, **EDITED[edit]())
    assert result.steps == 10
    assert path.read_bytes() == before


@pytest.mark.parametrize("way", ["tables", "stream"])
def test_checkpoint_of_another_version_by_batches(tmp_path, way):
    keep = {"checkpoint": tmp_path / "run.npz"}
    run(way, num_steps=10, **keep)
    with warnings.catch_warnings(action="error"):
        run(way, num_steps=10, **keep)
    with pytest.warns(UserWarning, match="goes on with a .* something else than"):
        run(way, num_steps=10, svi=with_rate(0.021), **keep)


def test_checkpoint_of_an_edited_evaluation(tmp_path):
    keep = {"checkpoint": tmp_path / "run.npz"}
    run("evaluated", num_steps=20, **keep)
    with pytest.warns(UserWarning, match="optimizer or evaluation that"):
        run("evaluated", **keep, evaluate=lambda params, key: score(params, key) + 1)


@pytest.mark.parametrize("way", ["stream", "iterator"])
def test_checkpoint_of_another_stream(tmp_path, way):
    """The first batch tells."""
    keep = {"checkpoint": tmp_path / "run.npz"}
    run(way, num_steps=20, **keep)

    def later(first_step):
        return batches(first_step + 1)

    other = {"batches": later if way == "stream" else later(0)}
    with pytest.raises(ValueError, match=r"run\.npz belongs to another run"):
        fit(KEY, make_svi(), STEPS, num_rows=N, size=N, **other, **keep)


def test_a_stream_that_ends_before_a_resumed_run_begins(tmp_path):
    keep = {"checkpoint": tmp_path / "run.npz"}
    whole = run("iterator", num_steps=20, **keep)
    short = (batch for batch, _ in zip(batches(0), range(5), strict=False))
    with pytest.raises(training.BatchError, match="batches: ended before step") as got:
        fit(KEY, make_svi(), STEPS, num_rows=N, size=N, batches=short, **keep)
    assert_same_run(got.value.result, replace(whole, stopped="no more batches"))
    assert steps_in(keep["checkpoint"]) == 20


MANY_SITES = """
import sys, warnings
warnings.simplefilter("error", UserWarning)
import jax, numpy as np, numpyro, numpyro.distributions as dist, optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from helpers.training import fit


def model(y):
    for name in ("one", "two", "three"):
        numpyro.sample(name, dist.Normal(0, 1))
    a = numpyro.sample("a", dist.LogNormal(0, 1))
    numpyro.sample("y", dist.Normal(0, a).expand([20]).to_event(1), obs=y)


svi = SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())
result = fit(jax.random.key(1), svi, int(sys.argv[2]), np.ones(20, "float32"),
             checkpoint=sys.argv[1], progress_bar=False,
             evaluate=lambda params, key: params["a_auto_loc"], patience=90)
print(result.steps)
"""


def test_an_unchanged_run_is_accepted_by_another_process(tmp_path):
    """Also where names are hashed in another way; more steps are no change."""
    command = [sys.executable, "-c", MANY_SITES, str(tmp_path / "run.npz")]
    for seed, steps in enumerate(("10", "15")):
        done = subprocess.run(
            [*command, steps],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        assert done.stdout.split() == [steps]


WRITER = """
import pathlib, sys
import numpy as np
from fitting import checkpoints

mine = np.full(100_000, float(sys.argv[2]))
facts = {"run": "", "code": "", "begin": 0, "done": 1}
for _ in range(40):
    checkpoints.write(pathlib.Path(sys.argv[1]), [mine, mine], **facts)
"""


def test_two_processes_that_write_one_file_never_tear_it(tmp_path):
    path = tmp_path / "run.npz"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            stored = checkpoints.read(path)
            seen.add(float(stored["leaf_0"][0]))
            assert (stored["leaf_0"] == stored["leaf_0"][0]).all()
            assert (stored["leaf_1"] == stored["leaf_0"][0]).all()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen <= {1.0, 2.0}
    assert os.listdir(tmp_path) == ["run.npz"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_runs_are_kept_while_one_of_them_fails(monkeypatch, tmp_path):
    def roots(x):
        a = numpyro.param("a", jax.random.normal)
        numpyro.factor("y", -(a**2) + 0 * x.mean() + jnp.where(a < 0, jnp.nan, 0.0))

    svi = SVI(roots, lambda x: None, optax.sgd(0.1), Trace_ELBO())
    keys = jax.random.split(KEY, 4)
    whole = fit(keys, svi, 30, X)
    assert sorted(set(whole.stopped)) == ["all steps done", "not finite"]
    keep = {"checkpoint": tmp_path / "run.npz", "checkpoint_every": 10}
    with monkeypatch.context() as patch:
        break_off(patch, 2)
        with pytest.raises(Stop):
            fit(keys, svi, 30, X, **keep)
    assert steps_in(keep["checkpoint"]) == 20
    resumed = fit(keys, svi, 30, X, **keep)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.params["a"], whole.params["a"])
    assert resumed.stopped == whole.stopped


def test_checkpoint_of_a_model_that_closes_over_another_array(tmp_path):
    keep = {"checkpoint": tmp_path / "run.npz"}
    run("all rows", svi=make_svi(with_array(0)), num_steps=10, **keep)
    with pytest.warns(UserWarning, match="something else than the one that wrote"):
        run("all rows", svi=make_svi(with_array(1)), num_steps=10, **keep)


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "large disk").mkdir()
    there, link = tmp_path / "large disk" / "run.npz", tmp_path / "run.npz"
    link.symlink_to(there)
    run("all rows", num_steps=20, checkpoint=link)
    assert_same_run(run("all rows", checkpoint=link), run("all rows"))
    assert link.is_symlink()
    assert not there.is_symlink()
    assert steps_in(there) == STEPS


def test_a_folder_that_cannot_be_written_to(tmp_path):
    """It is refused at once, not after an hour of steps."""
    folder = Path("/proc")  # not even by root
    if os.getuid() != 0:
        folder = tmp_path / "read only"
        folder.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="expected a folder that can be written"):
        run("all rows", num_steps=10**9, checkpoint=folder / "run.npz")


def test_others_may_read_a_checkpoint_as_other_files(tmp_path):
    checkpoints.write(tmp_path / "run.npz", np.zeros(2))
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


SPLIT = """
import sys
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from helpers.training import fit

jax.config.update("jax_num_cpu_devices", 4)
axes = (AxisType.Auto,) * 2
mesh = jax.make_mesh((2, 2), ("rows", "width"), axis_types=axes)


def model(x):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([64]).to_event(1))
    numpyro.sample("x", dist.Normal(w.sum(), 1).expand([8]), obs=x)


def on_first(tree):
    leaves = jax.tree.leaves(tree)
    parts = [s.data.nbytes for leaf in leaves for s in leaf.addressable_shards
             if s.device == jax.devices()[0]]
    return sum(parts) / sum(leaf.nbytes for leaf in leaves)


x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("rows")))
svi = SVI(model, AutoNormal(model), optax.adam(0.01), Trace_ELBO())
key = jax.random.key(1)
start = svi.get_params(svi.init(key, x))
start = jax.device_put(start, NamedSharding(mesh, PartitionSpec("width")))


def run(num_steps, **keep):
    return fit(key, svi, num_steps, x, init_params=start, progress_bar=False, **keep)


whole = run(40)
run(20, checkpoint=sys.argv[1])
resumed = run(40, checkpoint=sys.argv[1])
for result in (whole, resumed):
    print(on_first(result.params), on_first(result.state.optim_state))
print(np.array_equal(whole.losses, resumed.losses))
"""


def test_split_parameters_stay_split(tmp_path):
    command = [sys.executable, "-c", SPLIT, str(tmp_path / "run.npz")]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2_000:]
    whole, resumed, same_losses = done.stdout.splitlines()
    assert resumed == whole
    assert whole.startswith("0.5 ")
    assert same_losses == "True"


@pytest.fixture
def small_files():
    """Let no file grow: writing fails for real, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk(tmp_path, path, small_files):
    before = path.read_bytes()
    small_files(100)
    with pytest.raises(CheckpointError, match="could not be written") as caught:
        run("all rows", checkpoint=path, checkpoint_every=20)
    small_files(resource.RLIM_INFINITY)
    assert caught.value.__cause__.errno == errno.EFBIG
    kept = caught.value.result
    assert kept.steps == 20
    np.testing.assert_array_equal(kept.losses, run("all rows", num_steps=20).losses)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]
    assert_same_run(run("all rows", checkpoint=path), run("all rows"))


TORN = """
import os, pathlib, sys
import numpy as np
from fitting import checkpoints

def torn(file, **arrays):
    file.write(b"PK" + bytes(300))
    file.flush()
    os._exit(9)

np.savez = torn
checkpoints.write(pathlib.Path(sys.argv[1]), np.zeros(3))
"""


def test_crash_while_a_checkpoint_is_written(tmp_path, path):
    """The new file is there in part; the old one counts."""
    before = path.read_bytes()
    child = subprocess.run([sys.executable, "-c", TORN, str(path)], check=False)
    assert child.returncode == 9
    assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) == 2  # the part that nobody could clear away
    assert_same_run(run("all rows", checkpoint=path), run("all rows"))


def test_no_checkpoint_of_broken_parameters(tmp_path):
    path = tmp_path / "run.npz"

    def explode(count):
        return jnp.where(count == 19, jnp.inf, 0.01)  # the twentieth update

    svi = make_svi(optimizer=optax.sgd(explode))
    with pytest.raises(NonFiniteLossError, match="step 20"):
        run("all rows", svi=svi, checkpoint=path, checkpoint_every=10)
    assert steps_in(path) == 10


def test_resumed_just_before_an_explosion(tmp_path):
    """The last good state is the one in the file."""
    path = tmp_path / "run.npz"

    def explode(count):
        return jnp.where(count >= 19, 1e30, 0.01)

    svi = make_svi(optimizer=optax.sgd(explode))
    keep = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(NonFiniteLossError) as first:
        run("all rows", svi=svi, **keep)
    done = steps_in(path)
    with pytest.raises(NonFiniteLossError) as again:
        run("all rows", svi=svi, **keep)
    assert again.value.step == first.value.step
    assert again.value.result.steps == again.value.result.losses.size == done
    assert np.isfinite(again.value.result.losses).all()


def test_numbers_of_unusual_types(tmp_path):
    path = tmp_path / "run.npz"
    svi = make_svi(optimizer=optax.adam(0.02, mu_dtype=jnp.bfloat16))
    run("all rows", svi=svi, num_steps=20, checkpoint=path)
    assert_same_run(run("all rows", svi=svi, checkpoint=path), run("all rows", svi=svi))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"checkpoint_every": 5}, ValueError, "checkpoint_every: .*without checkpoint"),
        ({"checkpoint": "a", "checkpoint_every": 0}, ValueError, "every: .*least 1"),
        ({"checkpoint": 3}, TypeError, "checkpoint: expected a path, got int"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        run("all rows", **change)
