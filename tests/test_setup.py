"""The setup survives Ctrl-C, a second setup, a missing network and a copied project."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import execute
import setup_check
from helpers import __main__ as report

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = str(ROOT / "tests" / "conftest.py")
# A Python that makes a .venv with a copy of itself and installs nothing.
PYTHON = """#!/bin/sh
echo "$@" >>calls
case "$*" in
    *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; [ -z "$SLOW" ] || sleep 30
        cp "$0" .venv/bin/python;;
    *"pip --version"*) [ ! -e .venv/no-pip ];;
    *"pip install"*) [ -z "$NO_NETWORK" ];;
esac
"""


@pytest.fixture
def project(tmp_path):
    """Return a folder that a setup can be run in."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "requirements.lock").write_text("uv==1\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def start(project, **env):
    return subprocess.Popen(
        ["sh", "tools/setup.sh"],
        cwd=project,
        env=os.environ | {"PYTHON": str(project / "python")} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def setup(project, **env):
    """Run a setup; return its exit status and what it printed."""
    process = start(project, **env)
    out, _ = process.communicate(timeout=60)
    assert not (project / ".setup-lock").is_dir()
    return process.returncode, out


def venvs_made(project):
    return (project / "calls").read_text().count("-m venv")


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_a_venv_without_pip_is_made_anew(project):
    assert setup(project)[0] == 0
    assert (project / ".venv" / ".installed").exists()
    assert setup(project)[0] == 0
    assert venvs_made(project) == 1
    (project / ".venv" / "no-pip").touch()
    assert setup(project)[0] == 0
    assert venvs_made(project) == 2


def test_ctrl_c_leaves_no_half_made_venv(project):
    process = start(project, SLOW="yes")
    wait_for(project / ".venv" / "bin")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (project / ".venv").exists()
    assert setup(project)[0] == 0


def test_a_missing_network_is_named_with_its_cure(project):
    status, out = setup(project, NO_NETWORK="yes")
    assert status == 1
    assert "no network here" in out
    assert "run the same command again" in out
    assert not (project / ".venv" / ".installed").exists()
    assert setup(project)[0] == 0


def test_a_second_setup_waits_for_the_first(project):
    lock = project / ".setup-lock"
    lock.mkdir()
    (lock / "process").write_text(str(os.getpid()))
    process = start(project)
    assert f"(process {os.getpid()}): waiting" in process.stdout.readline()
    assert not (project / ".venv").exists()
    shutil.rmtree(lock)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_lock_of_a_killed_setup_counts_for_nothing(project):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (project / ".setup-lock").mkdir()
    (project / ".setup-lock" / "process").write_text(str(ended.pid))
    assert setup(project)[0] == 0


def test_a_folder_that_cannot_be_written_is_named(project):
    (project / ".setup-lock").touch()  # so that nothing can be made under its name
    status, out = setup(project)
    assert status == 1
    assert f"Nothing can be written in {project}" in out


@pytest.mark.parametrize("same", ["True", "False"])
def test_make_sets_a_copied_project_up_again(project, same):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").write_text(f"#!/bin/sh\necho {same}\n")
    (project / ".venv" / "bin" / "python").chmod(0o755)
    (project / ".venv" / ".installed").touch()
    done = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=project, capture_output=True, text=True
    )
    assert ("tools/setup.sh" in done.stdout) == (same == "False"), done.stderr


def test_the_helpers_of_another_folder_are_noticed(
    monkeypatch, tmp_path, capsys, pytestconfig
):
    copied = tmp_path / "src" / "helpers"
    copied.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert not report.check()
    assert f"make setup (in {tmp_path})" in capsys.readouterr().out
    monkeypatch.setattr(setup_check.helpers, "__file__", str(copied / "__init__.py"))
    message = rf"helpers of another folder, {copied}\..*run `make setup` there"
    with pytest.raises(SystemExit, match=message):
        execute.main(["--check"])
    with pytest.raises(pytest.UsageError, match=message):
        pytestconfig.pluginmanager.get_plugin(CONFTEST).pytest_configure(pytestconfig)


def test_python_without_asserts_is_refused():
    code = "from setup_check import check_setup; check_setup()"
    path = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONOPTIMIZE": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "unset PYTHONOPTIMIZE" in done.stderr
