"""The native core: pure functions from bytes and values to bytes and tuples, and one pass over /proc.

Wrapped by the rooms api, claims, checkpoint, cdi, host and kube; nothing else imports it. Values are read by attribute.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

from nvdra.cdi.edits import Document, Edits
from nvdra.checkpoint.content import State
from nvdra.checkpoint.prepared import Group, Unsupported

__all__ = [
    "AllocationError",
    "Cluster",
    "CoreError",
    "Fragment",
    "Simulation",
    "allocation_releases",
    "checksum",
    "decode_checkpoint",
    "decode_claim",
    "decode_status",
    "device_yaml",
    "edits_yaml",
    "encode_checkpoint",
    "find_holders",
    "head_yaml",
    "identify_claim",
    "indent_json",
    "match_configs",
    "parse_quantity",
    "quantity_text",
    "remarshal_checkpoint",
    "render_json",
    "render_yaml",
    "simulation_policies",
    "split_list",
    "split_object",
]

class CoreError(ValueError):
    """Input that is refused.

    kind   "syntax", "truncated", "malformed", "unallocated", "checksum" or "future"
    """

    kind: str

# request, driver, pool, device, admin access, share id, consumed capacity by name
_Result = tuple[str, str, str, str, bool, str | None, list[tuple[str, str]]]
# source, requests, driver (None: not opaque), parameters as they stand in the claim
_Config = tuple[str, list[str], str | None, bytes]

def decode_claim(body: bytes) -> tuple[str, str, str, list[_Result], list[_Config], bytes]:
    """Namespace, name, uid, results, configs and projected status of a ResourceClaim of any served version.

    Raises CoreError: syntax, truncated, malformed, unallocated.
    """

def identify_claim(body: bytes) -> tuple[str, str, str] | None:
    """Namespace, name and uid of a ResourceClaim that `decode_claim` may refuse; None unless all three are there."""

def parse_quantity(text: str) -> tuple[int, Literal["decimal", "binary", "exponent"]]:
    """Billionths and notation. ValueError with the Go library's text."""

def quantity_text(nanos: int, format: str) -> str:
    """The canonical text. OverflowError beyond 128 bits."""

def split_object(content: bytes) -> list[tuple[str, bytes]]:
    """An object's members in their order: name and raw value, not read. Raises CoreError: syntax, truncated."""

def split_list(content: bytes) -> tuple[list[tuple[str, bytes]], list[bytes] | None]:
    """A list object's members but `items`, and its raw items; None if it has no `items`.

    Raises CoreError: syntax, truncated.
    """

def decode_status(status: bytes) -> tuple[list[_Result], list[_Config]]:
    """Results and configs of a status alone. Raises CoreError: syntax, truncated, malformed."""

def match_configs(
    results: Sequence[tuple[str, str, str]], configs: Sequence[tuple[Sequence[str], str]]
) -> list[int] | tuple[int | None, str]:
    """For each result the index of its config; of the first without, (index of the config that names it, text) instead.

    results   (request, device, device kind: "gpu", "mig", "migdyn", "vfio", "unknown")
    configs   (requests it names, kind: "GpuConfig", "MigDeviceConfig", "VfioDeviceConfig"; others never fit),
              in rising precedence: defaults, then FromClass, then FromClaim
    The index in the tuple is None if no config applies at all.
    """

@final
class Fragment:
    """One entry's text in both sections of the checkpoint, rendered once."""

    def __new__(
        cls,
        uid: str,
        state: State,
        status: bytes,
        prepared: Sequence[Group] | Unsupported,
        name: str,
        namespace: str,
        aborted_at: int | None,
        unknown: bytes,
    ) -> Fragment: ...

def encode_checkpoint(fragments: Sequence[Fragment], boot_id: str) -> bytes:
    """The checkpoint file; fragments may come in any order."""

# type and uuid; type, uuid, parent's minor, parent's uuid, GPU instance id, compute instance id, parent's PCI bus id;
# type, uuid, PCI bus id; type and number
_Info = (
    tuple[Literal["gpu", "unplaced"], str]
    | tuple[Literal["mig"], str, int, str, int, int, str]
    | tuple[Literal["vfio"], str, str]
    | tuple[Literal["channel", "daemon"], int]
)
# info, requests, pool, device, CDI ids, share id, metadata
_Device = tuple[_Info, list[str], str, str, list[str], str | None, bytes]
# devices, MPS daemon id, time slice applied, verbatim; or devices, config type, domain, verbatim
_Group = tuple[list[_Device], str, bool | None, bytes] | tuple[list[_Device], str, str, bytes]
# text, kinds, devices
_Unsupported = tuple[bytes, list[str], list[_Device]]
# uid, state, status, prepared, name, namespace, aborted at, unknown members
_Entry = tuple[str, State, bytes, list[_Group] | _Unsupported, str, str, int | None, bytes]

