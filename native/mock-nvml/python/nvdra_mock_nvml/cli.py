"""The command `nvdra-mock-nvml`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nvdra_mock_nvml import portraits, read_calls
from nvdra_mock_nvml.portraits import PortraitError
from nvdra_mock_nvml.root import lay_out
from nvdra_mock_nvml.shipped import NotBuiltError
from nvdra_mock_nvml.tree import DEFAULT_LIBRARY_FOLDER, LayoutError

_ABOUT = """\
GPU nodes without GPUs: a libnvidia-ml.so.1 that answers from a portrait, and the driver root around it.

  nvdra-mock-nvml root --portrait h100x8 /tmp/node      lay out a node with eight H100
  /tmp/node/usr/bin/nvidia-smi -L                       look at it
  rm /tmp/node/dev/nvidia3                              take a GPU away: its device node decides
  LD_LIBRARY_PATH=/tmp/node/usr/lib/x86_64-linux-gnu PROGRAM    run any NVML program on it
"""
_ROOT = """\
Lays out a driver root at OUT: libraries with their sonames and links, programs, firmware, configurations, device nodes,
and stand-ins for /proc and /sys. Give the three paths it prints to programs that take a driver root, a procfs, a sysfs.
Afterwards everything is plain files: remove dev/nvidia3 and GPU 3 is gone from the next nvmlInit on.
"""
_FAULTS = """\
Faults: write /tmp/node/etc/nvdra-mock-faults.json (or any file, named by NVDRA_MOCK_FAULTS), also while programs run:

  {"faults": [{"function": "nvmlDeviceGetName", "minor": 3, "code": "GPU_IS_LOST", "after": 2, "times": 1}],
   "calls": "nvdra-mock-calls"}

Calls: the file named by "calls" (or by NVDRA_MOCK_CALLS) counts them; `nvdra-mock-nvml calls FILE` prints it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (LayoutError, PortraitError, NotBuiltError) as error:
        print(f"nvdra-mock-nvml: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("nvdra-mock-nvml", description=_ABOUT, epilog=_FAULTS, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    root = commands.add_parser("root", help="lay out a driver root", description=_ROOT, formatter_class=raw)
    root.add_argument("--portrait", required=True, help="a name that `portraits` lists, or the path of a .json file")
    root.add_argument("--driver-version", metavar="X.Y.Z", help="else the portrait's own")
    root.add_argument("--lib-dir", default=DEFAULT_LIBRARY_FOLDER, metavar="DIR", help="default: %(default)s")
    root.add_argument("--gpus", type=_minors, metavar="M,M,…", help="minors of the GPUs that are there (default: all)")
    root.add_argument(
        "--device-files",
        choices=("auto", "mknod", "regular", "none"),
        default="auto",
        help="character devices need root; auto: regular files where they are not permitted",
    )
    root.add_argument("--stand-ins", type=Path, metavar="DIR", help="where proc and sys go (default: OUT/stand-ins)")
    root.add_argument("--drm", action="store_true", help="graphics nodes for each GPU")
    root.add_argument("--without", action="append", default=[], metavar="FUNCTION", help="an older library without it")
    root.add_argument("out", type=Path, metavar="OUT", help="the new driver root")
    root.set_defaults(run=_root)

    listing = commands.add_parser("portraits", help="list the portraits")
    listing.set_defaults(run=_portraits)

    counts = commands.add_parser("calls", help="print counted calls")
    counts.add_argument("file", type=Path, metavar="FILE")
    counts.set_defaults(run=_calls)
    return parser


def _minors(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of minors such as 0,1,3") from None


def _root(options: argparse.Namespace) -> int:
    laid = lay_out(
        options.out,
        options.portrait,
        driver_version=options.driver_version,
        gpus=options.gpus,
        device_files=options.device_files,
        lib_dir=options.lib_dir,
        stand_in_dir=options.stand_ins,
        drm=options.drm,
        without=options.without,
    )
    print(f"driver root  {laid.root}  ({laid.portrait.name}, driver {laid.driver_version})")
    print(f"library      {laid.library}")
    print(f"procfs       {laid.procfs}")
    print(f"sysfs        {laid.sysfs}")
    if options.device_files == "auto" and laid.device_files == "regular":
        print("note: device nodes may not be made here, so dev/ holds regular files", file=sys.stderr)
    return 0


def _portraits(options: argparse.Namespace) -> int:
    for name in portraits.names():
        portrait = portraits.load(name)
        print(f"{name:18}{len(portrait.gpus):3} GPUs  {portrait.about}")
    return 0


def _calls(options: argparse.Namespace) -> int:
    if not options.file.is_file():
        print(f"nvdra-mock-nvml: {options.file}: there is no such file", file=sys.stderr)
        return 1
    for name, count in sorted(read_calls(options.file).items()):
        print(f"{count:10}  {name}")
    return 0
