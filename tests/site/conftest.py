"""The site, built once with each engine that is there, and served to a browser."""

import functools
import http.server
import threading

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


@pytest.fixture(scope="module")
def serve():
    """A function that serves a folder to this machine alone; returns its address."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
