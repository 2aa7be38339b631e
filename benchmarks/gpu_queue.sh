#!/usr/bin/env bash
# All that is to be done when a machine with an NVIDIA GPU is at hand, in one resumable script:
# build with CUDA, test, measure, and train side by side for the time that is left.
#
#   benchmarks/gpu_queue.sh --output DIR --data PHOTOS [--val PHOTOS] [--resume DIR] [--minutes M]
#                           [--only "build info tests kernels photos synthesis diffusion train peers"]
#                           [--train "base adv tiny gaussian ..."] [--peers "nafnet ..."] [--commit SHA]
#                           [--stages "codec base align"] [--real BLURRED_PHOTOS]
#   benchmarks/gpu_queue.sh --output DIR --dry-run      the same in miniature on a CPU
#
# Everything is written to --output in files of at most 15 MB: logs, results (*.json), and for each
# model its folder and its training state in parts (NAME.state.00, .01, ...). --resume names the
# folder with the output of an earlier run: training goes on from there, exactly where the parts of
# the state are all there, else from the weights. A step that fails is reported in queue.tsv and the
# next one is tried; the exit code is then 1. --train names models of freqdiff.model, and kinds of
# blur of blursynth.recipes, each of which gives runs for benchmarks/table_blur.py; all of them share
# the GPU. The variables NAME_STEPS (base: BASE_STEPS) say how long the schedules are; TABLE_STEPS that
# of the kinds of blur. The step peers, which is left out if it is not asked for, trains base and the
# networks of benchmarks/peers that --peers names on the same pairs, PEER_STEPS steps of PEER_BATCH
# crops each, and compares them on --val (table1.json).
#
# The step diffusion, which is left out too if it is not asked for, trains the small base of the
# diffusion engine of blursynth (blur_codec, blur_base, blur_align, with the same files each) and
# measures it; it takes all the time, or half of it where trainings follow. --stages names the stages
# that are to be trained, or to go on (base and align, as the codec is good untrained); the one before
# them is then taken from --resume, if it is there. It also needs diffusers, transformers, peft, and
# the vocabulary in open-clip-torch.
#
# --commit is for a copy of the sources without their history. Needs python
# with torch and setuptools, pybind11, pillow, safetensors, huggingface_hub, tqdm, accelerate,
# tensorboard and pytest.
set -uo pipefail

OUTPUT='' DATA='' VAL='' RESUME='' MINUTES=8 DRY='' PYTHON=${PYTHON:-python3}
ONLY='build info tests kernels photos synthesis train' TRAIN='base adv'
STAGES='base align' REAL=''
PEERS='rrdb airnet dgunet mprnet nafnet uformer restormer'
while (($#)); do
  case $1 in
    --output) OUTPUT=$2; shift 2 ;;
    --data) DATA=$2; shift 2 ;;
    --val) VAL=$2; shift 2 ;;
    --resume) RESUME=$2; shift 2 ;;
    --minutes) MINUTES=$2; shift 2 ;;
    --only) ONLY=$2; shift 2 ;;
    --train) TRAIN=$2; shift 2 ;;
    --stages) STAGES=$2; shift 2 ;;
    --real) REAL=$2; shift 2 ;;
    --peers) PEERS=$2; shift 2 ;;
    --commit) export FREQDIFF_COMMIT=$2; shift 2 ;;
    --dry-run) DRY=1; shift ;;
    *) echo "gpu_queue.sh: unknown option $1; see the top of the file" >&2; exit 2 ;;
  esac
done
[[ -n $OUTPUT ]] || { echo "gpu_queue.sh: --output DIR is missing" >&2; exit 2; }
[[ -n $DRY || -d $DATA ]] || { echo "gpu_queue.sh: --data must name a folder of photos" >&2; exit 2; }
[[ -z $RESUME || -d $RESUME ]] || { echo "gpu_queue.sh: --resume $RESUME is no folder" >&2; exit 2; }
wanted() { [[ " $ONLY " == *" $1 "* ]]; }
if [[ -z $DRY && ! -d $REAL ]] && wanted diffusion && [[ " $STAGES " == *" align "* ]]; then
  echo "gpu_queue.sh: --real must name a folder of blurred photos" >&2; exit 2
