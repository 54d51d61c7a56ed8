"""The files of device metadata on this node: what each claim should have, and what is left of claims that are gone.

A claim's files lie under its namespace and name, without its UID: a claim may find files of a former claim of its name
there, and one that is unprepared late the files of its successor, which stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, PreparedDevice
from nvdra.claims import metadata
from nvdra.host import is_temporary, meant_for
from nvdra.node.edits import EditsMissing
from nvdra.ports import Host


@dataclass(frozen=True, slots=True)
class MetadataFiles:
    """Device metadata of one driver's claims.

    is_on   claims get metadata; else files that an earlier run wrote are removed with their claims
    """

    host: Host
    plugin_dir: str
    cdi_root: str
    driver: str
    is_on: bool

    def told(self, uid: str, answers: tuple[PreparedDevice, ...]) -> tuple[PreparedDevice, ...]:
        """The answers as kubelet gets them."""
        return metadata.told(self.driver, uid, answers) if self.is_on else answers

    def contents(self, ref: ClaimRef, answers: Sequence[PreparedDevice], pod_claim: str | None) -> dict[str, bytes]:
        """The files that the claim should have, content by path. Raises EditsMissing.

        pod_claim   as in `Claim`; None: whatever the files on disk say
        """
        if not self.is_on:
            return {}
        requests = metadata.by_request(answers)
        if pod_claim is None and (pod_claim := self._pod_claim(ref, requests)) is None:
            raise EditsMissing(f"the device metadata of claim {ref} is lost; kubelet will ask again")
        found: dict[str, bytes] = {}
        for request, devices in requests.items():
            path = self._path(ref, request)
            found[path] = metadata.document(self.driver, ref, pod_claim, devices)
            found[self._cdi_path(ref, request)] = metadata.cdi_file(self.driver, ref, pod_claim, request, path)
        return found

    def are_current(self, ref: ClaimRef, answers: Sequence[PreparedDevice]) -> bool:
        """Whether the claim's files have the content that they should have."""
        if not self.is_on or self._has_successor(ref):
            return True
        try:
            return all(self.host.read(path) == content for path, content in self.contents(ref, answers, None).items())
        except (OSError, EditsMissing):
            return False

    def has_lost_name(self, ref: ClaimRef, answers: Sequence[PreparedDevice]) -> bool:
        """Whether no file of the claim is left to say for which claim of a pod it was made."""
        return self.is_on and self._pod_claim(ref, metadata.by_request(answers)) is None

    def files_of(self, ref: ClaimRef) -> tuple[str, ...]:
        """Files and folders of the claim, in the order in which they are removed."""
        if not self.is_on and not self.host.exists(self._folder):
            return ()
        own = (name for name in self._names(self.cdi_root) if self._cdi_claim(name) == ref.uid)
        files = [f"{self.cdi_root}/{name}" for name in own]
        if not self._has_successor(ref):
            files += self._tree(f"{ref.namespace}_{ref.name}")
        return tuple(files)

    def leftovers(self, checkpoint: Checkpoint) -> list[str]:
        """Files and folders of claims that the checkpoint does not have, and files of killed writers."""
        if not self.is_on and not self.host.exists(self._folder):
            return []
        entries = checkpoint.entries
        files = []
        for name in self._names(self.cdi_root):
            uid = self._cdi_claim(name)
            if uid is not None and (uid not in entries or meant_for(name) is not None):
                files.append(f"{self.cdi_root}/{name}")
        known = {f"{entry.namespace}_{entry.name}" for entry in entries.values()}
        for claim in self._names(self._folder):
            # Of a claim that is prepared, only what a killed writer left.
            tree = self._tree(claim)
            files += (path for path in tree if claim not in known or is_temporary(path.rpartition("/")[2]))
        return files

    def _tree(self, claim: str) -> Iterator[str]:
        folder = f"{self._folder}/{claim}"
        for request in self._names(folder):
            yield from (f"{folder}/{request}/{name}" for name in self._names(f"{folder}/{request}"))
            yield f"{folder}/{request}"
        if self.host.exists(folder):
            yield folder

    def _pod_claim(self, ref: ClaimRef, requests: Iterable[str]) -> str | None:
        """The name of the claim in its pod, "" for a claim of its own; None if no file of the claim says it."""
        for request in requests:
            stored = _first_document(self._content(self._path(ref, request)))
            if _uid(stored) == ref.uid:
                return str(stored.get("podClaimName", ""))
            if (name := metadata.pod_claim(self._content(self._cdi_path(ref, request)))) is not None:
                return name
        return None

    def _has_successor(self, ref: ClaimRef) -> bool:
        """Whether a later claim of the same name has the folder."""
        folder = f"{self._folder}/{ref.namespace}_{ref.name}"
        files = (f"{folder}/{request}/{metadata.FILE}" for request in self._names(folder))
        return any(_uid(_first_document(self._content(path))) not in ("", ref.uid) for path in files)

    @property
    def _folder(self) -> str:
        return f"{self.plugin_dir}/dra-device-metadata"

    def _path(self, ref: ClaimRef, request: str) -> str:
        return f"{self._folder}/{ref.namespace}_{ref.name}/{request}/{metadata.FILE}"

    def _cdi_path(self, ref: ClaimRef, request: str) -> str:
        return f"{self.cdi_root}/{metadata.cdi_name(self.driver, ref.uid, request)}"

    def _cdi_claim(self, name: str) -> str | None:
        return metadata.cdi_claim(self.driver, meant_for(name) or name)

    def _content(self, path: str) -> bytes:
        try:
            return self.host.read(path)
        except OSError:
            return b""

    def _names(self, folder: str) -> list[str]:
        try:
            return self.host.list(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []


def _first_document(content: bytes) -> dict[str, Any]:
    """The first of the JSON documents in a metadata file; empty if it is no such file."""
    try:
        found, _ = json.JSONDecoder().raw_decode(content.decode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _uid(document: dict[str, Any]) -> str:
    named = document.get("metadata")
    return str(named.get("uid", "")) if isinstance(named, dict) else ""
