"""What kubelet asks and is told, as values, and their form on the wire in both DRA versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from nvdra.api.claim import ClaimRef
from nvdra.kubelet.wire import messages as wire

Version: TypeAlias = Literal["v1", "v1beta1"]


class AnswerDevice(Protocol):
    """One prepared device, as the record keeps it (checkpoint.PreparedDevice).

    requests   in full form ("req" or "req/sub"); kubelet is told the base names
    """

    @property
    def requests(self) -> tuple[str, ...]: ...
    @property
    def pool(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def cdi_ids(self) -> tuple[str, ...]: ...
    @property
    def share_id(self) -> str | None: ...


class Failed(Protocol):
    """Why one claim could not be served.

    error   for people: kubelet shows it as an event and groups events by text, so it is stable
    """

    @property
    def error(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """The plain form of `Failed`."""

    error: str


PrepareAnswer: TypeAlias = tuple[AnswerDevice, ...] | Failed
UnprepareAnswer: TypeAlias = Failed | None

UNANSWERED = Failure("the driver gave no answer for this claim")


def claims_of(request: bytes) -> tuple[ClaimRef, ...]:
    """The claims a request names, each UID once, in order. Both calls of both versions share this shape.

    Raises MessageError.
    """
    refs: dict[str, ClaimRef] = {}
    for field, value in wire.fields(request):
        if field == 1:
            parts = dict(wire.fields(wire.message(value)))
            namespace, uid, name = (wire.text(parts.get(part, b"")) for part in (1, 2, 3))
            refs[uid] = ClaimRef(namespace=namespace, name=name, uid=uid)
    return tuple(refs.values())


def request_for(refs: Sequence[ClaimRef]) -> bytes:
    """What kubelet asks with."""
    return wire.put_each(1, (wire.put(1, ref.namespace) + wire.put(2, ref.uid) + wire.put(3, ref.name) for ref in refs))


def prepared(version: Version, refs: Sequence[ClaimRef], answers: Mapping[str, PrepareAnswer]) -> bytes:
    """NodePrepareResourcesResponse with exactly one entry for each claim asked for.

    The same answers give the same bytes: kubelets before 1.37 append the devices of a repeated prepare.
    """
    return wire.put_entries((ref.uid, _prepared_entry(version, answers.get(ref.uid, UNANSWERED))) for ref in refs)


def _prepared_entry(version: Version, answer: PrepareAnswer) -> bytes:
    if not isinstance(answer, tuple):
        return wire.put(2, answer.error or UNANSWERED.error)
    return wire.put_each(1, (_device(version, device) for device in answer))


def _device(version: Version, device: AnswerDevice) -> bytes:
    encoded = (
        wire.put_each(1, base_names(device.requests))
        + wire.put(2, device.pool)
        + wire.put(3, device.device)
        + wire.put_each(4, device.cdi_ids)
    )
    if version == "v1" and device.share_id is not None:
        encoded += wire.put_always(5, device.share_id)
    return encoded


def unprepared(refs: Sequence[ClaimRef], answers: Mapping[str, UnprepareAnswer]) -> bytes:
    """NodeUnprepareResourcesResponse, the same in both versions, one entry for each claim asked for."""
    told = ((ref.uid, answers.get(ref.uid, UNANSWERED)) for ref in refs)
    return wire.put_entries(
        (uid, b"" if answer is None else wire.put(1, answer.error or UNANSWERED.error)) for uid, answer in told
    )


def base_names(requests: Sequence[str]) -> list[str]:
    """`req/sub` as `req`, each name once."""
    return list(dict.fromkeys(request.partition("/")[0] for request in requests))