fi
mkdir -p "$OUTPUT"
OUTPUT=$(realpath "$OUTPUT")
DATA=${DATA:+$(realpath "$DATA")} VAL=${VAL:+$(realpath "$VAL")} RESUME=${RESUME:+$(realpath "$RESUME")}
REAL=${REAL:+$(realpath "$REAL")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
DEADLINE=$(awk "BEGIN { print int($(date +%s) + $MINUTES * 60) }")
FAILED=0
COMPILE=(--compile)
echo -e 'step\texit\tseconds' > "$OUTPUT/queue.tsv"

left() { echo $((DEADLINE - $(date +%s))); }

# report NAME CODE START: the end of the step's log, and a row of the table.
report() {
  tail -c 200000 "$WORK/$1.log" > "$OUTPUT/$1.log"
  tail -n 3 "$WORK/$1.log"
  [[ $2 == 0 ]] || FAILED=1
  echo -e "$1\t$2\t$(($(date +%s) - $3))" | tee -a "$OUTPUT/queue.tsv"
}

# step NAME SECONDS COMMAND...: runs within its own budget and what is left; fails if that does.
step() {
  local name=$1 budget=$2 start code=0
  shift 2
  start=$(date +%s)
  (($(left) < budget)) && budget=$(left)
  if ((budget < 5)); then
    echo "no time left" > "$WORK/$name.log"
    code=skipped
  else
    echo "== $name (at most $budget s)"
    timeout --kill-after=10 "$budget" "$@" > "$WORK/$name.log" 2>&1 || code=$?
  fi
  report "$name" "$code" "$start"
  [[ $code == 0 ]]
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
  # What each writes last.
  [[ -f $WORK/$name/model/config.json || -f $WORK/$name/model/training.json ]] || return 0
  rm -rf "${OUTPUT:?}/$name" "$OUTPUT/$name.state."*
  cp -r "$WORK/$name/model" "$OUTPUT/$name"
  (cd "$WORK/$name" && sha256sum state.safetensors) > "$OUTPUT/$name.state.sha256"
  split --bytes=15000000 --numeric-suffixes "$WORK/$name/state.safetensors" "$OUTPUT/$name.state."
  cp "$WORK/$name/history.jsonl" "$OUTPUT/$name.history.jsonl" 2>/dev/null || true
}

# train_command NAME SECONDS: sets COMMAND. Base and adv start with the blur estimator of tiny,
# whose architecture they share, unless there are weights of an earlier run.
train_command() {
  local name=$1 minutes steps workers
  printf -v minutes '%d.%02d' $(($2 / 60)) $(($2 % 60 * 100 / 60))
  workers=$(($(nproc) / $(wc -w <<< "$TRAIN")))
  ((workers > 0)) || workers=1
  case $name in
    tiny | base | adv)
      steps=${name^^}_STEPS
      COMMAND=("$PYTHON" -m freqdiff train --config "$name" --data "$DATA" --output "$WORK/$name"
        --minutes "$minutes" --workers "$workers")
      [[ -z $VAL ]] || COMMAND+=(--val "$VAL")
      if [[ -n $DRY ]]; then
        COMMAND+=(--steps 2 --batch 2 --crop 32)
      else
        case $name in
          tiny) COMMAND+=(--batch 32 --steps "${!steps:-16000}" --progressive) ;;
          base) COMMAND+=(--batch 16 --steps "${!steps:-20000}" --anchor-steps 0) ;;
          adv) COMMAND+=(--batch 8 --steps "${!steps:-20000}" --anchor-steps 0) ;;
        esac
        COMMAND+=(--finish "${COMPILE[@]}")
      fi
      if [[ ! -f $WORK/$name/state.safetensors ]]; then
        if [[ -d $WORK/$name/start ]]; then
          COMMAND+=(--init "$WORK/$name/start")
        elif [[ $name != tiny ]]; then
          COMMAND+=(--init tiny)
        fi
      fi
      ;;
    base_equal | rrdb | airnet | dgunet | mprnet | nafnet | uformer | restormer)
      COMMAND=("$PYTHON" -m benchmarks.peers.training --peer "$name")
      [[ $name != base_equal ]] || COMMAND=("$PYTHON" -m freqdiff train --config base)
      COMMAND+=(--data "$DATA" --output "$WORK/$name" --minutes "$minutes" --workers "$workers")
      [[ -z $VAL ]] || COMMAND+=(--val "$VAL")
      if [[ -n $DRY ]]; then
        COMMAND+=(--steps 2 --batch 2 --crop 32)
      else
        COMMAND+=(--steps "${PEER_STEPS:-2000}" --batch "${PEER_BATCH:-8}" --crop 256)
      fi
      ;;
    *)
      COMMAND=("$PYTHON" -m benchmarks.table_blur --train-only --trainings "$name" --sharp "$DATA"
        --runs "$OUTPUT/table_blur" --workers "$workers")
      if [[ -n $DRY ]]; then
        COMMAND+=(--steps 2 --batch 2 --crop 32 --seeds 1)
      else
        COMMAND+=(--steps "${TABLE_STEPS:-2800}" --batch 32 --crop 256 --seeds "${TABLE_SEEDS:-1}"
          --anchor-steps 0 "${COMPILE[@]}")
      fi
      ;;
  esac
}

