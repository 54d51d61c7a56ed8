#!/bin/sh
# What the init container runs: it leaves once the driver of this node answers, and says until then what is missing.
# The search is the plugin's own (src/nvdra/programs/prestart.py), so that neither waits for what the other finds.
exec nvdra prestart "$@" /driver-root /driver-root-parent
