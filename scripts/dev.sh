#!/bin/sh
# Every task of the project: sh scripts/dev.sh TASK [ARGUMENTS]. The Makefile calls it;
# it needs nothing but a POSIX shell, Python >= 3.10 and (as root) a package manager.
#
#   setup   packages and the environment       build   the extension, in place
#   test    build and run the test suite       demo    crawl a site on asyncio and pyloop
#   conformance   CPython's own asyncio tests, on pyloop
#   compat  other projects' test suites, on asyncio and on pyloop
#   debug   the suite on a build with asserts  asan    the suite on a sanitizers' build
#   tsan    the suite on a ThreadSanitizer build, of a free-threaded Python
#   oom     allocations that fail              leaks   what a thousand repetitions leave
#   fault   system calls that fail
#   lint    check style and types              fmt     apply the style
#   examples   the programs of examples/, as their pages say
#   services   databases, brokers and web servers, used through pyloop
#   bench   compare loops                      python  run the environment's Python
#   docs    the site of docs/, in build/docs (Python >= 3.12)
#   wheels  what is released: the source archive, a wheel of each Python that is found
#   archive the source archive alone
#   clean   remove everything built
#
# PYTHON=python3.12 chooses the interpreter; ARGUMENTS go to pytest, conformance, the
# demo, bench or docs.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/setup.sh"