# train_all [SECONDS]: all trainings at once for the time that is left, less what is needed behind.
train_all() {
  local name start seconds code reserve=${1:-30}
  local -A pids=()
  start=$(date +%s)
  start_training() {
    timeout --kill-after=10 $((seconds + 15)) "${COMMAND[@]}" > "$WORK/train_$name.log" 2>&1 &
    pids[$name]=$!
  }
  for name in $TRAIN; do
    seconds=$(($(left) - reserve))
    [[ -z $DRY ]] || seconds=120
    ((seconds > 60)) || { echo "no time left to train $name"; FAILED=1; break; }
    echo "== train $name (at most $seconds s)"
    restore "$name"
    train_command "$name" "$seconds"
    start_training
    # The first one compiles, for at most two minutes; the others find what it compiled. If that
    # failed, all go on without.
    if ((${#pids[@]} == 1 && ${#COMPILE[@]})) && [[ -z $DRY ]]; then
      for ((waited = 0; waited < 120; waited++)); do
        ! grep -q '^step ' "$WORK/train_$name.log" || break
        if ! kill -0 "${pids[$name]}" 2>/dev/null; then
          echo "$name ended early: once more without compiling"
          cp "$WORK/train_$name.log" "$OUTPUT/compiled_$name.log"
          COMPILE=()
          train_command "$name" "$seconds"
          start_training
          break
        fi
        sleep 1
      done
    fi
  done
  for name in "${!pids[@]}"; do
    code=0
    wait "${pids[$name]}" || code=$?
    report "train_$name" "$code" "$start"
    keep "$name"
  done
  find "$OUTPUT" -path '*/table_blur/*' -name 'state.safetensors' -delete
}

# Where the result of a stage of the diffusion engine is, of this run or of an earlier one.
stage_result() {
  local folder
  for folder in "$WORK/blur_$1/model" "$RESUME/blur_$1"; do
    [[ ! -f $folder/training.json ]] || { echo "$folder"; return; }
  done
}

# The stages of the diffusion engine one after the other, each with its share of the time; then what
# they are worth.
train_diffusion() {
  local stage name before='' from start code seconds share shares=0 minutes total base real
  local -A parts=([codec]=2 [base]=5 [align]=3)
  local -a command
  for stage in $STAGES; do ((shares += ${parts[$stage]:-0})); done
  total=$(($(left) - 90))
  ! wanted train || total=$((total / 2))
  [[ -z $DRY ]] || total=300
  for stage in codec base align; do
    name=blur_$stage
    if [[ " $STAGES " == *" $stage "* ]]; then
      seconds=$((total * ${parts[$stage]} / shares))
      share=$(($(left) - 60))
      ((seconds <= share)) || seconds=$share
      ((seconds >= 20)) || { echo "no time left to train $name"; FAILED=1; break; }
      echo "== train $name (at most $seconds s)"
      start=$(date +%s) code=0
      restore "$name"
      printf -v minutes '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60))
      command=("$PYTHON" -m blursynth train-diffusion --stage "$stage" --sharp "$DATA"
        --out "$WORK/$name" --minutes "$minutes")
      [[ -z $VAL ]] || command+=(--val "$VAL")
      from=$([[ -z $before ]] || stage_result "$before")
      [[ -z $from ]] || command+=(--base "$from")
      [[ $stage != align ]] || command+=(--real "${REAL:-$DATA}" --hold-out)
      if [[ -n $DRY ]]; then
        command+=(--steps 2 --batch 2 --crop 64)
      else
        case $stage in
          codec) command+=(--batch 64) ;;
          base) command+=(--batch 32 --rate 1e-3) ;;
          align) command+=(--batch 16) ;;
        esac
        command+=(--finish)
      fi
      timeout --kill-after=10 $((seconds + 45)) "${command[@]}" > "$WORK/train_$name.log" 2>&1 ||
        code=$?
      report "train_$name" "$code" "$start"
      keep "$name"
    fi
    before=$stage
  done
  base=$(stage_result base) real=$(stage_result align)
  command=("$PYTHON" -m benchmarks.diffusion_control --base "$base" --sharp "${VAL:-$DATA}"
    --real "${REAL:-$DATA}" --output "$OUTPUT/diffusion_control.json")
  [[ -z $real ]] || command+=(--lora "$real")
  [[ -z $DRY ]] || command+=(--photos 1 --draws 1 --crop 64 --steps 1)
  [[ -z $base ]] || step benchmark_diffusion 120 "${command[@]}"
}

