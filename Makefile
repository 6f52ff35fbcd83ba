# Every target sets up .venv from requirements.lock by itself, once.
# Works with GNU make 3.81 (macOS) and newer. Without make: see README.md.

PY := .venv/bin/python
INSTALLED := .venv/.installed
NOTEBOOKS := notebooks $(wildcard *.ipynb)
CODE := src tests tools benchmarks $(NOTEBOOKS)

.PHONY: help setup site preview slides notebooks lab workshop benchmarks
.PHONY: test test-notebooks test-all lint format lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## make .venv and install everything into it
	@echo "Ready. Check it with: $(PY) -m helpers"

$(INSTALLED): requirements.lock pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh

# A .venv is set up again if it no longer works (its Python is gone), or if it imports
# the helpers of another folder (the project was moved or copied).
HERE := import helpers, os; print(os.path.samefile(helpers.__path__[0], "src/helpers"))
ifneq ($(shell $(PY) -c '$(HERE)' 2>/dev/null),True)
.PHONY: $(INSTALLED)
endif

site: $(INSTALLED) ## build pages and slides into _site (ENGINE=quarto or ENGINE=pandoc)
	@$(PY) tools/build.py site $(if $(ENGINE),--engine $(ENGINE))

preview: $(INSTALLED) ## serve the site and rebuild it on changes (ARGS="--port 8001")
	@$(PY) tools/build.py preview $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

slides: $(INSTALLED) ## build the slides alone, and a PDF of each deck
	@$(PY) tools/build.py slides $(if $(ENGINE),--engine $(ENGINE))

notebooks: $(INSTALLED) ## execute all notebooks and store their outputs (NB=03 for one)
	@$(PY) tools/execute.py $(NB)

# In a container people are often root, which JupyterLab wants to be told.
lab: $(INSTALLED) ## open copies of the notebooks in JupyterLab (ARGS="--port 9000" for options)
	@$(PY) tools/working_copy.py work
	@root=; [ "$$(id -u)" != 0 ] || root=--allow-root; \
	$(PY) -m jupyterlab --notebook-dir=work $$root $(ARGS)

workshop: site ## pack the learners' edition, for a room without a network
	@$(PY) tools/learners.py

benchmarks: $(INSTALLED) ## run all benchmarks and store their results (ARGS=--quick: short)
	@$(PY) -m benchmarks.run $(ARGS)

# Two files at a time: browser and compiler leave cores idle in turns.
test: $(INSTALLED) ## test helpers, tools and site (T="-k name" for some)
	@$(PY) -m pytest -n 2 --dist loadfile tests $(T)

test-notebooks: $(INSTALLED) ## run all notebooks, exercises solved (T="-k 03" for one)
	@$(PY) tools/solutions.py .solved
	@$(PY) -m pytest -n 2 --dist loadfile --nbmake --nbmake-timeout=300 \
	    .solved results.ipynb $(T)

# Notebooks first: the short tests fill what is left of the cores at the end.
test-all: $(INSTALLED) ## all tests and all notebooks in one run, as CI does
	@$(PY) tools/solutions.py .solved
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	    --nbmake --nbmake-timeout=300 .solved results.ipynb tests $(T)

lint: $(INSTALLED) ## check style, formatting and random keys
	@failed=0; \
	$(PY) tools/solutions.py .solved || failed=1; \
	$(PY) -m ruff check $(CODE) || failed=1; \
	$(PY) -m ruff check --ignore E501 .solved || failed=1; \
	$(PY) -m ruff format --check $(CODE) || failed=1; \
	$(PY) tools/lint_jax.py src/* .solved $(wildcard *.ipynb) || failed=1; \
	exit $$failed

format: $(INSTALLED) ## format the code, notebooks included
	@$(PY) -m ruff check --fix --quiet $(CODE)
	@$(PY) -m ruff format $(CODE)

# Versions stay as they are where they can. No index address enters the file.
lock: $(INSTALLED) ## write requirements.lock anew (UPGRADE=1 takes newer versions)
	@cp requirements.lock .venv/lock.txt
	@$(PY) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.12 \
	    --extra site --extra test --extra truths --extra methods \
	    --extra forecast --extra workshop --no-header --no-annotate \
	    $(if $(UPGRADE),--upgrade) --output-file .venv/lock.txt
	@{ echo "# Exact versions of everything the course needs. Made by: make lock"; \
	    cat .venv/lock.txt; } > requirements.lock

clean: ## remove what was built (.venv and work stay)
	rm -rf _site .quarto build course.zip learners.zip src/*.egg-info .pytest_cache .ruff_cache
