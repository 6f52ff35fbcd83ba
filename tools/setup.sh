#!/bin/sh
# Makes .venv (if it is missing or broken) and installs requirements.lock and this
# project into it. Called by make; PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

new_enough='import sys; sys.exit(sys.version_info < (3, 12))'
lock=.setup-lock
half_made=""

fail() {
    echo >&2
    printf '%s\n' "$@" >&2
    exit 1
}

# A command may exist and still not run (the shims of pyenv): only running it tells.
find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12}; do
        if "$name" -c "$new_enough" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    {
        echo "No Python 3.12 or newer runs here (tried: ${PYTHON:-python3 python3.14 python3.13 python3.12})."
        echo "Install one, then run the same command again:"
        echo "  Debian, Ubuntu   sudo apt install python3 python3-venv     (Debian 13, Ubuntu 24.04 or newer)"
        echo "  macOS            brew install python@3.13"
        echo "  any system       the installer from python.org/downloads"
        echo "  conda            conda env create -f environment.yml && conda activate scaling-vi"
        echo "Or name one: make setup PYTHON=/path/to/python3"
    } >&2
    return 1
}

# Waits while another setup is at work in this folder. A setup that was killed leaves
# the number of a process that runs no more: its lock counts for nothing.
take_lock() {
    said=""
    until mkdir "$lock" 2>/dev/null; do
        [ -d "$lock" ] || fail "Nothing can be written in $(pwd): make the folder writable."
        other=$(cat "$lock/process" 2>/dev/null || true)
        if [ -n "$other" ] && ! kill -0 "$other" 2>/dev/null; then
            rm -rf "$lock"
            continue
        fi
        [ -n "$said" ] || echo "Another setup is at work here (process $other): waiting for it."
        said=yes
        sleep 1
    done
    trap 'rm -rf "$lock"; [ -z "$half_made" ] || rm -rf .venv' EXIT
    trap 'exit 130' INT TERM HUP
    echo "$$" >"$lock/process"
}

# Ctrl-C may have left a Python without pip.
works() {
    .venv/bin/python -c "$new_enough" && .venv/bin/python -m pip --version
} >/dev/null 2>&1

take_lock
if ! works; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version) ($python)"
    half_made=yes
    "$python" -m venv --clear .venv || fail "$python cannot make virtual environments." \
        "On Debian and Ubuntu: sudo apt install python3-venv, then run the same command again."
    half_made=""
fi

# uv installs the same packages as pip, in seconds; where it cannot, pip does.
py=.venv/bin/python
pip="$py -m pip install --disable-pip-version-check"
echo "Installing requirements.lock into .venv"
if ! { $pip --quiet "$(grep '^uv==' requirements.lock)" &&
    $py -m uv pip install --quiet --python .venv --no-deps -r requirements.lock -e .; }; then
    echo "uv could not install it; pip does it now, which takes a few minutes"
    $pip --no-deps -r requirements.lock && $pip --no-deps -e . ||
        fail "The packages could not be installed; the lines above say why." \
            "Lines about connections, or 'No matching distribution found', mean that there is" \
            "no network here: the first setup downloads packages. Connect (or set PIP_INDEX_URL" \
            "or a proxy, if yours has them), then run the same command again."
fi
touch .venv/.installed
