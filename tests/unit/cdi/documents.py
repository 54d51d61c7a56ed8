"""Documents of any content, as hypothesis makes them, and the recorded ones."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from nvdra.cdi import GPU_CLAIMS, CdiDevice, DeviceNode, Document, Edits, Hook, Mount

KIND = str(GPU_CLAIMS)

RECORDINGS = Path(__file__).parents[2] / "golden" / "recordings"
RECORDED = sorted(RECORDINGS.glob("*/cdi/*.yaml"))

any_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
# What readers of YAML stumble over, more often than chance would make it.
odd_texts = st.sampled_from(
    [
        "~",
        "null",
        "yes",
        "No",
        "1",
        "-1.5e3",
        "0x1f",
        "0o7",
        "1_0",
        "1:30",
        ".inf",
        "2026-11-24",
        "<<",
        "=",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "'",
        '"',
        "a'b",
        "{a}",
        "[",
        "%a",
        "@a",
        "`a",
        "!a",
        "&a",
        "*a",
        "|",
        ">",
        "?",
        ":",
        "-",
        "---",
        "...",
        " a",
        "a ",
        "a\nb",
        "\ta",
        "a\t",
        "\u0085",
        "\u2028",
        "\ufeff",
        "\x00",
        "\U0001f600",
        "a:",
        "::",
        "? a",
        ": a",
        "é",
        "../card1::/dev/dri/by-path/pci-0000:3b:00.0-card",
        "12:34:56.7",
        "1e5",
        "+.5",
        "0.",
        "0b1",
        "a\\b",
        "\r\n",
        "-- x",
    ]
)
paths = st.lists(
    st.sampled_from(["dev", "usr", "lib", "driver", "nvidia0", "b.so.1", "..", ".", ""]), min_size=1, max_size=4
).map(lambda parts: "/" + "/".join(parts))


def edits_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Edits]:
    """Edits that the specification allows, with these strings in them."""
    settings = texts.map(lambda text: f"A={text}")
    several = st.lists(texts, max_size=3).map(tuple)
    nodes = st.builds(
        DeviceNode,
        path=texts,
        host_path=st.just("") | texts,
        type=st.sampled_from(["", "c"]),
        major=st.integers(0, 511),
        minor=st.integers(0, 2),
        file_mode=st.sampled_from([0, 0o660, 0o666]),
        permissions=st.sampled_from(["", "rwm"]),
        gid=st.sampled_from([0, 44]),
    )
    hooks = st.builds(
        Hook,
        name=st.sampled_from(["createContainer", "startContainer", "poststop"]),
        path=texts,
        args=several,
        env=st.lists(settings, max_size=2).map(tuple),
    )
    mounts = st.builds(
        Mount, host_path=texts, container_path=texts, options=several, type=st.sampled_from(["", "tmpfs"])
    )
    return st.builds(
        Edits,
        env=st.lists(settings, max_size=3).map(tuple),
        device_nodes=st.lists(nodes, max_size=3).map(tuple),
        hooks=st.lists(hooks, max_size=2).map(tuple),
        mounts=st.lists(mounts, max_size=3).map(tuple),
        additional_gids=st.lists(st.integers(1, 60), max_size=3).map(tuple),
    )


def documents_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Document]:
    names = st.from_regex(r"\A[0-9a-f]{1,8}-gpu-[0-9]\Z", fullmatch=True)
    device_edits = edits_of(texts).map(lambda edits: edits + Edits(env=("X=1",)))
    return st.builds(
        Document,
        kind=st.just(KIND),
        devices=st.dictionaries(names, device_edits, max_size=3).map(
            lambda devices: tuple(CdiDevice(name, edits) for name, edits in devices.items())
        ),
        edits=edits_of(texts),
    )
