"""Which proxy an endpoint of somebody else's is reached through: the one place that decides it.

Servers of ours are never behind one, whatever the environment says, so nothing asks here for them.
Pure: a mapping in, an address out. The client libraries are told the answer and look at no variable
themselves; aiohttp would do that in two threads for every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from evalkit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def find_proxy(env: Mapping[str, str], url: str) -> str | None:
    """URL of the proxy that `env` names for `url`; null for none, and for this very host.

    `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in lower case before upper case, as curl
    and Python read them. Raises EndpointError for a proxy that does not speak HTTP.
    """
    parts = urlsplit(url)
    if parts.hostname in LOOPBACK:
        return None
    host_and_port = parts.netloc.rpartition("@")[2].lower()
    if _is_excepted(parts.hostname or "", host_and_port, _variable(env, "no_proxy") or ""):
        return None
    proxy = _variable(env, f"{parts.scheme}_proxy") or _variable(env, "all_proxy")
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise EndpointError(
            f"the environment names a {urlsplit(proxy).scheme} proxy for {url}; only HTTP proxies "
            "can be used",
            hint="Unset all_proxy, or set https_proxy or no_proxy for this endpoint.",
        )
    return proxy


def _is_excepted(host: str, host_and_port: str, no_proxy: str) -> bool:
    """Whether `no_proxy` names the host, a domain it is in, or everything."""
    for entry in no_proxy.lower().split(","):
        name = entry.strip().lstrip(".")
        if name == "*" or (name and name in (host, host_and_port)):
            return True
        if name and host.endswith(f".{name}"):
            return True
    return False


def _variable(env: Mapping[str, str], name: str) -> str | None:
    """A variable in either case; the lower one wins even where it is empty."""
    return env.get(name, env.get(name.upper()))