def decode_checkpoint(content: bytes, driver_name: str, unsupported: list[str]) -> tuple[str, list[_Entry], list[str]]:
    """Boot id, entries, and the keys outside of entries that are not understood.

    unsupported   kinds of which entries are foreign: "vfio", "mps"
    Raises CoreError: syntax, truncated, checksum, future.
    """

def remarshal_checkpoint(content: bytes, driver_name: str) -> bytes:
    """The checkpoint as the releases would write what they read of it, stored checksums kept.

    Raises CoreError: syntax, truncated, malformed.
    """

def indent_json(content: bytes) -> str:
    """The JSON text, two spaces of indent a level. Raises CoreError: syntax, truncated."""

def checksum(content: bytes) -> int:
    """FNV-1a (32 bit) over the decimal dump of `content`."""

def render_yaml(document: Document, version: str) -> bytes:
    """The CDI document as YAML in block style."""

def render_json(document: Document, version: str) -> bytes:
    """The CDI document as compact JSON."""

def head_yaml(version: str, kind: str) -> bytes:
    """The lines of a YAML document in front of its devices."""

def device_yaml(name: str) -> bytes:
    """The line that opens a device."""

def edits_yaml(edits: Edits, indent: int) -> bytes:
    """`containerEdits` as a member of the document (indent 0) or of a device (indent 6); empty for empty edits."""

def find_holders(proc: str, devices: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, int]:
    """Process id and index of the device of each holder; the processes looked at; those that could not be read.

    Without the GIL. Raises OSError if `proc` cannot be listed.
    """

class AllocationError(ValueError):
    """Objects or questions that the allocation engine refuses; the text names the object and the cause."""

@final
class Cluster:
    """A cluster for the allocation engine: API objects in, explanations out."""

    def __new__(cls, release: str, gates: Sequence[tuple[str, bool]]) -> Cluster:
        """Returns an empty cluster of a release; gates differ from its defaults as said. Raises AllocationError."""

    def add(self, document: bytes) -> dict[str, int]:
        """Adds an object or list of objects; returns the number of each kind. Raises AllocationError."""

    def add_file(self, path: Path) -> dict[str, int]:
        """Adds the objects of a file, some at a time; returns the number of each kind. Raises AllocationError."""

    def notes(self) -> list[str]:
        """Returns what was odd about the objects, but kept none from being read."""

    def pending(self) -> list[str]:
        """Returns the claims without an allocation, as namespace/name."""

    def lint(self, claim: str) -> str:
        """Returns what the selectors of a claim (JSON) do on every device, as JSON. Raises AllocationError."""

    def explain(self, name: str, node: str | None = None) -> str:
        """Returns the explanation of a claim or pod (namespace/name) as JSON. Raises AllocationError."""

@final
class Simulation:
    """A fleet under a stream of pods: classes, then nodes, templates and pods, then `advance` until it is False."""

    def __new__(
        cls, release: str, gates: Sequence[tuple[str, bool]], policy: str, percent: int, seed: int
    ) -> Simulation:
        """Returns an empty fleet; `percent` of nodes are looked for, 0 is the scheduler's. Raises AllocationError."""

    def add_classes(self, classes: bytes) -> None:
        """Adds a JSON list of DeviceClasses. Raises AllocationError."""

    def add_nodes(self, slices: bytes, node: str, names: Sequence[str]) -> None:
        """Adds nodes that publish alike: `slices` is the JSON list of one, `node` its name. Raises AllocationError."""

    def occupy(self, node: int, devices: Sequence[tuple[str, str, str, Sequence[tuple[str, str]] | None]]) -> None:
        """Takes devices (driver, pool, device, what a share consumes) of a node for ever. Raises AllocationError."""

    def add_template(self, claims: bytes) -> int:
        """Adds the ResourceClaims of a kind of pod, a JSON list; returns its number. Raises AllocationError."""

    def add_pods(
        self,
        arrivals: Sequence[float],
        durations: Sequence[float],
        templates: Sequence[int],
        nodes: Sequence[int | None],
    ) -> None:
        """Adds pods in the order of their arrivals, in seconds; a node's number pins a pod."""

    def advance(self, events: int) -> bool:
        """Goes on by so many arrivals and ends; returns whether there is more."""

    def progress(self) -> tuple[int, int, float, int]:
        """Returns pods that have arrived, all pods, the time, and waiting pods."""

    def summary(self) -> str:
        """Returns figures of the run so far as JSON."""

    def placements(self) -> list[tuple[int, str, float, list[str]]]:
        """Returns number, node, start and devices of each pod that was placed."""

def simulation_policies() -> list[str]:
    """Returns the names of the policies that choose a node."""

def allocation_releases() -> list[str]:
    """Returns the Kubernetes releases that the engine answers for."""
