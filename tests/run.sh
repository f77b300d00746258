#!/usr/bin/env bash
# All tests, as three processes side by side: those of the real engine mostly wait for it to start, those of
# whole gateways for these; all others are shown as they go. What has failed is then run once more, alone: on a
# machine that others share, a test may have waited for something that stood still. What fails twice has failed.
set -u
cd "$(dirname "$0")/.."
mkdir -p build

run() { # name, pytest's arguments; each process remembers by itself what failed
    .venv/bin/python -m pytest -o "cache_dir=build/pytest-$1" --durations=12 --durations-min=5 "${@:2}"
}

again() { # name, how the first run ended, pytest's arguments
    case $2 in
    0) return 0 ;;
    1) ;;
    *) return "$2" ;;
    esac
    printf '\n== %s: what failed is run once more, alone. What passes now needs a test that waits better.\n' "$1"
    run "$1" --last-failed --last-failed-no-failures none "${@:3}"
}

vllm=(-m vllm)
gateways=(-m 'not vllm' tests/end_to_end)
others=(-m 'not vllm' --ignore tests/end_to_end)

rm -rf build/pytest-*
run vllm "${vllm[@]}" >build/tests-vllm.txt 2>&1 &
of_vllm=$!
run gateways "${gateways[@]}" >build/tests-gateways.txt 2>&1 &
of_gateways=$!
run others "${others[@]}"
others_ended=$?
wait $of_gateways
gateways_ended=$?
cat build/tests-gateways.txt
wait $of_vllm
vllm_ended=$?
cat build/tests-vllm.txt

status=0
again others $others_ended "${others[@]}" || status=$?
again gateways $gateways_ended "${gateways[@]}" || status=$?
again vllm $vllm_ended "${vllm[@]}" || status=$?
exit $status