# Base and its peers with one budget and without compiling, then side by side on held-out photos.
compare_peers() {
  local TRAIN="base_equal $PEERS" COMPILE=() name
  local options=(--synthetic "${VAL:-$DATA}" --tile 1024 --output "$OUTPUT/table1.json")
  train_all 120
  for name in base_equal $PEERS; do
    [[ -f $OUTPUT/$name/config.json ]] || continue
    [[ $name == base_equal ]] && options+=(--ours "$OUTPUT/$name") || options+=(--peer "$OUTPUT/$name")
  done
  [[ -z $DRY ]] || options+=(--limit 1)
  step table1 300 "$PYTHON" -m benchmarks.table1 "${options[@]}"
}

if [[ -n $DRY ]]; then
  DATA=$WORK/photos
  step photos_to_train_on 60 "$PYTHON" -m benchmarks.photos "$DATA"
  wanted info && step info 60 "$PYTHON" -m freqdiff info
  wanted photos && step benchmark_photos 120 "$PYTHON" -m benchmarks.deblur --smallest --runs 1 \
    --output "$OUTPUT/deblur_gpu.json"
else
  # An extension that was built before is used as it is.
  wanted build && step build 240 bash -c "
    $PYTHON -c 'from freqdiff_kernels import native; assert native.has_kernel(\"fft_features\", \"cuda\")' ||
    $PYTHON -m pip install --no-build-isolation --no-deps --no-index --editable ."
  wanted info && step info 60 "$PYTHON" -m freqdiff info
  wanted kernels && step benchmark_kernels 300 "$PYTHON" -m benchmarks.kernels \
    --backend default triton --output "$OUTPUT/kernels_gpu.json"
  wanted photos && step benchmark_photos 180 "$PYTHON" -m benchmarks.deblur --large \
    --model tiny base --output "$OUTPUT/deblur_gpu.json"
  wanted synthesis && step benchmark_synthesis 60 "$PYTHON" -m benchmarks.blursynth \
    --photos "$DATA" --output "$OUTPUT/blursynth_gpu.json"
fi
# Beside the trainings, which wait for a compiler at first.
TESTS=''
if [[ -z $DRY ]] && wanted tests; then
  step tests 300 "$PYTHON" -m pytest -q -m gpu &
  TESTS=$!
fi
wanted diffusion && train_diffusion
wanted train && train_all
[[ -z $TESTS ]] || wait "$TESTS" || FAILED=1
wanted peers && compare_peers
cat "$OUTPUT/queue.tsv"
exit "$FAILED"
