#!/usr/bin/env bash
# All that is to be done when a machine with an NVIDIA GPU is at hand, in one resumable script:
# build with CUDA, test, measure, and train base and then adv for the time that is left.
#
#   benchmarks/gpu_queue.sh --output DIR --data PHOTOS [--val PHOTOS] [--resume DIR] [--minutes M]
#   benchmarks/gpu_queue.sh --output DIR --dry-run      the same in miniature on a CPU
#
# Everything is written to --output in files of at most 15 MB: logs, results (*.json), and for each
# model its folder and its training state in parts (NAME.state.00, .01, ...). --resume names the
# folder with the output of an earlier run: training goes on from there, exactly where the parts of
# the state are all there, else from the weights. A step that fails is reported in queue.tsv and the
# next one is tried; the exit code is then 1. Needs python with torch and setuptools, pybind11,
# pillow, safetensors, huggingface_hub, tqdm, accelerate, tensorboard and pytest.
set -uo pipefail

OUTPUT='' DATA='' VAL='' RESUME='' MINUTES=8 DRY='' PYTHON=${PYTHON:-python3}
while (($#)); do
  case $1 in
    --output) OUTPUT=$2; shift 2 ;;
    --data) DATA=$2; shift 2 ;;
    --val) VAL=$2; shift 2 ;;
    --resume) RESUME=$2; shift 2 ;;
    --minutes) MINUTES=$2; shift 2 ;;
    --dry-run) DRY=1; shift ;;
    *) echo "gpu_queue.sh: unknown option $1; see the top of the file" >&2; exit 2 ;;
  esac
done
[[ -n $OUTPUT ]] || { echo "gpu_queue.sh: --output DIR is missing" >&2; exit 2; }
[[ -n $DRY || -d $DATA ]] || { echo "gpu_queue.sh: --data must name a folder of photos" >&2; exit 2; }
[[ -z $RESUME || -d $RESUME ]] || { echo "gpu_queue.sh: --resume $RESUME is no folder" >&2; exit 2; }
mkdir -p "$OUTPUT"
OUTPUT=$(realpath "$OUTPUT")
DATA=${DATA:+$(realpath "$DATA")} VAL=${VAL:+$(realpath "$VAL")} RESUME=${RESUME:+$(realpath "$RESUME")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
DEADLINE=$(($(date +%s) + MINUTES * 60))
FAILED=0
echo -e 'step\texit\tseconds' > "$OUTPUT/queue.tsv"

left() { echo $((DEADLINE - $(date +%s))); }

# step NAME SECONDS COMMAND...: runs within its own budget and what is left, keeps the log's end.
step() {
  local name=$1 budget=$2 start code=0
  shift 2
  start=$(date +%s)
  (($(left) < budget)) && budget=$(left)
  if ((budget < 5)); then
    code=skipped
  else
    echo "== $name (at most $budget s)"
    timeout --kill-after=10 "$budget" "$@" > "$WORK/$name.log" 2>&1 || code=$?
    tail -c 200000 "$WORK/$name.log" > "$OUTPUT/$name.log"
    tail -n 3 "$WORK/$name.log"
  fi
  [[ $code == 0 ]] || FAILED=1
  echo -e "$name\t$code\t$(($(date +%s) - start))" | tee -a "$OUTPUT/queue.tsv"
}

# Training state and weights of an earlier run, if they are there.
restore() {
  local name=$1
  mkdir -p "$WORK/$name"
  [[ -n $RESUME ]] || return 0
  if [[ -f $RESUME/$name.state.00 ]]; then
    cat "$RESUME/$name.state."[0-9]* > "$WORK/$name/state.safetensors"
    (cd "$WORK/$name" && sha256sum --status --check "$RESUME/$name.state.sha256") ||
      { echo "$name: the parts of the state are not whole; starting from the weights"
        rm "$WORK/$name/state.safetensors"; }
  fi
  [[ ! -d $RESUME/$name ]] || cp -r "$RESUME/$name" "$WORK/$name/start"
}

# Model folder and state of a model to the output, the state in parts.
keep() {
  local name=$1
  [[ -f $WORK/$name/model/config.json ]] || return 0
  rm -rf "${OUTPUT:?}/$name" "$OUTPUT/$name.state."*
  cp -r "$WORK/$name/model" "$OUTPUT/$name"
  (cd "$WORK/$name" && sha256sum state.safetensors) > "$OUTPUT/$name.state.sha256"
  split --bytes=15000000 --numeric-suffixes "$WORK/$name/state.safetensors" "$OUTPUT/$name.state."
  cp "$WORK/$name/history.jsonl" "$OUTPUT/$name.history.jsonl" 2>/dev/null || true
}

# train NAME MINUTES OPTIONS...
train() {
  local name=$1 minutes=$2
  shift 2
  restore "$name"
  local options=(--config "$name" --data "$DATA" --output "$WORK/$name" --minutes "$minutes")
  [[ -z $VAL ]] || options+=(--val "$VAL")
  [[ -f $WORK/$name/state.safetensors || ! -d $WORK/$name/start ]] ||
    options+=(--init "$WORK/$name/start")
  step "train_$name" $((minutes * 60 + 60)) "$PYTHON" -m freqdiff train "${options[@]}" "$@"
  keep "$name"
}

if [[ -n $DRY ]]; then
  DATA=$WORK/photos
  step photos 60 "$PYTHON" -m benchmarks.photos "$DATA"
  step info 60 "$PYTHON" -m freqdiff info
  step benchmark_deblur 120 "$PYTHON" -m benchmarks.deblur --smallest --runs 1 \
    --output "$OUTPUT/deblur_gpu.json"
  train base 1 --steps 2 --batch 2 --crop 32
  train adv 1 --steps 1 --batch 1 --crop 32
else
  step build 240 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --editable .
  step info 60 "$PYTHON" -m freqdiff info
  step tests 180 "$PYTHON" -m pytest -q -m gpu
  step benchmark_kernels 180 "$PYTHON" -m benchmarks.kernels --backend default triton \
    --output "$OUTPUT/kernels_gpu.json"
  step benchmark_deblur 120 "$PYTHON" -m benchmarks.deblur --output "$OUTPUT/deblur_gpu.json"
  rest=$(($(left) / 60 - 1))
  ((rest < 2)) || train base $((rest * 2 / 3)) --batch 32 --crop 256
  rest=$(($(left) / 60 - 1))
  ((rest < 1)) || train adv "$rest" --batch 16 --crop 256
fi
cat "$OUTPUT/queue.tsv"
exit "$FAILED"
