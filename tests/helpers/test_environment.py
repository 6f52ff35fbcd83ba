"""The check of the set-up finds what is wrong and names the command that mends it."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from helpers import __main__ as setup
from helpers import environment


def test_a_good_set_up_passes(capsys):
    assert setup.check()
    out = capsys.readouterr().out
    assert "MEND" not in out
    for name in ("python", "jax", "numpyro", "device: ", "50 steps of SVI"):
        assert f"ok    {name}" in out


def missing(name):
    if name == "numpyro":
        raise metadata.PackageNotFoundError(name)
    return "99.0"


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (missing, "MEND  numpyro is missing"),
        (lambda name: "0.1" if name == "numpyro" else "99.0", "numpyro 0.1 is older"),
    ],
    ids=["missing", "old"],
)
def test_a_bad_package_is_named_with_a_command(monkeypatch, capsys, version, says):
    monkeypatch.setattr(setup.metadata, "version", version)
    assert not setup.check()
    out = capsys.readouterr().out
    assert says in out
    assert "-m pip install -r " in out
    assert "1 to mend" in out


def test_a_broken_package_is_named(monkeypatch, capsys):
    def broken(name):
        if name == "flax":
            raise ImportError("no such symbol\nmore")

    monkeypatch.setattr(setup.importlib, "import_module", broken)
    assert not setup.check()
    out = capsys.readouterr().out
    assert "flax" in out
    assert "cannot be imported: ImportError: no such symbol\n" in out
    assert "--force-reinstall" in out


def test_a_device_that_is_not_there_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "helpers"],
        env=os.environ | {"JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "MEND  JAX finds no device: " in done.stdout
    assert "unset JAX_PLATFORMS" in done.stdout
    assert done.stderr == ""


def test_a_missing_project_is_named(monkeypatch, capsys):
    monkeypatch.setattr(setup, "PROJECT", "no-such-project")
    assert not setup.check()
    assert "pip install --no-deps -e ." in capsys.readouterr().out


def test_without_the_lock_the_command_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    command = setup._install_command("jax>=0.12")
    assert command.endswith('-m pip install "jax>=0.12"')


def test_optional_packages_may_be_missing(monkeypatch, capsys):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(setup.metadata, "version", version)
    assert setup._check_optional("jupyterlab", "4.5")
    assert "only `make lab` needs it" in capsys.readouterr().out


def test_versions_are_printed_for_a_notebook(capsys):
    environment.print_versions()
    first, second = capsys.readouterr().out.splitlines()
    assert f"numpyro {metadata.version('numpyro')}" in first
    assert second == f"device: {environment.device()}"


def test_nothing_heavy_is_imported():
    code = "import sys, helpers.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
