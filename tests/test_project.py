"""The files that describe the project agree with each other."""

import json
import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAX_BYTES = 3_000_000

# Written so that this file holds none of them.
REGISTRY = re.compile(
    r"pypi[.]org|pythonhosted[.]|npmjs[.]|jsdelivr[.]|unpkg[.]|cdnjs[.]"
    r"|(deb|ftp|security)[.]debian[.]|archive[.]ubuntu[.]|conda[.]anaconda[.]"
)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def locked():
    """Return what the lock holds that applies to this machine."""
    lines = [x for x in read("requirements.lock").splitlines() if x and x[0] != "#"]
    pins = [Requirement(line) for line in lines]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


@pytest.fixture(scope="module")
def tracked():
    """The files that are, or are about to be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    paths = [ROOT / name for name in done.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def wanted():
    for extra, lines in {"": PROJECT["dependencies"], **EXTRAS}.items():
        if extra != "cuda":
            yield from lines


@pytest.mark.parametrize("line", list(wanted()))
def test_the_lock_holds_each_dependency_in_an_allowed_version(line):
    requirement = Requirement(line)
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, "run `make lock`"
    assert requirement.specifier.contains(version)


def test_the_lock_is_exact_and_has_no_addresses():
    text = read("requirements.lock")
    lines = text.splitlines()
    assert lines[0].startswith("#")
    assert all(re.match(r"[a-z0-9-]+==[0-9][^\s]*( ;|$)", line) for line in lines[1:])
    assert "://" not in text
    assert "@" not in text


def test_what_is_installed_is_what_is_locked():
    pins = locked()
    installed = {
        canonicalize_name(dist.name): dist.version for dist in metadata.distributions()
    }
    assert {n: installed.get(n) for n in pins} == pins, "run `make setup`"


def test_the_cuda_extra_asks_for_the_same_jax():
    (cuda,) = EXTRAS["cuda"]
    (plain,) = [x for x in PROJECT["dependencies"] if Requirement(x).name == "jax"]
    assert Requirement(cuda).name == "jax"
    assert Requirement(cuda).specifier == Requirement(plain).specifier


def test_the_conda_environment_installs_the_lock():
    environment = yaml.safe_load(read("environment.yml"))
    packages = environment["dependencies"]
    (pip,) = [x for x in packages if isinstance(x, dict)]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    names = {re.match(r"[a-z]+", x)[0] for x in packages if isinstance(x, str)}
    assert {"python", "quarto", "pip"} <= names
    assert environment["channels"][0] == "conda-forge"
    assert environment["name"] == PROJECT["name"]


# What the published schema of devcontainer.json calls the keys that are used here.
KINDS = {
    "name": str,
    "image": str,
    "postCreateCommand": str,
    "forwardPorts": list,
    "hostRequirements": dict,
    "customizations": dict,
}


def test_the_container_is_set_up_by_commands_that_exist():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert {key: type(value) for key, value in container.items()} == KINDS
    setup, copies = container["postCreateCommand"].split(" && ")
    assert setup == "make setup"
    python, script = copies.split()
    assert python == ".venv/bin/python"
    assert (ROOT / script).is_file()
    (editor,) = container["customizations"].values()
    where = editor["settings"]["python.defaultInterpreterPath"]
    assert where == "${containerWorkspaceFolder}/" + python


def test_binder_installs_the_lock():
    folder = ROOT / ".binder"
    lines = [x for x in read(".binder/requirements.txt").splitlines() if x[0] != "#"]
    locked_file, project = (line.split() for line in lines)
    assert (locked_file[0], project) == ("-r", ["-e", "."])
    assert (folder / locked_file[1]).resolve() == ROOT / "requirements.lock"
    assert os.access(folder / "postBuild", os.X_OK)


def test_every_file_names_the_same_python():
    series = read(".python-version").strip()
    assert f"python={series}" in yaml.safe_load(read("environment.yml"))["dependencies"]
    assert PROJECT["requires-python"] == f">={series}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{series.replace('.', '')}"
    assert f"--python-version {series} " in read("Makefile")
    assert f"({series.replace('.', ', ')})" in read("tools/setup.sh")
    assert read(".binder/runtime.txt").strip() == f"python-{series}"
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container["image"] == f"python:{series}"


def test_the_licenses_are_there_and_named():
    assert "Apache License" in read("LICENSE")
    assert "TERMS AND CONDITIONS FOR USE" in read("LICENSE")
    assert "https://creativecommons.org/licenses/by/4.0/" in read("LICENSE-text.md")
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-4.0"
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_the_citation_is_complete():
    citation = yaml.safe_load(read("CITATION.cff"))
    needed = {"cff-version", "title", "message", "authors", "version", "date-released"}
    assert needed <= set(citation)
    assert citation["license"] == ["Apache-2.0", "CC-BY-4.0"]
    assert Version(citation["version"]) == Version(PROJECT["version"])
    assert citation["title"] in PROJECT["description"]


def test_every_make_target_is_listed_by_help():
    makefile = read("Makefile")
    phony = re.findall(r"^\.PHONY: ([^$\n]*)$", makefile, re.MULTILINE)
    listed = re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE)
    assert sorted(" ".join(phony).split()) == sorted(listed)
    needed = {"setup", "site", "preview", "slides", "notebooks"}
    needed |= {
        "lab",
        "workshop",
        "benchmarks",
        "test",
        "test-notebooks",
        "lint",
        "lock",
        "clean",
    }
    assert needed <= set(listed)


def test_no_file_names_a_package_registry(tracked):
    named = {}
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if found := REGISTRY.search(text):
            named[path.name] = found[0]
    assert named == {}


def test_no_file_is_large(tracked):
    large = {p.name: p.stat().st_size for p in tracked if p.stat().st_size > MAX_BYTES}
    assert large == {}
