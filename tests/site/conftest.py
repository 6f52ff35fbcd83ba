"""The site, built once with each engine that is there."""

import pytest
from built import Site, build_site

import build


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, Site]:
    """Return the built sites by engine."""
    engines = ["pandoc", *(["quarto"] if build.find_quarto() else [])]
    folder = tmp_path_factory.mktemp("site")
    try:
        return {engine: build_site(folder / engine, engine) for engine in engines}
    except RuntimeError as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture(scope="session", params=["pandoc", "quarto"])
def site(request, built) -> Site:
    """Return the site of one engine."""
    if request.param not in built:
        pytest.skip("no Quarto here: the pages of the Pandoc engine are tested")
    return built[request.param]
