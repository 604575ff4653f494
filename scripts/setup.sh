# Finds a Python, installs what the build needs, makes the virtual environment.
#
# Read by dev.sh and .ci/run with `.`, after `root` is set to the tree's top. POSIX sh.
# Everything made is under build/; nothing else of the machine is touched, except that
# root's package manager is asked for a missing compiler, header or tool.

say() {
    printf '%s\n' "pyloop: $*" >&2
}

die() {
    say "$@"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# ---- which Python ----------------------------------------------------------------

# "3.12 /path/of/python" for a CPython that pyloop supports, else nothing; "3.13t ..."
# for a free-threaded one.
describe_python() {
    "$1" - 2>/dev/null <<'PROGRAM' || :
import sys

if sys.version_info >= (3, 10) and sys.implementation.name == "cpython":
    version = "%d.%d" % sys.version_info[:2] + "t" * ("t" in sys.abiflags)
    print(version, sys.executable)
PROGRAM
}

# Folders in which pyenv keeps interpreters, those that are on PATH come first anyway.
pyenv_versions() {
    home=${HOME:-$(eval "printf '%s' ~$(id -un 2>/dev/null)")}
    for folder in "${PYENV_ROOT:-$home/.pyenv}"/versions/*/bin; do
        [ -x "$folder/python" ] && printf '%s\n' "$folder/python"
    done
}

# One line "3.12 /path" for each minor version found, the default python3 first.
list_pythons() {
    {
        describe_python python3
        for version in 3.10 3.11 3.12 3.13 3.14 3.15; do
            describe_python "python$version"
        done
        pyenv_versions | while read -r path; do
            describe_python "$path"
        done
    } | awk '!seen[$1]++'
}

# Sets python (a path) and python_version (3.12) from PYTHON, or from what there is.
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        found=$(describe_python "$PYTHON")
        # pyenv's shims refuse the versions that are not switched on: look behind them.
        [ -n "$found" ] || found=$(list_pythons | grep -F "${PYTHON#python} " || :)
        [ -n "$found" ] || die "PYTHON=$PYTHON is no CPython >= 3.10"
    else
        found=$(list_pythons | head -n 1)
        [ -n "$found" ] || die "no CPython >= 3.10 was found; PYTHON=/path/of/python names one"
    fi
    python_version=${found%% *}
    python=${found#* }
}

# ---- what the build needs from the machine ---------------------------------------

LIBUV_MINIMUM=1.44

# Prints the words of what is missing: compiler headers libuv venv.
missing_parts() {
    probe=$(mktemp)
    compiler=${CC:-cc}
    have "$compiler" || compiler=gcc
    printf '#include <stdio.h>\nint main(void) { return 0; }\n' |
        "$compiler" -x c -o "$probe" - >/dev/null 2>&1 || printf 'compiler '
    rm -f "$probe"
    "$python" - <<'PROGRAM' || printf 'headers '
import os
import sys
import sysconfig

sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
PROGRAM
    "${PKG_CONFIG:-pkg-config}" --atleast-version="$LIBUV_MINIMUM" libuv >/dev/null 2>&1 ||
        printf 'libuv '
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || printf 'venv '
}

# The command that installs packages here; empty if no known package manager is there.
package_manager() {
    if have apt-get; then
        printf 'apt-get install -y --no-install-recommends'
    elif have dnf; then
        printf 'dnf install -y'
    elif have apk; then
        printf 'apk add'
    elif have brew; then
        printf 'brew install'
    fi
}

# The packages of manager $1 that bring the parts $2...
packages_for() {
    manager=$1
    shift
    # Only the distribution's own interpreter gets its headers from a package.
    own=python3
    [ "$(describe_python /usr/bin/python3)" = "$python_version /usr/bin/python3" ] ||
        own=python$python_version
    for part in "$@"; do
        case $manager-$part in
        apt-get-compiler) printf 'gcc libc6-dev ' ;;
        apt-get-libuv) printf 'libuv1-dev pkg-config ' ;;
        apt-get-headers) printf '%s-dev ' "$own" ;;
        apt-get-venv) printf '%s-venv ' "$own" ;;
        dnf-compiler) printf 'gcc glibc-devel ' ;;
        dnf-libuv) printf 'libuv-devel pkgconf-pkg-config ' ;;
        dnf-headers) printf '%s-devel ' "$own" ;;
        dnf-venv) printf '%s-libs ' "$own" ;;
        apk-compiler) printf 'gcc musl-dev ' ;;
        apk-libuv) printf 'libuv-dev pkgconf ' ;;
        apk-headers) printf 'python3-dev ' ;;
        apk-venv) printf 'py3-pip ' ;;
        brew-libuv) printf 'libuv pkg-config ' ;;
        esac
    done
}

# Whether this user may install packages: brew wants a user, the others want root.
may_install() {
    case $1 in
    brew*) [ "$(id -u)" -ne 0 ] ;;
    *) [ "$(id -u)" -eq 0 ] ;;
    esac
}

# Runs the manager's command $1 on the packages that follow.
install_packages() {
    install=$1
    shift
    case $install in
    apt-get*)
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        ;;
    esac
    $install "$@"
}

# Installs what the build lacks, or says in one line how to, and ends.
need_system() {
    missing=$(missing_parts)
    [ -n "$missing" ] || return 0
    case $(uname -s)-$missing in
    Darwin-compiler*) die "the compiler is missing - run: xcode-select --install" ;;
    esac
    install=$(package_manager)
    # shellcheck disable=SC2086  # the words are meant to be split
    packages=$(packages_for "${install%% *}" $missing)
    if [ -z "$packages" ]; then
        die "missing: ${missing}(a C compiler, Python's headers and venv module," \
            "pkg-config and libuv >= $LIBUV_MINIMUM with its headers are needed)"
    fi
    case $install in
    brew*) command_line="$install $packages" ;;
    *) command_line="sudo $install $packages" ;;
    esac
    may_install "$install" || die "missing: ${missing}- run: $command_line"
    say "installing $packages"
    # shellcheck disable=SC2086
    install_packages "$install" $packages >&2 </dev/null || die "failed: $install $packages"
    missing=$(missing_parts)
    [ -z "$missing" ] || die "still missing after $install $packages: $missing"
}

# wrk drives the load tests, which say so and skip themselves where there is none.
want_wrk() {
    have wrk && return 0
    install=$(package_manager)
    if [ ! -e "$root/build/no-wrk" ] && [ -n "$install" ] && may_install "$install"; then
        say "installing wrk"
        install_packages "$install" wrk >/dev/null 2>&1 && return 0
        : >"$root/build/no-wrk" # do not ask a distribution without it every time
    fi
    say "wrk is not installed: the load tests will be skipped"
}

# ---- the virtual environment -----------------------------------------------------

# Sets venv_python to that of the virtual environment build/$1-VERSION, which is made if
# it is not there, or was made by another Python.
make_venv() {
    venv=$root/build/$1-$python_version
    venv_python=$venv/bin/python
    base=$("$python" -c 'import sys; print(sys.base_prefix, sys.version)')
    [ "$(cat "$venv/base" 2>/dev/null)" != "$base" ] || return 0
    say "making $venv"
    rm -rf "$venv"
    mkdir -p "$root/build"
    "$python" -m venv "$venv" || die "python -m venv failed"
    pip_install 'setuptools>=77' 'tomli; python_version < "3.11"'
    printf '%s\n' "$base" >"$venv/base"
}

# Sets venv_python to a virtual environment's Python that has the extras $@ installed.
need_venv() {
    make_venv venv
    programs=$root/tests/compat/requirements.txt
    wanted=$(cat "$root/pyproject.toml" "$programs" | cksum)
    for extra in "$@"; do
        [ "$(cat "$venv/extra-$extra" 2>/dev/null)" = "$wanted" ] && continue
        say "installing the requirements of '$extra' for Python $python_version"
        "$venv_python" "$root/scripts/requirements.py" "$extra" >"$venv/requirements.txt"
        pip_install -r "$venv/requirements.txt"
        printf '%s\n' "$wanted" >"$venv/extra-$extra"
    done
}

# Sets venv_python to that of an environment of its own, build/$1-VERSION, which has
# what the file $2 pins.
need_pinned() {
    make_venv "$1"
    wanted=$(cksum <"$2")
    [ "$(cat "$venv/pinned" 2>/dev/null)" = "$wanted" ] && return 0
    say "installing ${2#"$root/"} for Python $python_version"
    pip_install -r "$2"
    printf '%s\n' "$wanted" >"$venv/pinned"
}

# Installs what the file $1 names, a line each, as far as there are wheels: what has none
# is named. Tried once for each version of that file.
want_wheels() {
    wanted=$(cksum <"$1")
    [ "$(cat "$venv/wheels" 2>/dev/null)" = "$wanted" ] && return 0
    grep -v '^#' "$1" | while read -r requirement; do
        say "installing $requirement"
        "$venv_python" -m pip install --quiet --disable-pip-version-check \
            --only-binary :all: "$requirement" >"$venv/wheel.log" 2>&1 </dev/null ||
            say "left out: ${requirement%%;*}: no wheel for Python $python_version"
    done
    printf '%s\n' "$wanted" >"$venv/wheels"
}

pip_install() {
    "$venv_python" -m pip install --quiet --disable-pip-version-check \
        --no-warn-script-location "$@" </dev/null || die "pip install failed: $*"
}
