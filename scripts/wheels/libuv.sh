#!/bin/sh
# A static libuv for wheels, of the archive that this system's package brings:
#
#   sh scripts/wheels/libuv.sh FOLDER
#
# makes FOLDER/libuv.a, which links into a shared object, FOLDER/include, the licence and
# FOLDER/libuv.pc, for PKG_CONFIG_PATH. No libuv is compiled. Debian, Ubuntu (libuv1-dev),
# Alpine (libuv-dev, libuv-static), Fedora (libuv-devel, libuv-static), Homebrew (libuv);
# a C compiler, binutils and pkg-config are needed.
set -eu

[ $# -eq 1 ] || { echo "usage: libuv.sh FOLDER" >&2 && exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
compiler=${CC:-cc}
ask="${PKG_CONFIG:-pkg-config}"

die() {
    printf '%s\n' "libuv.sh: $*" >&2
    exit 1
}

# From the package, not from a folder that this script made before.
PKG_CONFIG_PATH=
export PKG_CONFIG_PATH
version=$("$ask" --modversion libuv) || die "libuv's headers were not found"
headers=$("$ask" --variable=includedir libuv)
libraries=$("$ask" --variable=libdir libuv)
needs=$("$ask" --static --libs libuv | tr ' ' '\n' | grep '^-[lp]' | grep -v '^-luv' | tr '\n' ' ' || :)

archive=
for name in libuv_a.a libuv.a; do
    [ ! -e "$libraries/$name" ] || archive=$libraries/$name
done
[ -n "$archive" ] || die "no libuv_a.a or libuv.a is in $libraries"

mkdir -p "$folder/include/uv"
folder=$(cd "$folder" && pwd)
cp -L "$headers/uv.h" "$folder/include/"
cp -L "$headers"/uv/*.h "$folder/include/uv/"
cp -L "$archive" "$folder/libuv.a"
chmod u+w "$folder/libuv.a"

# Whether all of the archive can be part of a shared object.
links() {
    case $(uname -s) in
    Darwin) return 0 ;; # where all code is position-independent
    esac
    # shellcheck disable=SC2086  # the words are meant to be split
    "$compiler" -shared -o "$folder/probe.so" -Wl,--whole-archive "$folder/libuv.a" \
        -Wl,--no-whole-archive -Wl,--exclude-libs,ALL $needs 2>"$folder/probe.log"
}

if ! links; then
    for name in in6addr_any environ stderr; do
        set -- "$@" --redefine-sym "$name=pyloop_static_$name"
    done
    shift
    objcopy "$@" "$folder/libuv.a"
    "$compiler" -O2 -fPIC -c -o "$folder/stand_ins.o" "$here/stand_ins.c"
    ar rD "$folder/libuv.a" "$folder/stand_ins.o"
    rm "$folder/stand_ins.o"
    links || { cat "$folder/probe.log" >&2 && die "$archive does not link into a shared object"; }
fi
rm -f "$folder/probe.so" "$folder/probe.log"

# A wheel has to bring the terms of what it contains: the packager's collection of them,
# or those that the headers begin with.
if [ -e /usr/share/doc/libuv1-dev/copyright ]; then
    cp -L /usr/share/doc/libuv1-dev/copyright "$folder/LICENSE.libuv"
else
    for header in "$folder/include/uv.h" "$folder/include/uv/tree.h"; do
        sed -n '1,/\*\//p' "$header"
    done >"$folder/LICENSE.libuv"
fi

cat >"$folder/libuv.pc" <<END
libdir=$folder
licence=$folder/LICENSE.libuv

Name: libuv
Version: $version
Description: libuv $version, from $archive
Libs: -L$folder -luv
Libs.private: $needs
Cflags: -I$folder/include
END
printf '%s\n' "libuv $version of $archive is in $folder" >&2
