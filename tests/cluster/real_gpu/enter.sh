#!/bin/bash
# enter.sh BUNDLE DRIVER OUT [arguments]: the scenarios of real_gpu in a system of their own, in memory.
#
#   BUNDLE     folder with the unpacked archives: image.tar, packages/, programs/, source/
#   DRIVER     where NVIDIA's driver lies on this machine: a folder with lib64/ and bin/, or `mock`
#   OUT        folder for report.md and the logs
#
# As root. Everything lives in namespaces and a tmpfs, and goes with this process. No setting of a GPU is changed.
set -euo pipefail
bundle=$(realpath "$1") driver=$2 out=$(realpath "$3")
if [ "${NVDRA_ENTERED:-}" != yes ]; then
  # A tmpfs takes containerd's overlays, which an overlay does not.
  NVDRA_ENTERED=yes exec unshare --mount --propagation private -- "$0" "$@"
fi
shift 3
root=/mnt/nvdra-system
mkdir -p $root
mount -t tmpfs -o size=24g,mode=755 tmpfs $root
layout=$(mktemp -d $root/.image-XXXX)
tar -xf "$bundle/image.tar" -C "$layout"
tar -xf "$(find "$layout/blobs" -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)" -C $root
rm -rf "$layout"
mkdir -p $root/{dev,proc,sys,run,tmp,var/log,bundle}
mount --rbind /dev $root/dev
mount --rbind /sys $root/sys
mount -t proc proc $root/proc
cp -r "$bundle/packages" "$bundle/programs" "$bundle/source" "$bundle/image.tar" $root/bundle
DEBIAN_FRONTEND=noninteractive chroot $root dpkg --force-depends -i -R /bundle/packages >"$out/packages.log" 2>&1 \
  || { tail -20 "$out/packages.log"; exit 1; }
if [ "$driver" != mock ]; then
  # As a package of the distribution would lay it out.
  cp -a "$driver"/lib64/. $root/usr/lib/x86_64-linux-gnu/
  cp -a "$driver"/bin/. $root/usr/bin/
  [ ! -d "$driver/firmware" ] || { mkdir -p $root/lib/firmware/nvidia && cp -a "$driver"/firmware/. $root/lib/firmware/nvidia/; }
fi
chroot $root ldconfig
mkdir -p $root/out
mount --bind "$out" $root/out
cd $root
mkdir .before
pivot_root . .before
umount -l /.before
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  PYTHONPATH=/bundle/source:/bundle/source/native/mock-nvml/python NVDRA_CLUSTER_PROGRAMS=/bundle/programs \
  NVDRA_CLUSTER_IMAGE=/bundle/image.tar /opt/nvdra/bin/python3 -m tests.cluster.real_gpu.run /out "$@"
