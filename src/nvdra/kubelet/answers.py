"""Kubelet's requests and our responses as values, and their wire form in both DRA versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from nvdra.api.claim import ClaimRef
from nvdra.kubelet.proto.dra.v1 import api_pb2 as v1
from nvdra.kubelet.proto.dra.v1beta1 import api_pb2 as v1beta1

Version: TypeAlias = Literal["v1", "v1beta1"]


class AnswerDevice(Protocol):
    """One prepared device, as the checkpoint keeps it (checkpoint.PreparedDevice).

    requests   in full form ("req" or "req/sub"); kubelet gets the base names
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

    error   shown by kubelet as an event; kubelet groups events by text, so the text must be stable
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

    Raises google.protobuf.message.DecodeError.
    """
    message = v1.NodePrepareResourcesRequest.FromString(request)
    refs = {claim.uid: ClaimRef(namespace=claim.namespace, name=claim.name, uid=claim.uid) for claim in message.claims}
    return tuple(refs.values())


def prepared(version: Version, refs: Sequence[ClaimRef], answers: Mapping[str, PrepareAnswer]) -> bytes:
    """NodePrepareResourcesResponse with exactly one entry for each claim asked for.

    The same answers give the same bytes: kubelets before 1.37 append the devices of a repeated prepare.
    """
    if version == "v1":
        return _fill_v1(refs, answers).SerializeToString(deterministic=True)
    return _fill_v1beta1(refs, answers).SerializeToString(deterministic=True)


def unprepared(refs: Sequence[ClaimRef], answers: Mapping[str, UnprepareAnswer]) -> bytes:
    """NodeUnprepareResourcesResponse, the same in both versions, one entry for each claim asked for."""
    message = v1.NodeUnprepareResourcesResponse()
    for ref in refs:
        answer = answers.get(ref.uid, UNANSWERED)
        message.claims[ref.uid].error = "" if answer is None else answer.error or UNANSWERED.error
    return message.SerializeToString(deterministic=True)


def _fill_v1(refs: Sequence[ClaimRef], answers: Mapping[str, PrepareAnswer]) -> v1.NodePrepareResourcesResponse:
    message = v1.NodePrepareResourcesResponse()
    for ref in refs:
        entry = message.claims[ref.uid]
        answer = answers.get(ref.uid, UNANSWERED)
        if not isinstance(answer, tuple):
            entry.error = answer.error or UNANSWERED.error
            continue
        for device in answer:
            entry.devices.add(
                request_names=base_names(device.requests),
                pool_name=device.pool,
                device_name=device.device,
                cdi_device_ids=device.cdi_ids,
                share_id=device.share_id,
            )
    return message


def _fill_v1beta1(
    refs: Sequence[ClaimRef], answers: Mapping[str, PrepareAnswer]
) -> v1beta1.NodePrepareResourcesResponse:
    message = v1beta1.NodePrepareResourcesResponse()
    for ref in refs:
        entry = message.claims[ref.uid]
        answer = answers.get(ref.uid, UNANSWERED)
        if not isinstance(answer, tuple):
            entry.error = answer.error or UNANSWERED.error
            continue
        for device in answer:
            entry.devices.add(
                request_names=base_names(device.requests),
                pool_name=device.pool,
                device_name=device.device,
                cdi_device_ids=device.cdi_ids,
            )
    return message


def base_names(requests: Sequence[str]) -> list[str]:
    """`req/sub` as `req`, each name once."""
    return list(dict.fromkeys(request.partition("/")[0] for request in requests))
