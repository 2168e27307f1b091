#!/usr/bin/env bash
# What "docker run IMAGE ..." starts:
#
#   train ...      deepspeed launch/train.py ...
#                  on all GPUs, or with PRS_MED_PROCESSES processes; one on a CPU. They meet at port
#                  29500, or PRS_MED_PORT: needed for two runs with "--network host"
#   eval ...       python launch/eval.py ..., and so infer, data, export, demo
#   anything else  as it is, such as bash, python ... or deepspeed ...
#
# The exit status is that of the program. Asked to end by SIGTERM ("docker stop"), training finishes
# its step, saves, and ends with 75; give it time: docker stop --time 120.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

children() {
    cat "/proc/$1/task/"*/children 2>/dev/null || true
}

# The processes that the deepspeed command started: its only child starts and watches them.
training_processes() {
    local watchers watcher
    watchers=$(children "$1")
    for watcher in $watchers; do
        children "$watcher"
    done
}

# Run the deepspeed command so that its training processes can save when the container has to end.
#
# At SIGTERM the command itself would die and leave its processes behind, which die with the
# container then; its child would kill them after 30 seconds. So this shell stays, keeps SIGTERM from
# both, and sends SIGUSR1, which means the same, to the training processes alone. It does so again
# and again: while they start they ignore it, as a program does with what its parent ignored.
run_deepspeed() {
    local asked=no launcher processes process
    trap '' USR1
    trap 'asked=yes' TERM INT
    "$@" &
    launcher=$!
    while kill -0 "$launcher" 2>/dev/null; do
        if [ "$asked" = yes ]; then
            processes=$(training_processes "$launcher")
            for process in $processes; do
                kill -USR1 "$process" 2>/dev/null || true
            done
        fi
        sleep 1 &
        # A signal ends this at once.
        wait $! || true
    done
    wait "$launcher"
}

case "${1:-help}" in
    help)
        sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        ;;
    train)
        shift
        options=()
        if [ -n "${PRS_MED_PROCESSES:-}" ]; then
            options+=(--num_gpus "$PRS_MED_PROCESSES")
        fi
        if [ -n "${PRS_MED_PORT:-}" ]; then
            options+=(--master_port "$PRS_MED_PORT")
        fi
        run_deepspeed deepspeed "${options[@]}" launch/train.py "$@"
        ;;
    deepspeed)
        run_deepspeed "$@"
        ;;
    *)
        if [ -f "launch/$1.py" ]; then
            program=$1
            shift
            exec python "launch/$program.py" "$@"
        fi
        exec "$@"
        ;;
esac