task=${1:-help}
[ $# -eq 0 ] || shift

# The extension of the tree $1, with the build switches that are in the environment.
build_in() {
    say "building the C core for Python $python_version"
    (cd "$1" && "$venv_python" setup.py -q build_ext --inplace) || die "the build failed"
}

# pytest in the tree $1, which is also where every child process finds pyloop.
pytest_in() {
    tree=$1
    shift
    cd "$tree"
    "$venv_python" -c "import pyloop._core as core
assert core.__file__.startswith('$tree'), core.__file__"
    PYTHONPATH=$tree "$venv_python" -m pytest "$@"
}

prepare() {
    choose_python
    need_system
    need_venv "$@"
}

# A copy of the tree for the kind of build $1; prints its path.
copy_for() {
    "$venv_python" "$root/scripts/copy_tree.py" "$root/build/$1-$python_version"
    printf '%s' "$root/build/$1-$python_version"
}

run_asan() {
    prepare test
    want_wrk
    export PYLOOP_DEBUG=1 PYLOOP_SANITIZE=address,undefined
    copy=$(copy_for asan)
    build_in "$copy"
    runtime=$(ldd "$copy"/pyloop/_core.*.so | awk '/libasan/ { print $3 }')
    [ -n "$runtime" ] || die "the sanitizers' shared runtime (libasan) was not found"
    # The interpreter is not instrumented, so the runtime has to come before it. Leaks
    # are counted by the suite's teardown: what the interpreter keeps is no leak of ours.
    export PYTHONMALLOC=malloc
    export ASAN_OPTIONS=detect_leaks=0
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    export LD_PRELOAD="$runtime"
    pytest_in "$copy" "$@"
}

run_tsan() {
    choose_python
    case $python_version in
    *t) ;;
    *) die "tsan needs a free-threaded Python, and $python is none: PYTHON=python3.13t" ;;
    esac
    prepare test
    export PYLOOP_DEBUG=1 PYLOOP_SANITIZE=thread
    copy=$(copy_for tsan)
    build_in "$copy"
    runtime=$(ldd "$copy"/pyloop/_core.*.so | awk '/libtsan/ { print $3 }')
    [ -n "$runtime" ] || die "the sanitizer's shared runtime (libtsan) was not found"
    # The runtime is preloaded in shells, too, where nothing initialises it before its
    # first use, and they crash: so a library of nothing, whose constructor does.
    starter=$copy/build/tsan-starter.so
    echo 'int pyloop_tsan_starter;' |
        "${CC:-cc}" -shared -fPIC -fsanitize=thread -x c -o "$starter" - ||
        die "a library with -fsanitize=thread could not be built"
    # Each process writes its reports to a file of its own: tests look at what their
    # children print, and at how they end. The interpreter is not instrumented, so what
    # it does by itself inside memcpy() and the like is left out.
    reports=$copy/build/reports
    rm -rf "$reports"
    mkdir -p "$reports"
    options=suppressions=$copy/scripts/tsan.supp:log_path=$reports/tsan
    options=$options:ignore_noninstrumented_modules=1:report_thread_leaks=0
    options=$options:die_after_fork=0:exitcode=0
    # Not what preloads libraries of its own; and ThreadSanitizer's own thread is no
    # reason to warn of forks.
    [ $# -gt 0 ] || set -- --loops=pyloop --ignore=tests/test_hardening.py
    export PYTHONWARNINGS='ignore:This process (pid=:DeprecationWarning'
    status=0
    (
        export PYTHON_GIL=0 TSAN_OPTIONS="$options" LD_PRELOAD="$runtime $starter"
        pytest_in "$copy" "$@"
    ) || status=$?
    found=$(cat "$reports"/* 2>/dev/null | grep -c 'WARNING: ThreadSanitizer' || :)
    [ "$found" -eq 0 ] || cat "$reports"/*
    say "ThreadSanitizer: $found reports"
    [ "$found" -eq 0 ] || exit 1
    exit "$status"
}

run_lint() {
    prepare test dev
    build_in "$root"
    bin=$root/build/venv-$python_version/bin
    cd "$root"
    failed=
    lint_step() {
        say "$*"
        "$@" || failed="$failed $(basename "$1")"
    }
    # shellcheck disable=SC2046  # no source has a blank in its name
    lint_step "$bin/clang-format" --dry-run --Werror $(c_files)
    lint_step "$bin/ruff" check .
    lint_step "$bin/ruff" format --check .
    lint_step "$bin/mypy"
    lint_step "$venv_python" -m mypy.stubtest pyloop._core
    [ -z "$failed" ] || die "lint failed:$failed"
    say "lint passed"
}

run_fmt() {
    prepare dev
    bin=$root/build/venv-$python_version/bin
    cd "$root"
    # shellcheck disable=SC2046
    "$bin/clang-format" -i $(c_files)
    "$bin/ruff" check --fix --select I,UP,W .
    "$bin/ruff" format .
}

run_wheels() {
    if [ "$task" = archive ]; then
        set --
    elif [ -n "${PYTHON:-}" ]; then
        choose_python
        set -- "$python"
    else
        # shellcheck disable=SC2046  # no interpreter's path has a blank in it
        set -- $(list_pythons | cut -d ' ' -f 2)
    fi
    # The tools are not there for every Python that a wheel is built for.
    PYTHON=$(list_pythons | awk '$1 ~ /^3\.1[1-4]$/ { print $2; exit }')
    [ -n "$PYTHON" ] || die "the tools need one of CPython 3.11 to 3.14 beside it"
    choose_python
    need_system
    need_pinned wheels "$root/scripts/wheels/requirements.txt"
    exec "$venv_python" "$root/scripts/wheels/make.py" "$@"
}

c_files() {
    find csrc tests benchmarks -name build -prune -o -name '*.[ch]' -print
}

case $task in
setup)
    prepare test demo
    want_wrk
    ;;
build)
    prepare
    build_in "$root"
    ;;
python)
    prepare test
    PYTHONPATH=$root exec "$venv_python" "$@"
    ;;
test)
    prepare test
    want_wrk
    build_in "$root"
    pytest_in "$root" "$@"
    ;;
conformance)
    prepare
    build_in "$root"
    # Another loop is counted if it is there: uvloop is, where it has a wheel.
    case $* in
    *uvloop*)
        "$venv_python" -m pip install --quiet --disable-pip-version-check \
            --only-binary :all: uvloop </dev/null || say "no uvloop for Python $python_version"
        ;;
    esac
    PYTHONPATH=$root exec "$venv_python" "$root/tests/conformance/run.py" "$@"
    ;;
compat)
    # The newest Python that all the suites support, unless one was chosen.
    [ -n "${PYTHON:-}" ] || PYTHON=$(list_pythons | sed -n 's/^3\.13 //p')
    prepare
    build_in "$root"
    exec "$venv_python" "$root/tests/compat/suites/run.py" "$@"
    ;;
debug)
    prepare test
    want_wrk
    export PYLOOP_DEBUG=1
    copy=$(copy_for debug)
    build_in "$copy"
    pytest_in "$copy" "$@"
    ;;
asan)
    run_asan "$@"
    ;;
tsan)
    run_tsan "$@"
    ;;
demo)
    prepare demo
    build_in "$root"
    PYTHONPATH=$root exec "$venv_python" "$root/examples/crawler/demo.py" "$@"
    ;;
examples)
    choose_python
    need_system
    need_pinned examples "$root/examples/requirements.txt"
    build_in "$root"
    PYLOOP_EXAMPLES=all pytest_in "$root" tests/examples "$@"
    ;;
services)
    choose_python
    need_system
    need_pinned services "$root/tests/services/requirements.txt"
    build_in "$root"
    pytest_in "$root" tests/services "$@"
    ;;
bench)
    prepare test
    want_wrk
    want_wheels "$root/benchmarks/requirements.txt"
    build_in "$root"
    results=$root/benchmarks/results
    PYTHONPATH=$root exec "$venv_python" "$root/benchmarks/compare.py" \
        --json "$results/$python_version.json" --plots "$results/$python_version" "$@"
    ;;
oom | leaks | fault)
    prepare test
    build_in "$root"
    PYTHONPATH=$root exec "$venv_python" "$root/tests/hardening/$task.py" "$@"
    ;;
docs)
    # Sphinx needs Python 3.12; the newest that pyloop is released for will do.
    [ -n "${PYTHON:-}" ] || PYTHON=$(list_pythons | awk '$1 ~ /^3\.1[2-9]$/' | sort -V |
        awk 'END { print $2 }')
    [ -n "$PYTHON" ] || die "the site needs CPython 3.12 or later: PYTHON=/path/of/python"
    choose_python
    need_system
    need_pinned docs "$root/docs/requirements.txt"
    build_in "$root"
    PYTHONPATH=$root exec "$venv_python" "$root/docs/site/build.py" "$@"
    ;;
archive | wheels)
    run_wheels
    ;;
lint)
    run_lint
    ;;
fmt)
    run_fmt
    ;;
clean)
    cd "$root"
    rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache pyloop/*.so
    find . -name __pycache__ -type d -prune -exec rm -rf {} +
    ;;
help)
    sed -n '2,/^set -eu/ { /^#/ s/^# \{0,1\}//p; }' "$root/scripts/dev.sh"
    ;;
*)
    die "no task is named '$task'; see: sh scripts/dev.sh help"
    ;;
esac
