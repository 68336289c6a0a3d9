#!/bin/sh
# Run one validation program where nothing that it leaves behind can stay: in mount, pid and cgroup namespaces of its own.
#
#   sandbox.sh enter CGROUP SECONDS COMMAND...
#
# CGROUP is the name of an empty cgroup in every hierarchy; it becomes the root of what the program sees. $RUNTIME is the
# runtime under test: containers that the program forgot are deleted through it. With $HIDE_UNIFIED, a cgroup v2
# hierarchy beside those of v1 is unmounted (crun 1.8 refuses both together).
set -eu

hierarchies() { # TYPE MOUNTPOINT OPTIONS of each mounted cgroup hierarchy
    while read -r _ mountpoint type options _; do
        case $type in cgroup | cgroup2) echo "$type $mountpoint $options" ;; esac
    done </proc/self/mounts
}

enter() { # CGROUP SECONDS COMMAND...
    hierarchies | while read -r _ mountpoint _; do
        echo $$ >"$mountpoint/$1/cgroup.procs"
    done
    shift
    exec unshare --cgroup --mount --pid --fork --kill-child --mount-proc sh "$0" inside "$@"
}

attach() { # TYPE MOUNTPOINT OPTIONS: the hierarchy as seen from this cgroup
    mkdir -p "$2"
    if [ "$1" = cgroup2 ]; then
        mount -t cgroup2 cgroup2 "$2"
        return
    fi
    names=
    for word in $(echo "$3" | tr ',' ' '); do
        case $word in rw | ro | nosuid | nodev | noexec | relatime) ;; *) names=$names,$word ;; esac
    done
    case $names in ,name=*) names=",none$names" ;; esac
    mount -t cgroup -o "${names#,}" cgroup "$2"
}

remount() { # the cgroup hierarchies, so that their root is this cgroup
    place=/sys/fs/cgroup
    if [ "$(stat --file-system --format %T $place)" = cgroup2fs ]; then
        umount $place
        attach cgroup2 $place
        mkdir $place/programs # a cgroup with processes cannot give controllers to its children
        echo 1 >$place/programs/cgroup.procs
        return
    fi
    known=$(hierarchies)
    links=$(mktemp -d)
    find $place -maxdepth 1 -type l -exec cp --no-dereference {} "$links" \;
    echo "$known" | while read -r _ mountpoint _; do umount "$mountpoint"; done
    mount -t tmpfs -o mode=755 tmpfs $place # engines make directories beside the hierarchies
    cp --no-dereference --recursive "$links/." $place
    rm -r "$links"
    echo "$known" | while read -r type mountpoint options; do
        [ "$type" = cgroup ] || [ -z "${HIDE_UNIFIED-}" ] || continue
        attach "$type" "$mountpoint" "$options"
    done
}

thaw() { # what a program froze and forgot: it could not be ended
    hierarchies | while read -r _ mountpoint _; do
        find "$mountpoint" -name freezer.state ! -path "$mountpoint/freezer.state" 2>/dev/null | while read -r file; do
            echo THAWED >"$file" || true
        done
        find "$mountpoint" -name cgroup.freeze 2>/dev/null | while read -r file; do
            echo 0 >"$file" || true
        done
    done
}

inside() { # SECONDS COMMAND...
    remount
    # Tests expect pids of five digits, as on a host that has run for a while.
    echo 20000 >/proc/sys/kernel/ns_last_pid || true
    code=0
    timeout --kill-after=5 "$@" || code=$?
    thaw
    timeout 20 "$RUNTIME" list -q 2>/dev/null | while read -r id; do
        timeout 20 "$RUNTIME" delete --force "$id" >/dev/null 2>&1 || echo "left: container $id" >&2
    done
    exit "$code"
}

"$@"
