# shellcheck shell=bash disable=SC2034
# What the batch scripts in this folder share. They are submitted from the project's folder, or with
# sbatch --chdir.
#
# What may be set in the environment of sbatch:
#   PYTHON   the interpreter (default: python, that of the environment you submit from)
#   IMAGE    a container to run in: a .sif file is run by Apptainer, any other image by pyxis
#   MOUNTS   folders to see in it besides this one, such as /data:/data,/scratch:/scratch
#   LOGS     folder for the output of each process (default: slurm-logs), seen by all nodes

PYTHON=${PYTHON:-python}
IMAGE=${IMAGE:-}
MOUNTS=$PWD:$PWD${MOUNTS:+,$MOUNTS}
LOGS=${LOGS:-slurm-logs}

# In an array the number of its last task is also that of the whole array, so that
# `scontrol requeue $SLURM_JOB_ID` would put all tasks into the queue again.
JOB=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    JOB=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

say() {
    echo "$(date '+%F %T') job $JOB: $*"
}

give_up() { # STATUS WORDS...
    say "${@:2}"
    exit "$1"
}

# SIGTERM comes from scancel, preemption and scontrol requeue. Bash would die of it at once; so it
# waits for srun, whose processes may be saving. Slurm kills what is left after KillWait.
TERMINATED=
trap 'TERMINATED=yes' TERM

# IN_STEP: what makes srun's processes run in the container. HERE: the same for one short command on
# the first node. Both are empty without a container.
SRUN_OPTIONS=()
IN_STEP=()
HERE=()
if [[ $IMAGE == *.sif ]]; then
    IN_STEP=(apptainer exec --bind "$MOUNTS" --pwd "$PWD")
    if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
        IN_STEP+=(--nv)
    fi
    IN_STEP+=("$IMAGE")
    HERE=("${IN_STEP[@]}")
elif [ -n "$IMAGE" ]; then
    srun --help | grep -q -e --container-image ||
        give_up 2 "IMAGE=$IMAGE is no .sif file, and srun has no --container-image (pyxis)"
    SRUN_OPTIONS=(--container-image="$IMAGE" --container-mounts="$MOUNTS" --container-workdir="$PWD")
    HERE=(srun --nodes=1 --ntasks=1 "${SRUN_OPTIONS[@]}")
fi

# Processes: as many as --ntasks-per-node or --ntasks say, else one per GPU; without GPUs one per node.
processes=${SLURM_NTASKS:-$((${SLURM_GPUS_ON_NODE:-1} * SLURM_NNODES))}
if [ -z "${SLURM_NTASKS:-}" ]; then
    # Slurm knows of no tasks, so all of a node share the CPUs that the job has there.
    SRUN_OPTIONS+=(--ntasks="$processes" --ntasks-per-node="$((processes / SLURM_NNODES))")
    SRUN_OPTIONS+=(--overcommit --cpu-bind=none)
elif [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    # From Slurm 22.05 on srun does not take it over from sbatch.
    SRUN_OPTIONS+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
fi

# Without CPUs asked for, many clusters give one, which all processes and their loaders share.
each_node=$((processes / SLURM_NNODES))
if [ "${SLURM_CPUS_ON_NODE:-$((2 * each_node))}" -lt $((2 * each_node)) ]; then
    say "WARNING: this node has $SLURM_CPUS_ON_NODE CPUs for $each_node processes" \
        "and their loaders: ask for more, such as sbatch --cpus-per-gpu=8"
fi

# Run a program in all processes; the status is the highest of theirs. When one ends the others have
# a minute: --kill-on-bad-exit would end them at once, and hide a status that says more than "killed".
run_in_all() {
    srun "${SRUN_OPTIONS[@]}" --kill-on-bad-exit=0 --wait=60 \
        --open-mode=append --output="$LOGS/%j-%t.log" "${IN_STEP[@]}" "$PYTHON" "$@"
}

# End with a status, after putting the job into the queue again under its number. Slurm starts it
# after two minutes at the earliest.
put_into_queue_again() { # STATUS
    if scontrol requeue "$JOB"; then
        say "ended with $1; put into the queue again"
    else
        say "ended with $1; Slurm does not put it into the queue again (sbatch --no-requeue?)"
    fi
    exit "$1"
}

[ -f launch/train.py ] || give_up 2 "$PWD is not the project's folder: submit from there, or --chdir"
mkdir -p "$LOGS" || exit 2
say "start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST;" \
    "output of $processes processes: $LOGS/$SLURM_JOB_ID-*.log"
