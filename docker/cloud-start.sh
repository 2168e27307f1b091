#!/usr/bin/env bash
# Train on a rented machine from its start on, and go on there when another one was taken away: give
# this file as user data ("startup script") to machines with Docker and, for GPUs, NVIDIA's container
# toolkit. Settings come from the environment or from /etc/prs-med.env; a line such as
# "DATA=s3://bucket/posmed" may also be written below this comment.
#
#   IMAGE         the image, such as registry/prs-med:1
#   DATA          the dataset: s3://bucket/folder
#   CHECKPOINTS   where checkpoints are kept, and gone on from: s3://bucket/folder
#   SETTINGS      other settings of training, as on its command line
#   WEIGHTS       s3://bucket/folder, whose files are fetched to /cache/weights first; optional
#   GPUS          what "docker run --gpus" gets (default: all); "none" trains on the CPU
#   MAX_CRASHES   give up after so many crashes within an hour each (default: 3)
#   MAX_OUTAGES   give up after so many starts in a row at which S3 was away (default: 50)
#   SHUTDOWN      "yes" switches the machine off at the end, however it ended, so that it costs no more
#   WORK          folder for the run, downloads and the log (default: /var/lib/prs-med)
#
# Keys for S3 come from the machine's role. AWS_*, HF_TOKEN and WANDB_API_KEY are passed on if set.
set -uo pipefail

FILE=${PRS_MED_ENV:-/etc/prs-med.env}
if [ -f "$FILE" ]; then
    set -a
    # shellcheck source=/dev/null
    source "$FILE"
    set +a
fi
WORK=${WORK:-/var/lib/prs-med}
NAME=prs-med
SPOT_NOTICE=${SPOT_NOTICE:-http://169.254.169.254/latest}

say() {
    echo "$(date '+%F %T') prs-med: $*"
}

finish() { # STATUS WORDS...
    say "${@:2}"
    [ -z "${WATCHER:-}" ] || kill "$WATCHER" 2>/dev/null
    if [ "${SHUTDOWN:-no}" = yes ]; then
        say "switching off (SHUTDOWN=yes)"
        shutdown -h now
    fi
    exit "$1"
}

for name in IMAGE DATA CHECKPOINTS; do
    [ -n "${!name:-}" ] || finish 2 "$name is not set: see the head of $0"
done
mkdir -p "$WORK/runs" "$WORK/cache" || exit 1
# The image's user has this number.
chown 1000:1000 "$WORK/runs" "$WORK/cache"
exec > >(tee -a "$WORK/log") 2>&1

# xargs takes quotes away, and unlike eval does nothing else with the text.
settings=()
if [ -n "${SETTINGS:-}" ]; then
    mapfile -t settings < <(xargs -n 1 printf '%s\n' <<<"$SETTINGS")
fi

options=(--rm --name "$NAME" --network host --shm-size 16g)
options+=(--volume "$WORK/runs:/app/runs" --volume "$WORK/cache:/cache")
# Names without values: those would be seen in process lists.
for variable in $(compgen -e | grep -E '^(AWS_|HF_TOKEN$|WANDB_API_KEY$)'); do
    options+=(--env "$variable")
done
[ "${GPUS:-all}" = none ] || options+=(--gpus "${GPUS:-all}")

# Training saves and ends with 75 within the two minutes. Bash sees a signal between two commands, or
# in "wait": whatever takes long runs in the background.
ASKED=
trap 'say "asked to end"; ASKED=yes' TERM INT

end_if_asked() {
    [ -z "$ASKED" ] || finish 75 "asked to end while nothing was trained; the same start goes on"
}

# Run a command, and when this script is asked to end, the one that stops it, until it has ended.
patiently() { # STOP WORDS...
    "${@:2}" &
    RUNNING=$!
    local status=0 again
    while kill -0 "$RUNNING" 2>/dev/null; do
        if [ -z "$ASKED" ]; then
            wait "$RUNNING"
            status=$?
        else
            # Again and again: a container that is only being made cannot be stopped yet.
            "$1" >/dev/null 2>&1
            sleep 0.5
        fi
    done
    # What it ended with, if that was in the same moment as the signal.
    wait "$RUNNING"
    again=$?
    [ $again -eq 127 ] || status=$again
    return "$status"
}

stop_container() {
    docker stop --time 110 "$NAME"
}

stop_command() {
    kill "$RUNNING"
}

# AWS announces that it takes a spot machine away two minutes before; other clouds send SIGTERM.
watch_for_the_end() {
    local token
    while sleep 5; do
        token=$(curl --silent --max-time 2 --request PUT "$SPOT_NOTICE/api/token" \
            --header 'X-aws-ec2-metadata-token-ttl-seconds: 60') || continue
        if curl --silent --fail --max-time 2 --output /dev/null \
            --header "X-aws-ec2-metadata-token: $token" \
            "$SPOT_NOTICE/meta-data/spot/instance-action"; then
            kill -TERM $$
            return
        fi
    done
}

in_container() { # WORDS...
    patiently stop_container docker run "${options[@]}" "$IMAGE" "$@"
}

pause() { # SECONDS
    patiently stop_command sleep "$1"
}

# Whether the run saved and ended as somebody asked, and not because S3 was away.
stopped() {
    local file=$WORK/runs/run/status.json
    [ "$file" -nt "$WORK/began" ] && grep -qs '"state": "stopped"' "$file"
}

watch_for_the_end >/dev/null 2>&1 &
WATCHER=$!
until patiently stop_command docker pull --quiet "$IMAGE"; do
    end_if_asked
    [ "$((tries = ${tries:-0} + 1))" -lt 5 ] || finish 1 "cannot pull $IMAGE"
    pause 10
done
end_if_asked
away=0
if [ -n "${WEIGHTS:-}" ]; then
    until in_container python docker/fetch_weights.py "$WEIGHTS" /cache/weights; do
        status=$?
        end_if_asked
        away=$((away + 1))
        if [ $status -ne 75 ] || [ $away -ge "${MAX_OUTAGES:-50}" ]; then
            finish 1 "cannot fetch $WEIGHTS"
        fi
        pause "${PAUSE_S:-10}"
        end_if_asked
    done
    end_if_asked
fi

crashes=0
away=0
while true; do
    end_if_asked
    began=$SECONDS
    : >"$WORK/began"
    in_container train --deepspeed ds_configs/zero2.json --data "$DATA" \
        --checkpoint_uri "$CHECKPOINTS" --save_dir runs/run --resume auto \
        ${settings[@]+"${settings[@]}"}
    status=$?
    case $status in
        0) finish 0 "complete" ;;
        2 | 3) finish $status "ended with $status: nothing that another start would change" ;;
        75)
            if [ -n "$ASKED" ] || stopped; then
                finish 75 "saved and ended; the same start goes on"
            fi
            away=$((away + 1))
            [ $away -lt "${MAX_OUTAGES:-50}" ] || finish 75 "storage was away $away times in a row"
            say "storage is away; starting again from the last checkpoint"
            pause "${PAUSE_S:-10}"
            continue
            ;;
    esac
    away=0
    [ -z "$ASKED" ] || finish $status "ended with $status after being asked to end"
    [ $((SECONDS - began)) -lt 3600 ] || crashes=0
    crashes=$((crashes + 1))
    [ $crashes -lt "${MAX_CRASHES:-3}" ] || finish $status "ended with $status, for the $crashes. time"
    say "ended with $status; starting again from the last checkpoint"
    pause "${PAUSE_S:-10}"
done
