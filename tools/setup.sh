#!/bin/sh
# Makes .venv (where it is missing or broken) and installs requirements.lock and this
# project into it. Called by make; PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

new_enough='import sys; sys.exit(sys.version_info < (3, 12))'

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

if ! .venv/bin/python -c "$new_enough; import pip" >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version) ($python)"
    if ! "$python" -m venv --clear .venv; then
        rm -rf .venv
        echo >&2
        echo "$python cannot make virtual environments." >&2
        echo "On Debian and Ubuntu: sudo apt install python3-venv, then run the same command again." >&2
        exit 1
    fi
fi

# uv installs the same packages as pip, in seconds; where it cannot, pip does.
py=.venv/bin/python
echo "Installing requirements.lock into .venv"
if $py -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)" &&
    $py -m uv pip install --quiet --python .venv --no-deps -r requirements.lock -e .; then
    :
else
    echo "uv could not install it; pip does it now, which takes a few minutes"
    $py -m pip install --disable-pip-version-check --no-deps -r requirements.lock
    $py -m pip install --disable-pip-version-check --no-deps -e .
fi
touch .venv/.installed
