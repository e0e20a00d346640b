#!/usr/bin/env bash
# kernelshark.sh FILE PICTURE: open a trace.dat in KernelShark and take a picture of its window; fails where it shows nothing.
#
# It runs on a screen of its own (Xvfb). Shown means: a window whose title names the file, alive, with bars of tasks in the graph of
# the CPUs, and not a word on its outputs but that it loads the file. Debian: kernelshark xvfb xauth x11-utils imagemagick.
set -euo pipefail
file=$(realpath "$1")
picture=$2
# A picture with bars took two to three seconds here.
deadline=$((SECONDS + 60))

fail() { printf 'kernelshark.sh: %s\n' "$*" >&2; exit 1; }

if [ -z "${KERNELSHARK_SCREEN:-}" ]; then
    exec env KERNELSHARK_SCREEN=own xvfb-run --auto-servernum --server-args "-screen 0 1400x900x24" "$0" "$@"
fi

scratch=$(mktemp -d)
shark=
trap '[ -z "$shark" ] || kill "$shark" 2>/dev/null || true; rm -rf "$scratch"' EXIT
# Its cache folder is by default that of the user's entry in passwd(5), whatever HOME says.
export HOME=$scratch XDG_RUNTIME_DIR=$scratch XDG_CONFIG_HOME=$scratch KS_USER_CACHE_DIR=$scratch QT_QPA_PLATFORM=xcb
# Root is asked first whether it is sure, in a window of its own. That no is kept in the cache folder.
printf '[General]\nnoRootWarn=true\n' >"$scratch/setting.ini"

kernelshark "$file" >"$scratch/out" 2>&1 &
shark=$!
while :; do
    kill -0 "$shark" 2>/dev/null || fail "KernelShark ended: $(cat "$scratch/out")"
    coloured=0
    # `import` waits for a click where no window has the name.
    window=$(xwininfo -name "Kernel Shark ($file)" 2>/dev/null | sed -n 's/.*Window id: \(0x[0-9a-f]*\).*/\1/p') || true
    if [ -n "$window" ] && timeout 20 import -window "$window" "$picture"; then
        # Behind the buttons, in front of the list: a window has 700 by 498 pixels where nobody manages it. Text and lines are grey.
        coloured=$(convert "$picture" -crop 580x180+88+100 +repage -colorspace HSL -channel G -separate -threshold 50% \
            -format '%[fx:int(mean*w*h)]' info:)
        [ "$coloured" -lt 1000 ] || break
    fi
    [ "$SECONDS" -lt "$deadline" ] || fail "no bars after a minute ($coloured coloured pixels): $(cat "$scratch/out")"
    sleep 0.5
done
# It says so of every file without events of a hypervisor.
if grep -v -e '^Loading ' -e '^plugin "kvm_combo" failed to initialize' -e '^$' "$scratch/out"; then
    fail "KernelShark complained"
fi
printf '%s coloured pixels\n' "$coloured"
