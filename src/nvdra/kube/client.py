"""HTTP calls to the API server, with bytes as bodies, over connections that are kept open.

A library parses HTTP (`connection`, docs/decisions/0001).

A call is one request and one answer, or an ApiError. Only two kinds of calls are retried here, because the server did
not process them: a call whose token was refused, if there is a newer token; and a GET that got a Retry-After which fits
into its own timeout.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import orjson

from nvdra.kube import connection
from nvdra.kube.answers import chunk, document, event, refusal, versions
from nvdra.kube.config import Access
from nvdra.kube.connection import Broken, TooLarge
from nvdra.kube.connections import OPEN_S, Connections, Headers
from nvdra.kube.paging import MOST_BYTES, PageSize
from nvdra.kube.throttle import Throttle
from nvdra.ports import ApiError, Event, Page, Propagation, Resource

DEFAULT_QPS = 50.0
DEFAULT_BURST = 100
TIMEOUT_S = 30.0

# The API server closes a connection after 90 idle seconds, and a new one costs a TLS handshake.
_WARM_EVERY_S = 60.0

# The reason of an error whose answer was cut off because of its size.
TOO_LARGE = "TooLarge"
_RETRIED = frozenset((429, 503))
_ATTEMPTS = 10
# For this long after a Retry-After has passed, GETs of claims wait in the queue as well.
_CALM_S = 10.0
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML; every server with server-side apply knows this name


@dataclass(frozen=True, slots=True)
class Response:
    """One exchange with the API server, for logs and counters.

    status        HTTP status; 0 if no answer came
    keeps_warm    the exchange only kept an idle connection open
    """

    verb: str
    url: str
    status: int
    duration_s: float
    keeps_warm: bool = False


class HttpKube:
    """The `Kube` port over HTTP/1.1. Use it with `async with`.

    qps, burst   limit the calls by a queue; GETs of claims, which pods wait for, skip the queue unless the server asks
                 for fewer calls
    on_response  called after each exchange
    """

    def __init__(
        self,
        access: Access,
        *,
        qps: float = DEFAULT_QPS,
        burst: int = DEFAULT_BURST,
        user_agent: str = "nvdra",
        on_response: Callable[[Response], None] | None = None,
        warm_every_s: float = _WARM_EVERY_S,
        open_timeout_s: float = OPEN_S,
    ) -> None:
        self._access = access
        self._qps, self._burst = qps, burst
        self._headers: Headers = (("Accept", _JSON), ("User-Agent", user_agent), *access.headers)
        self._on_response = on_response
        self._warm_every_s = warm_every_s
        self._open_timeout_s = open_timeout_s
        self._urls: dict[tuple[Resource, str], str] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._throttle = Throttle(self._qps, self._burst, self._loop.time, asyncio.sleep)
        self._connections = Connections(self._access, open_timeout_s=self._open_timeout_s)
        self._last_used = self._loop.time()
        self._pressed_until = self._last_used
        self._warming = asyncio.create_task(self._keep_warm())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._warming.cancel()
        await asyncio.gather(self._warming, return_exceptions=True)
        self._connections.close()

    # The port

    async def discover(self, group: str) -> tuple[str, ...]:
        try:
            answer = await self._call("GET", f"/apis/{group}")
        except ApiError as error:
            if error.status == 404:
                return ()
            raise
        return versions(answer)

    async def server_version(self) -> str:
        return str(document(await self._call("GET", "/version")).get("gitVersion", ""))

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, timeout_s: float = TIMEOUT_S, cached: bool = False
    ) -> bytes:
        path = f"{self._path_of(resource, name, namespace)}{'?resourceVersion=0' if cached else ''}"
        is_claim = resource.plural == "resourceclaims"
        return await self._call("GET", path, timeout_s=timeout_s, queued=not is_claim, patient=True)

    async def list(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> Page:
        pages = self.pages(resource, namespace, field_selector=field_selector, label_selector=label_selector)
        found = [page async for page in pages]
        return Page(tuple(item for page in found for item in page.items), found[-1].resource_version)

    async def pages(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> AsyncIterator[Page]:
        query = _selectors(field_selector, label_selector)
        size = PageSize()
        while True:
            query["limit"] = str(size.limit)
            try:
                answer = await self._call("GET", self._path(resource, namespace), query, most=MOST_BYTES)
            except ApiError as error:
                if error.reason != TOO_LARGE or not size.shrink():
                    raise
                continue
            part = chunk(answer, resource.plural)
            size.took(len(answer), len(part.items))
            del answer
            yield Page(part.items, part.resource_version)
            if not part.more:
                return
            if part.more == query.get("continue"):
                raise ApiError(0, "", "the API server's answer to a LIST repeats its continue token")
            query["continue"] = part.more

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes:
        return await self._call("POST", self._path(resource, namespace), body=body)

    async def update(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        return await self._call("PUT", self._path_of(resource, name, namespace, subresource), body=body)

    async def patch(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        path = self._path_of(resource, name, namespace, subresource)
        return await self._call("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def apply(
        self,
        resource: Resource,
        name: str,
        body: bytes,
        namespace: str = "",
        *,
        manager: str,
        force: bool = False,
        subresource: str = "",
    ) -> bytes:
        path = self._path_of(resource, name, namespace, subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._call("PATCH", path, query, body=body, content_type=_APPLY_PATCH)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: Propagation = "",
    ) -> None:
        conditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if propagation:
            options["propagationPolicy"] = propagation
        options["preconditions"] = {key: value for key, value in conditions.items() if value}
        await self._call("DELETE", self._path_of(resource, name, namespace), body=orjson.dumps(options))

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str,
        field_selector: str = "",
        label_selector: str = "",
    ) -> AsyncIterator[Event]:
        # Servers end watches of the same age together; random ages spread the reconnects.
        age_s = random.randint(300, 600)
        query = _selectors(field_selector, label_selector)
        query |= {"watch": "1", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": resource_version, "timeoutSeconds": str(age_s)}
        target = f"{self._path(resource, namespace)}?{urlencode(query)}"
        await self._throttle.admit()
        began = time.perf_counter()
        status = 0
        try:
            headers, silence_s = self._with_login(), age_s + TIMEOUT_S
            async with self._connections.stream(target, headers, timeout_s=TIMEOUT_S, silence_s=silence_s) as (
                answer,
                lines,
            ):
                status = answer.status
                self._last_used = self._loop.time()
                self._report("GET", target, status, began)
                if status != 200:
                    raise refusal(answer)
                async for line in lines:
                    yield event(line)
        except (OSError, ValueError) as error:
            # TimeoutError and TLS errors are OSErrors; ValueError stands for an unreadable answer.
            if not status:
                self._report("GET", target, 0, began)
            raise self._silence(error, age_s + TIMEOUT_S if status else TIMEOUT_S) from None
        finally:
            # The next watch uses the new token; the watcher starts it by itself.
            if status == 401:
                await self._access.credentials.renew()

    # Requests

    async def _call(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        content_type: str = _JSON,
        timeout_s: float = TIMEOUT_S,
        queued: bool = True,
        patient: bool = False,
        keeps_warm: bool = False,
        most: int = connection.MOST_BYTES,
    ) -> bytes:
        """The body of a 2xx answer.

        patient   wait for what a Retry-After says, as long as `timeout_s` allows
        most      bytes of the body: one with more is an error of the reason TOO_LARGE
        """
        if queued:
            await self._throttle.admit()
        target = f"{path}?{urlencode(query)}" if query else path
        ends = self._loop.time() + timeout_s
        renewed, attempts = False, 0
        while True:
            if self._loop.time() < self._pressed_until and (attempts or not queued):
                await self._admit_until(ends)
            attempts += 1
            left_s = max(ends - self._loop.time(), 0.001)
            try:
                return await self._exchange(verb, target, body, content_type, left_s, keeps_warm, most)
            except ApiError as error:
                if error.status == 401 and not renewed:
                    renewed = True
                    if await self._access.credentials.renew():
                        continue
                wait_s = error.retry_after_s
                if error.status not in _RETRIED or wait_s is None:
                    raise
                now = self._loop.time()
                self._pressed_until = max(self._pressed_until, now + wait_s + _CALM_S)
                if not patient or attempts >= _ATTEMPTS or now + wait_s >= ends:
                    raise
                await asyncio.sleep(wait_s)

    async def _admit_until(self, ends: float) -> None:
        try:
            async with asyncio.timeout_at(ends):
                await self._throttle.admit()
        except TimeoutError:
            raise ApiError(0, "Timeout", "the API server asked for fewer calls, and this one waited too long") from None

    async def _exchange(
        self,
        verb: str,
        target: str,
        body: bytes | None,
        content_type: str,
        timeout_s: float,
        keeps_warm: bool,
        most: int,
    ) -> bytes:
        began = time.perf_counter()
        status = 0
        try:
            headers = self._with_login()
            answer = await self._connections.ask(verb, target, headers, body, timeout_s, most, content_type)
            status = answer.status
            if 200 <= status < 300:
                return answer.body
            raise refusal(answer)
        except (OSError, ValueError) as error:
            # TimeoutError and TLS errors are OSErrors; ValueError is a text that is no header.
            raise self._silence(error, timeout_s) from None
        finally:
            self._last_used = self._loop.time()
            self._report(verb, target, status, began, keeps_warm)

    def _with_login(self) -> Headers:
        authorization = self._access.credentials.header()
        return (*self._headers, ("Authorization", authorization)) if authorization else self._headers

    async def _keep_warm(self) -> None:
        while True:
            idle_s = self._loop.time() - self._last_used
            if idle_s < self._warm_every_s:
                await asyncio.sleep(self._warm_every_s - idle_s)
                continue
            try:
                await self._call("GET", "/version", timeout_s=10.0, queued=False, keeps_warm=True)
            except ApiError:
                self._last_used = self._loop.time()

    def _path(self, resource: Resource, namespace: str) -> str:
        key = (resource, namespace)
        path = self._urls.get(key)
        if path is None:
            root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
            path = f"{root}/namespaces/{quote(namespace, safe='')}" if namespace else root
            path = f"{path}/{resource.plural}"
            if len(self._urls) > 1000:
                self._urls.clear()
            self._urls[key] = path
        return path

    def _path_of(self, resource: Resource, name: str, namespace: str, subresource: str = "") -> str:
        path = f"{self._path(resource, namespace)}/{quote(name, safe='')}"
        return f"{path}/{subresource}" if subresource else path

    def _report(self, verb: str, target: str, status: int, began: float, keeps_warm: bool = False) -> None:
        if self._on_response is not None:
            took_s = time.perf_counter() - began
            self._on_response(Response(verb, self._access.server + target, status, took_s, keeps_warm))

    def _silence(self, error: Exception, timeout_s: float) -> ApiError:
        server = self._access.server
        if isinstance(error, ssl.SSLError):
            self._access.trust_anew()
            return ApiError(0, "", f"no trusted connection to the API server at {server}: {error}")
        if isinstance(error, TimeoutError) and not error.errno:
            return ApiError(0, "Timeout", f"the API server at {server} did not answer within {timeout_s:g} s")
        if isinstance(error, TooLarge):
            return ApiError(0, TOO_LARGE, f"the API server at {server} sent more than is read: {error}")
        if isinstance(error, Broken):
            return ApiError(0, "", f"the connection to the API server at {server} broke: {error}")
        number = getattr(error, "errno", None) or 0
        # Positive numbers are the system's; the event loop replaces their texts by its own.
        cause = os.strerror(number) if number > 0 else str(error) or type(error).__name__
        return ApiError(0, "", f"the API server at {server} cannot be reached: {cause}")


def _selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    pairs = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {key: value for key, value in pairs.items() if value}
