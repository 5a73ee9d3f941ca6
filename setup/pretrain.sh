#!/bin/bash
# What `make pretrain` and `make pretrain3d` (with the argument 3d) run after the set-up: phantom DICOM files -> shards ->
# DiRA-MoCo -> weights -> report. Every step resumes from what an earlier call left.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
target=pretrain${1:-}
if [ "$target" = pretrain3d ]; then
    images="phantom CT" experiment=phantom3d mine="volumes recipe.modality=CT"
    page=docs/how-to/volumes.md
    shards=out/shards/phantom_ct
    # 100 volumes with voxels of 6 mm: a scanner's own would take half a minute each
    recipe=(recipe=phantom_ct recipe.patients=60 recipe.size=64 "recipe.splits={train: 0.7, val: 0.2, test: 0.1}")
else
    images="phantom radiographs" experiment=phantom mine=folder recipe=(recipe=phantom_cxr)
    page=docs/how-to/sharding.md
    shards=out/shards/phantom_cxr
fi
run=out/runs/$experiment

heading() { printf '\n== %s\n' "$*"; }
state() { python -c 'import json; print(json.load(open("'$run'/status.json"))["state"])'; }

heading "1 of 4  $images as DICOM files, and shards of them"
python -m dira_scale.shard "${recipe[@]}" out=$shards

heading "2 of 4  pretraining"
# Launchers neither forward signals nor keep exit codes. So the launcher runs in its own session, where Ctrl-C does not
# reach it; this script forwards signals to the processes that it started; status.json has the outcome.
stop='import psutil, sys; [child.terminate() for child in psutil.Process(int(sys.argv[1])).children()]'
# Drop the long traceback that a launcher of several processes prints when they end.
exec 3> >(trap '' INT && exec awk '/elastic\/multiprocessing/ { over = 1 } !over { print; fflush() }' >&2)
command=(experiment=$experiment data.shards=$shards run=$run)
if [ "${ACCELERATOR:-}" = cpu ]; then
    export CUDA_VISIBLE_DEVICES=
    command+=(parallel.device=cpu)
fi
command=($(python -m dira_scale.doctor show=launch) "${command[@]}")
echo "${command[*]}"
setsid "${command[@]}" 2>&3 &
launch=$!
asked=
# HUP: the terminal is gone, as when an ssh connection drops; nothing can be printed any more.
trap 'asked=yes; python -c "$stop" $launch' INT TERM HUP
while :; do
    wait $launch && code=0 || code=$?
    kill -0 $launch 2>/dev/null || break  # otherwise the trap ended the wait
done
trap - INT TERM HUP
if [ "$asked" ] && [ -f $run/status.json ] && [ "$(state)" = interrupted ]; then
    echo "interrupted; run make $target again to resume"
    exit 75
fi
[ "$code" -eq 0 ] || exit "$code"

heading "3 of 4  weights"
python -m dira_scale.export run=$run

heading "4 of 4  report"
python -m dira_scale.report run=$run

cat <<END

The report:   $PWD/$run/report.html
The weights:  $PWD/$run/export

Next: your own ${images#phantom }
  .venv/bin/python -m dira_scale.shard recipe=$mine recipe.images=IMAGES out=out/shards/mine
  .venv/bin/python -m dira_scale.doctor shards=out/shards/mine
The doctor ends with the command to train on them. $page lists the files that are read.
END
printf '\nFinished in %d min %02d s after the set-up.\n' $((SECONDS / 60)) $((SECONDS % 60))
