"""A FakeKube served over HTTP on loopback: an API server for the demo, the benchmarks and the client's own tests.

    python -m nvdra.testing.api_server --port 0 --kubeconfig FILE --node NAME

Paths, verbs, status objects, chunked lists and watch streams are the real server's, as far as a node driver goes.
Three paths are its own: GET /testing/calls (what was asked, by verb and kind), POST /testing/faults (a JSON object with
the arguments of `FakeKube.fail`, or {"away": true}, or {"delay_s": 0.1}), DELETE /testing/faults (all is well again).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import math
import signal
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from nvdra.ports import ApiError, Resource
from nvdra.testing.kube import FakeKube

_JSON = "application/json"
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}


class ApiServer:
    """Serves one FakeKube. `token`: refuse everybody who does not bear it."""

    def __init__(self, kube: FakeKube, *, token: str = "") -> None:
        self.kube = kube
        self.token = token
        self.requests = 0
        self.connections: set[Any] = set()

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """The URL it is served at while the context lasts."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.2)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
            await site.start()
            yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            # Watches only end when they are ended: a shutdown would wait for them.
            self.kube.end_watches()
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername"))
        try:
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                raise ApiError(401, "Unauthorized", "Unauthorized")
            parts = request.path.strip("/").split("/")
            if parts[0] == "testing":
                return await self._door(request, parts[1:])
            if self.kube.is_away:
                return _cut_off(request)
            return await self._route(request, parts)
        except ApiError as error:
            if error.status == 0:
                return _cut_off(request)
            return _refusal(error)

    async def _route(self, request: web.BaseRequest, parts: Sequence[str]) -> web.StreamResponse:
        match parts:
            case ["version"]:
                version = await self.kube.server_version()
                major, minor, *_ = version.lstrip("v").split(".")
                return _ok(orjson.dumps({"major": major, "minor": minor, "gitVersion": version}))
            case ["healthz" | "livez" | "readyz"]:
                return web.Response(text="ok")
            case ["apis"]:
                groups = sorted({group for group, _ in self.kube.kinds if group})
                return _ok(orjson.dumps({"kind": "APIGroupList", "groups": [self._group(group) for group in groups]}))
            case ["apis", group]:
                if not await self.kube.discover(group):
                    return _unknown()
                return _ok(orjson.dumps(self._group(group)))
            case ["api", version, *rest] if rest:
                return await self._resource(request, "", version, rest)
            case ["apis", group, version, *rest] if rest:
                return await self._resource(request, group, version, rest)
        return _unknown()

    def _group(self, group: str) -> dict[str, Any]:
        versions = [{"groupVersion": f"{group}/{each}", "version": each} for each in self.kube.versions(group)]
        return {
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": group,
            "versions": versions,
            "preferredVersion": versions[0],
        }

    async def _resource(
        self, request: web.BaseRequest, group: str, version: str, rest: Sequence[str]
    ) -> web.StreamResponse:
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            _, namespace, *rest = rest
        kind = self.kube.kinds.get((group, rest[0]))
        if kind is None or version not in kind.versions or (namespace and not kind.namespaced) or len(rest) > 3:
            return _unknown()
        resource = Resource(group, version, rest[0], kind.namespaced)
        name, subresource = (*rest[1:], "", "")[:2]
        if subresource not in ("", "status"):
            return _unknown()
        query = request.query
        selectors = {
            "field_selector": query.get("fieldSelector", ""),
            "label_selector": query.get("labelSelector", ""),
        }
        match request.method:
            case "GET" if name:
                return _ok(await self.kube.get(resource, name, namespace, cached=query.get("resourceVersion") == "0"))
            case "GET" if query.get("watch") in ("1", "true"):
                return await self._watch(request, resource, namespace, selectors)
            case "GET":
                return _ok(await self._list(resource, kind.kind, namespace, query, selectors))
            case "POST":
                return _ok(await self.kube.create(resource, await request.read(), namespace), 201)
            case "PUT":
                body = await request.read()
                return _ok(await self.kube.update(resource, name, body, namespace, subresource=subresource))
            case "PATCH":
                return await self._patch(request, resource, name, namespace, subresource)
            case "DELETE":
                return await self._delete(request, resource, name, namespace, selectors)
        return _refusal(ApiError(405, "MethodNotAllowed", f"{request.method} is not served here"))

    async def _list(
        self, resource: Resource, kind: str, namespace: str, query: Mapping[str, str], selectors: Mapping[str, str]
    ) -> bytes:
        """A whole list, or a chunk of it; later chunks show objects as they are by then."""
        page = await self.kube.list(resource, namespace, **selectors)
        items, revision, limit = page.items, page.resource_version, int(query.get("limit") or 0)
        metadata: dict[str, Any] = {}
        start = 0
        if query.get("continue"):
            revision, start = orjson.loads(base64.urlsafe_b64decode(query["continue"]))
        if limit and len(items) > start + limit:
            metadata["continue"] = base64.urlsafe_b64encode(orjson.dumps([revision, start + limit])).decode()
            metadata["remainingItemCount"] = len(items) - start - limit
        metadata["resourceVersion"] = revision
        head = {"kind": f"{kind}List", "apiVersion": f"{resource.group}/{resource.version}".lstrip("/")}
        chunk = [orjson.Fragment(item) for item in items[start : start + limit if limit else None]]
        return orjson.dumps({**head, "metadata": metadata, "items": chunk})

    async def _watch(
        self, request: web.BaseRequest, resource: Resource, namespace: str, selectors: Mapping[str, str]
    ) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "")
        age_s = float(request.query.get("timeoutSeconds") or 1800)
        events = self.kube.watch(resource, namespace, resource_version=version, **selectors)
        stream = web.StreamResponse(headers={"Content-Type": _JSON})
        stream.enable_chunked_encoding()
        # The first event may be long in coming, but an error must still be a status: the watch is begun, then headed.
        first = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
        if first.done() and first.exception() is not None:
            first.result()
        try:
            await stream.prepare(request)
            async with asyncio.timeout(age_s):
                while (event := await first) is not None:
                    await stream.write(b'{"type":"%s","object":%s}\n' % (event.type.encode(), event.object))
                    first = asyncio.ensure_future(anext(events, None))
        except (TimeoutError, ConnectionResetError):
            pass  # its time is over, or who asked has left
        except ApiError as error:
            if error.status == 0:
                return _cut_off(request)
            await stream.write(b'{"type":"ERROR","object":%s}\n' % _status(error))
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]
        return stream

    async def _patch(
        self, request: web.BaseRequest, resource: Resource, name: str, namespace: str, subresource: str
    ) -> web.StreamResponse:
        body, query = await request.read(), request.query
        match request.content_type:
            case "application/merge-patch+json":
                return _ok(await self.kube.patch(resource, name, body, namespace, subresource=subresource))
            case "application/apply-patch+yaml":
                manager, force = query.get("fieldManager", ""), query.get("force") == "true"
                if not manager:
                    raise ApiError(400, "BadRequest", "fieldManager: Required value: is required for apply patch")
                return _ok(
                    await self.kube.apply(
                        resource, name, body, namespace, manager=manager, force=force, subresource=subresource
                    )
                )
        raise ApiError(415, "UnsupportedMediaType", f"{request.content_type} is not served here")

    async def _delete(
        self,
        request: web.BaseRequest,
        resource: Resource,
        name: str,
        namespace: str,
        selectors: Mapping[str, str],
    ) -> web.StreamResponse:
        if not name:
            await self.kube.delete_all(resource, namespace, **selectors)
        else:
            body = await request.read()
            options = orjson.loads(body) if body else {}
            conditions = options.get("preconditions") or {}
            await self.kube.delete(
                resource,
                name,
                namespace,
                uid=conditions.get("uid", ""),
                resource_version=conditions.get("resourceVersion", ""),
                propagation=options.get("propagationPolicy", ""),
            )
        return _ok(orjson.dumps({"kind": "Status", "apiVersion": "v1", "status": "Success"}))

    async def _door(self, request: web.BaseRequest, parts: Sequence[str]) -> web.StreamResponse:
        """What a test does to a server in another process."""
        match request.method, parts:
            case "GET", ["calls"]:
                calls = {f"{verb} {plural}".strip(): times for (verb, plural), times in self.kube.calls.items()}
                return _ok(orjson.dumps(calls))
            case "DELETE", ["faults"]:
                self.kube.heal()
                return _ok(b"{}")
            case "POST", ["faults"]:
                asked = orjson.loads(await request.read())
                if asked.pop("away", False):
                    self.kube.go_away()
                self.kube.delay_s = asked.pop("delay_s", self.kube.delay_s)
                if asked:
                    self.kube.fail(**asked)
                return _ok(b"{}")
        return _unknown()


