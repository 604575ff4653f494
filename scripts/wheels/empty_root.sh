#!/bin/sh
# Try wheels where there is nothing but a Python:
#
#   sh scripts/wheels/empty_root.sh PYTHON WHEELS ROOT
#
# makes ROOT a root file system of the interpreter PYTHON, its standard library and the
# libraries that these link, with no shell, no compiler and no libuv; installs pyloop-uv
# and aiohttp there from the folder WHEELS, without a network; and runs check.py with
# the demo. Linux; root, or a user who may make a name space.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --inside ]; then # in a mount name space of its own
    root=$2
    python=$3
    # What is mounted from here on stays in this name space, however it was made.
    mount --bind "$root" "$root"
    mount --make-private "$root"
    cd "$root"
    for device in null zero urandom; do
        : >"$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount --rbind /proc "$root/proc"
    # The chroot program and the Python are found before, all else only inside.
    in_root() {
        env -i PATH=/env/bin LC_ALL=C.UTF-8 HOME=/tmp "$(command -v chroot)" "$root" "$@"
    }
    in_root "$python" -m venv /env
    in_root /env/bin/python -m pip install --quiet --no-index --find-links /wheels \
        --disable-pip-version-check pyloop-uv
    # Not every version has wheels of these: the check says what it leaves out.
    for package in aiohttp uvloop; do
        in_root /env/bin/python -m pip install --quiet --no-index --find-links /wheels \
            --disable-pip-version-check "$package" 2>/dev/null || :
    done
    in_root /env/bin/python /check/check.py /check/examples
    exit
fi

[ $# -eq 3 ] || { echo "usage: empty_root.sh PYTHON WHEELS ROOT" >&2 && exit 2; }
wheels=$2
root=$3
rm -rf "$root"
mkdir -p "$root/dev" "$root/etc" "$root/proc" "$root/tmp" "$root/check"
root=$(cd "$root" && pwd)
for folder in lib lib64; do # links on most systems, through which the loader is found
    if [ -L "/$folder" ]; then
        mkdir -p "$root/usr/$folder"
        ln -s "usr/$folder" "$root/$folder"
    fi
done

# What the interpreter is made of, a path a line: itself, the standard library's folders
# and, of a distribution's Python, where ensurepip's wheels are.
python=$("$1" -c 'import os, sys; print(os.path.realpath(sys.executable))')
"$python" -I - >"$root/parts" <<'PROGRAM'
import os
import sys
import sysconfig

names = ("stdlib", "platstdlib")
folders = {os.path.realpath(sysconfig.get_path(name)) for name in names}
print(os.path.realpath(sys.executable))
print(*sorted(folders), sep="\n")
wheels = sysconfig.get_config_var("WHEEL_PKG_DIR")
if wheels and os.path.isdir(wheels):
    print(wheels)
PROGRAM
# tar keeps the paths and leaves out what is no part of an installed interpreter.
tar -C / -chf - --exclude=site-packages --exclude=dist-packages --exclude=test \
    --exclude=__pycache__ --exclude='config-3*' --exclude=idlelib --exclude=tkinter \
    --exclude=turtledemo --exclude='_tkinter*' \
    -T "$root/parts" 2>/dev/null | tar -C "$root" -xf -
rm "$root/parts"

# The libraries that these link, what loads them, and the rest of the C library.
{
    find "$root" -type f \( -name '*.so*' -o -perm -u+x \) | while read -r file; do
        ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || :
    done
    c_library=$(ldd "$python" | grep -o '/[^ ]*/libc\.[^ ]*')
    for part in dl gcc_s m nss_dns nss_files pthread resolv rt stdc++ util; do
        printf '%s\n' "${c_library%/*}/lib$part".so.[0-9]
    done
} | sort -u | while read -r library; do
    [ -e "$library" ] || continue
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
done
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
printf 'root:x:0:0:root:/tmp:/none\n' >"$root/etc/passwd"
certificates=/etc/ssl/certs/ca-certificates.crt # Debian's pip reads them, come what may
if [ -e "$certificates" ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp -L "$certificates" "$root$certificates"
fi
cp -R "$wheels" "$root/wheels"
cp "$here/check.py" "$root/check/"
cp -R "$here/../../examples" "$root/check/"
found=$(find "$root" -name 'libuv*' -o -name 'pkg-config' -o -name 'sh' -type f)
[ -z "$found" ] || { echo "empty_root.sh: the root is not empty: $found" >&2 && exit 1; }

# In a chroot, whose / is not where something is mounted, propagation cannot be set.
space="unshare --mount --propagation unchanged"
[ "$(id -u)" -eq 0 ] || space="$space --map-root-user"
# shellcheck disable=SC2086  # the words are meant to be split
exec $space sh "$0" --inside "$root" "$python"
