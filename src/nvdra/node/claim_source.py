"""Claims as the API server has them, one GET each."""

from __future__ import annotations

from typing import Protocol

from nvdra import telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, decode_claim
from nvdra.ports import ApiError, Clock

# kubelet waits 45 s for an answer and retries after 10 s, so a silent API server must not use up the call.
API_TIMEOUT_S = 2.0

Fetched = Claim | ApiError | str  # or what is wrong with the claim


class ClaimSource(Protocol):
    """Where claims come from: the API server, one GET each."""

    async def claim(self, namespace: str, name: str, *, timeout_s: float, cached: bool = False) -> bytes: ...


class Claims:
    """Fetches the claims that kubelet calls for."""

    def __init__(self, source: ClaimSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock

    async def fetch(self, ref: ClaimRef, *, cached: bool = False) -> Fetched:
        """The claim as the API server has it, or what is wrong with it. One GET; asked again only if no answer came."""
        end = self._clock.now() + API_TIMEOUT_S
        while True:
            left = end - self._clock.now()
            try:
                claim = decode_claim(
                    await self._source.claim(ref.namespace, ref.name, timeout_s=max(left, 0.1), cached=cached)
                )
            except ApiError as error:
                if error.status == 0 or error.status >= 500 or error.status == 429:
                    pause = 0.25 if error.retry_after_s is None else error.retry_after_s
                    if self._clock.now() + pause < end:
                        await self._clock.sleep(pause)
                        continue
                return error
            except ClaimError as error:
                # An answer that is no claim counts as no answer: a prepared claim is then answered from the checkpoint.
                is_told = error.kind == "unallocated" and ref.has_name_of(error.ref)
                return str(error) if is_told else ApiError(0, "", str(error))
            except Exception as error:  # fails this claim only
                telemetry.error("Fetching a claim failed unexpectedly", error, claim=str(ref))
                return f"internal error: {type(error).__name__}: {error}"
            if not ref.has_name_of(claim.ref):
                return ApiError(0, "", f"the API server's answer is another claim, {claim.ref}")
            if claim.ref.uid != ref.uid:
                return f"claim {ref.namespace}/{ref.name} got replaced"
            return claim


def is_gone(ref: ClaimRef, error: ApiError) -> bool:
    """Whether the API server says that there is no claim of this name."""
    return error.is_missing("resourceclaims", ref.name)


def not_retrieved(ref: ClaimRef, error: ApiError) -> str:
    """Why the claim could not be fetched, in the Go driver's words."""
    return f"retrieve claim {ref.namespace}/{ref.name}: {error.message}"