def _ok(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=_JSON)


def _unknown() -> web.Response:
    return web.Response(text="404 page not found\n", status=404)


def _refusal(error: ApiError) -> web.Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": f"{math.ceil(error.retry_after_s)}"}
    return web.Response(body=_status(error), status=error.status, headers=headers, content_type=_JSON)


def _status(error: ApiError) -> bytes:
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    status |= {"message": error.message, "reason": error.reason, "code": error.status}
    if error.about[1]:
        status["details"] = dict(zip(("kind", "name"), error.about, strict=True))
    return orjson.dumps(status)


def _cut_off(request: web.BaseRequest) -> web.StreamResponse:
    """No answer at all: the connection breaks."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def kubeconfig(url: str, token: str = "") -> str:
    """The text of a kubeconfig file for a server at `url`."""
    user = {"token": token} if token else {}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testing",
            "clusters": [{"name": "testing", "cluster": {"server": url}}],
            "users": [{"name": "testing", "user": user}],
            "contexts": [{"name": "testing", "context": {"cluster": "testing", "user": "testing"}}],
        }
    )


async def _serve(options: argparse.Namespace) -> None:
    kube = FakeKube(versions=options.versions.split(","), server_version=options.server_version)
    for name in options.node:
        body = orjson.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        await kube.create(Resource("", "v1", "nodes", namespaced=False), body)
    kube.calls.clear()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ApiServer(kube, token=options.token).serving(options.port) as url:
        if options.kubeconfig:
            await asyncio.to_thread(Path(options.kubeconfig).write_text, kubeconfig(url, options.token), "utf-8")
        print(url, flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM. The URL is the first line on standard output."""
    parser = argparse.ArgumentParser(prog="python -m nvdra.testing.api_server", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0: a free one")
    parser.add_argument("--versions", default="v1", help="of resource.k8s.io, the preferred one first")
    parser.add_argument("--server-version", default="v1.37.2", help="what /version says")
    parser.add_argument("--node", action="append", default=[], help="a Node that exists from the start (repeatable)")
    parser.add_argument("--token", default="", help="bearer token to ask for")
    parser.add_argument("--kubeconfig", default="", help="write a kubeconfig for this server here")
    options = parser.parse_args(arguments)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(options))
    else:
        uvloop.run(_serve(options))


if __name__ == "__main__":
    main()
