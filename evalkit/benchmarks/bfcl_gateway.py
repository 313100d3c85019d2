"""Web search for nodes without internet: a small server to run on a login node.

    python -m evalkit.benchmarks.bfcl_gateway --backend serpapi --host login1 --port 8765 \
        --record web.jsonl

Workers find it through EVALKIT_WEB_GATEWAY=http://login1:8765 and `params.web_search: gateway`. Each
answer is also written to the recording, from which `params.web_search: replay` answers later. It
answers whoever can reach its port, so give it an address of the cluster and not of the world.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from aiohttp import web

from evalkit.benchmarks.bfcl_backends import make_backend
from evalkit.benchmarks.bfcl_choice import BackendName
from evalkit.benchmarks.bfcl_web import persist
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.bfcl_web import WebBackend

_DIRECT = [name for name in get_args(BackendName) if name != "gateway"]


async def find_answer(backend: WebBackend, request: Mapping[str, Any]) -> Any:
    """What the back end says to one request. Raises InfraError, KeyError for one of another form."""
    if request["tool"] == "search":
        keywords, most, region = (request[key] for key in ("keywords", "max_results", "region"))
        return await persist(lambda: backend.search(keywords, most, region), "a search")
    url, mode = request["url"], request["mode"]
    return await persist(lambda: backend.fetch(url, mode), "a page")


def make_app(backend: WebBackend, keep: Callable[[str], object]) -> web.Application:
    """The server; `keep` takes the lines of the recording."""

    async def ask(http: web.Request) -> web.Response:
        try:
            request = await http.json()
            answer = await find_answer(backend, request)
        except (KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": f"not a request: {error!r}"}, status=400)
        except EvalkitError as error:
            return web.json_response({"error": error.message}, status=502)
        record = {"request": request, "answer": answer, "backend": backend.name}
        keep(json.dumps(record, ensure_ascii=False) + "\n")
        return web.json_response({"answer": answer})

    app = web.Application()
    app.router.add_post("/ask", ask)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="bfcl_gateway", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--backend", choices=_DIRECT, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--record", type=Path, required=True, help="JSON Lines; appended to")
    parser.add_argument("--recording", help="what the back end `replay` answers from")
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="also fetch pages from addresses that are not public, such as this cluster's own",
    )
    arguments = parser.parse_args(argv)
    backend = make_backend(
        arguments.backend, arguments.recording, allow_private=arguments.allow_private_addresses
    )
    with arguments.record.open("a", encoding="utf-8", buffering=1) as record:
        web.run_app(make_app(backend, record.write), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
