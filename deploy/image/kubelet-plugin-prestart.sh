#!/bin/sh
# What the init container runs: it leaves once the driver of this node answers, and says until then what is missing.
#
# The texts are the Go driver's, since people search for them. It looks five times a second and speaks when something
# changed, at the latest after ten seconds; it spawns nothing to look, and leaves at once when it is told to.

every_tenths=100         # the longest silence
answer_within_s=60       # nvidia-smi may hang in a sick driver
programs="opt/bin usr/bin usr/sbin bin sbin"
libraries="usr/lib64 usr/lib/x86_64-linux-gnu usr/lib/aarch64-linux-gnu lib64 lib/x86_64-linux-gnu lib/aarch64-linux-gnu"

root=${NVIDIA_DRIVER_ROOT:-/}
stripped=${root%/}
target="/driver-root-parent/${stripped##*/}"
at=/driver-root
child=

leave() {
    echo "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ): received SIGTERM"
    [ -z "$child" ] || kill "$child" 2>/dev/null
    exit 0
}
trap leave TERM

# A trap is held back until a child in the foreground ends, so none is there.
in_background() {
    "$@" &
    child=$!
    wait "$child"
    code=$?
    child=
    return "$code"
}

# The file itself, or where its links lead inside the driver root: an absolute link there means the host's root.
# Leaves the path in $file; fails if there is no regular file.
resolve() {
    file=$1
    [ -f "$file" ] && return
    links=0
    while [ -L "$file" ] && [ "$links" -lt 16 ]; do
        to=$(readlink "$file")
        case $to in
            /*) file=$at$to ;;
            *) file=${file%/*}/$to ;;
        esac
        links=$((links + 1))
    done
    [ -f "$file" ]
}

look() {
    smi=
    for folder in $programs; do
        if resolve "$at/$folder/nvidia-smi"; then smi=$file; break; fi
    done
    lib=
    for folder in $libraries; do
        if resolve "$at/$folder/libnvidia-ml.so.1"; then lib=$file; break; fi
    done
}

list() {
    contents=
    for entry in "$at"/* "$at"/.[!.]* "$at"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then contents="$contents, ${entry##*/}"; fi
    done
    contents=${contents#, }
}

hints() {
    echo
    printf '%s' "Check failed. Has the NVIDIA GPU driver been set up? It is expected to be installed under " \
        "NVIDIA_DRIVER_ROOT (currently set to '$root') in the host filesystem. If that path is not the one you expect: " \
        "review the DRA driver's 'nvidiaDriverRoot' Helm chart variable. Otherwise, see whether the driver is really " \
        "installed there."
    echo
    if [ "$root" != / ]; then
        if [ -z "$contents" ]; then
            echo "Hint: Directory $root on the host is empty"
        elif [ -z "$smi" ] || [ -z "$lib" ]; then
            echo "Hint: Directory $root is not empty but at least one of the binaries wasn't found."
        fi
    elif [ -f "$at/run/nvidia/driver/usr/bin/nvidia-smi" ]; then
        echo "Hint: '/run/nvidia/driver/usr/bin/nvidia-smi' exists on the host, you may want to re-install the DRA driver Helm chart with --set nvidiaDriverRoot=/run/nvidia/driver"
    fi
    if [ "$root" = /run/nvidia/driver ]; then
        echo "Hint: NVIDIA_DRIVER_ROOT is set to '/run/nvidia/driver', where the NVIDIA GPU Operator puts the driver that it manages. Make sure that the GPU Operator is deployed and healthy."
    fi
    echo
}

# One line of what is there, and the driver's answer if it can be asked. Ends the script if the answer is good.
attempt() {
    list
    line="$(date -u +%Y-%m-%dT%H:%M:%SZ)  /driver-root ($root on host): "
    if [ -n "$smi" ]; then line="${line}nvidia-smi: '$smi', "; else line="${line}nvidia-smi: not found, "; fi
    if [ -n "$lib" ]; then line="${line}libnvidia-ml.so.1: '$lib', "; else line="${line}libnvidia-ml.so.1: not found, "; fi
    echo "${line}current contents: [$contents]."
    if [ -n "$smi" ] && [ -n "$lib" ]; then
        # --version asks no GPU: all of them may be bound to vfio-pci.
        echo "invoke: env -i LD_PRELOAD=$lib $smi --version"
        in_background timeout "$answer_within_s" env -i LD_PRELOAD="$lib" "$smi" --version
        code=$?
        if [ "$code" -eq 0 ]; then
            echo "nvidia-smi returned with code 0: success, leave"
            exit 0
        fi
        echo "exit code: $code"
        [ "$code" -ne 124 ] || echo "nvidia-smi gave no answer within $answer_within_s s"
    fi
}

echo "create symlink: /driver-root -> $target"
if [ ! -L "$at" ] && ! ln -s "$target" "$at"; then
    echo "no such link can be made: reading $target itself"
    at=$target
fi

failed=0
look
while true; do
    attempt
    [ $((failed % 6)) -ne 0 ] || hints
    failed=$((failed + 1))
    seen="$smi $lib"
    waited=0
    # Who has waited for minutes can wait for a second more.
    if [ "$failed" -le 30 ]; then pause=2; else pause=10; fi
    while [ "$waited" -lt "$every_tenths" ]; do
        in_background sleep "$((pause / 10)).$((pause % 10))"
        waited=$((waited + pause))
        look
        [ "$seen" = "$smi $lib" ] || break
    done
done
