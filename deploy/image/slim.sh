#!/bin/sh
# Takes out of an image's root what a running driver never reads, and compiles what it does: the root may be read-only,
# so a module that is not compiled now would be compiled anew at every start.
set -eu

libraries=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
for unused in ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo turtle.py; do
    rm -rf "${libraries:?}/$unused"
done
# Only the driver's own packages stay: pip and its kin are for building.
rm -rf "$libraries"/site-packages/pip* "$libraries"/site-packages/setuptools* "$libraries"/site-packages/wheel*
rm -rf "$libraries"/site-packages/pkg_resources "$libraries"/site-packages/_distutils_hack "$libraries"/site-packages/distutils-precedence.pth
rm -rf /usr/share/python-wheels "$libraries"/config-*
rm -f /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/2to3* /usr/local/bin/wheel

site=$(/opt/nvdra/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Sources of compiled modules, and type stubs.
find "$site" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -delete
find "$site" -type d -name tests -prune -exec rm -rf {} +

rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/zoneinfo
rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/* /tmp/* /root/.cache

find "$libraries" "$site" -name __pycache__ -prune -exec rm -rf {} +
# By hash and unchecked: no time stamp that a copy could change, and nothing to look at when a module is loaded.
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$libraries" "$site"
