#!/usr/bin/env bash
# Runs every step of the kit under a limit of its own, at most ten minutes in all, and collects what they measured in $OUT.
#
#     ./run.sh [STEP...]
#
# Exit code 1 if a step failed or ran out of time. A step whose tool is missing is skipped. Variables:
#   OUT       folder of the results [results]
#   DEVICE    cuda or cpu; on the CPU, steps that need a GPU are skipped [cuda]
#   PYTHON    a Python 3, best with PyTorch; its CUDA libraries are used too [python3]
#   DEADLINE  seconds in all; the limits of the steps change in proportion [600]
#   LIB_TESTS arguments for the unit tests of gafi-kernels: the tests that need a GPU
#   WIDTHS, SMALL_WIDTH, REPS, DTYPES, PER_CLASS, EPOCHS, EPOCH_PER_CLASS, STUDENT
#             sizes of the measurements, made smaller for a rehearsal
set -uo pipefail

# In the order in which they run, with their limits in seconds.
STEPS="load:28 properties:15 tests:90 sanitizer:60 convolutions:40 kernel-names:25 speed:70 pytorch:60 compile:80 enqueue:20
    determinism:40 resume:20 epoch:25"
RESULTS="summary.json results.md device.json bench.jsonl convolutions.jsonl training.jsonl logs.tar.gz"

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} DEADLINE=${DEADLINE:-600} OUT=${OUT:-results}
export LIB_TESTS=${LIB_TESTS:-cudnn::tests::gpu --include-ignored --skip convolution_times}
export WIDTHS=${WIDTHS:-64 32} SMALL_WIDTH=${SMALL_WIDTH:-16} REPS=${REPS:-20} DTYPES=${DTYPES:-bf16,tf32,f32}
# 64 images of ten classes are five batches; forty epochs of them are 200 steps.
export PER_CLASS=${PER_CLASS:-64} EPOCHS=${EPOCHS:-40} EPOCH_PER_CLASS=${EPOCH_PER_CLASS:-} STUDENT=${STUDENT:-}

# --- Helpers of the steps -----------------------------------------------------------------------------------------------------

# Ends a step that cannot run here.
skip() {
    echo "skipped: $1"
    exit 77
}

needs_gpu() {
    [ "$DEVICE" != cpu ] || skip "it needs a GPU"
}

# Runs a program of the kit, with the libraries that were found. Python must not see them: PyTorch brings its own.
ours() {
    local program=$1
    shift
    # Threads and memory as gafi-cli sets them for itself.
    # shellcheck disable=SC2086 # $UNDER holds a program and its arguments.
    ${EXEC:-} env LD_LIBRARY_PATH="$LIBRARIES" CANDLE_NUM_THREADS=1 MIMALLOC_PURGE_DELAY=-1 ${UNDER:-} "$HERE/bin/$program" "$@"
}

# The path of one of NVIDIA's tools, if there is one.
tool() {
    local folder
    command -v "$1" && return
    while read -r folder; do
        [ ! -x "$folder/$1" ] || { echo "$folder/$1" && return; }
    done < <(library_folders | sed 's|/lib[^/]*$|/bin|'; ls -d /usr/local/cuda*/compute-sanitizer /opt/nvidia/nsight-systems/*/bin 2>/dev/null)
    return 1
}

# Folders that may hold NVIDIA's libraries.
library_folders() {
    "$PYTHON" "$HERE/kit.py" folders 2>/dev/null
    ls -d "${CONDA_PREFIX:-/nowhere}/lib" /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 2>/dev/null
}

# The loader's path for our programs.
find_libraries() {
    local found=${LD_LIBRARY_PATH:-} folder
    while read -r folder; do
        found=$found${found:+:}$folder
    done < <(library_folders)
    # Candle makes a generator of cuRAND that GaFi never uses, and PyTorch does not always bring cuRAND. A stand-in lets it load.
    if LD_LIBRARY_PATH=$found ldd "$HERE/bin/gafi-cli" 2>/dev/null | grep -q 'libcurand.*not found'; then
        found=$found:$HERE/stubs
    fi
    echo "$found"
}

# Trains the preset's student on $PER_CLASS images of each class. Prints a line of JSON.
train() {
    local out=$1
    shift
    # shellcheck disable=SC2086 # $STUDENT holds options.
    ours gafi-cli train-classifier --device "$DEVICE" --json --config "$HERE/student.toml" --seed 1 $STUDENT \
        --train "$DATA/train" --val "$DATA/val" "$@" --out "$out"
}

train_short() {
    train "$1" --per-class "$PER_CLASS" --epochs "$EPOCHS"
}

# Draws images, unless the kit has some.
need_data() {
    [ -d "$DATA/train" ] || ours gafi-cli import shapes --size 32 --set 'shapes={classes=10,train=20000,test=1000}' \
        --set val_per_class=50 --out "$DATA"
}

# The id of an artifact, a hash of everything in it, from the JSON that made it.
artifact_id() {
    sed -n 's/.*"id":"\([0-9a-f]*\)".*/\1/p' "$1" | tail -n 1
}

# Lines of JSON, also those that follow a test's name.
json_lines() {
    sed -n 's/^[^{]*\({.*}\)[^}]*$/\1/p'
}

# --- The steps ------------------------------------------------------------------------------------------------------------------

step_load() {
    local program missing
    uname -a
    cat "$HERE/kit.json"
    echo "libraries: $LIBRARIES"
    for program in "$HERE"/bin/*; do
        missing=$(LD_LIBRARY_PATH=$LIBRARIES ldd "$program" 2>&1 | grep 'not found')
        [ -z "$missing" ] || {
            echo "the programs need cuDNN 9 and the libraries of the CUDA in kit.json; a PyTorch for that CUDA brings them: set PYTHON"
            echo "$(basename "$program"): $missing" | tr '\n\t' '  '
            return 1
        }
    done
    nvidia-smi || echo "no nvidia-smi"
    ours gafi-cli doctor --device "$DEVICE"
}

step_properties() {
    ours gafi-cli doctor --device "$DEVICE" --json | tee "$OUT/device.json" || return 1
    [ "$DEVICE" = cpu ] || grep -q '"properties"' "$OUT/device.json" || { echo "doctor --json has no cuda.properties" && return 1; }
}

# Runs one binary of tests. Fails if a test failed, was skipped, or if there was none.
gpu_tests() {
    local binary=$1 printed="$WORK/tests.txt" code=0
    shift
    echo "--- $binary $*"
    CUDA_LAUNCH_BLOCKING=1 ours "$binary" "$@" --nocapture 2>&1 | tee "$printed" || code=1
    ! grep -q 'skipped: no usable GPU' "$printed" || { echo "$binary: tests were skipped, because no GPU is usable" && code=1; }
    grep -Eq '^test result: .* [1-9][0-9]* passed' "$printed" || { echo "$binary: no test passed" && code=1; }
    return $code
}

step_tests() {
    local code=0 binary
    if [ "$DEVICE" = cpu ]; then
        for binary in kernels-cuda kernels-lib nn-cuda; do
            ours "$binary" --list || return 1
        done
    fi
    needs_gpu
    gpu_tests kernels-cuda || code=1
    # shellcheck disable=SC2086 # These are arguments.
    gpu_tests kernels-lib $LIB_TESTS || code=1
    gpu_tests nn-cuda || code=1
    [ $code = 0 ] || echo "not all tests passed"
    return $code
}

step_sanitizer() {
    local sanitizer
    needs_gpu
    sanitizer=$(tool compute-sanitizer) || skip "compute-sanitizer is not installed"
    # cuDNN tries calls that the driver refuses; these are no errors of ours.
    local check="$sanitizer --report-api-errors no --error-exitcode 9"
    UNDER="$check --tool memcheck" ours kernels-cuda convolutions_match norms_match --test-threads 1 || return 1
    UNDER="timeout 20 $check --tool racecheck" ours kernels-cuda norms_match --test-threads 1
    case $? in
        0) ;;
        124) echo "racecheck: no time left" ;;
        *) return 1 ;;
    esac
}

# Times of cuDNN's two APIs.
convolution_times() {
    ours kernels-lib convolution_times --include-ignored --nocapture --test-threads 1
}

step_convolutions() {
    local api code=0
    needs_gpu
    convolution_times 2>&1 | tee "$WORK/convolutions.txt" || code=1
    json_lines <"$WORK/convolutions.txt" >"$OUT/convolutions.jsonl"
    for api in legacy graph; do
        grep -Eq "\"api\": *\"$api\"" "$OUT/convolutions.jsonl" || { echo "nothing was measured with the $api API" && code=1; }
    done
    return $code
}

step_kernel_names() {
    local nsys
    needs_gpu
    nsys=$(tool nsys) || skip "nsys is not installed"
    # The profiler slows the calls down, and a few are enough for their kernels' names.
    CALLS=3 UNDER="$nsys profile --trace=cuda,cudnn --stats=true --force-overwrite=true --output=$WORK/kernels" convolution_times
}

# Measures cases with bench_train: CASES WIDTH BATCH DTYPES.
bench() {
    ours bench_train "$1" "$2" "$3" "$REPS" "$4" "$DEVICE" | tee -a "$WORK/ours.jsonl"
}

step_speed() {
    local code=0 width first=yes
    for width in $WIDTHS; do
        bench classifier-train,classifier-infer "$width" 128 "$DTYPES" || code=1
        if [ $first = yes ]; then
            bench gan-train "$width" 64 "$DTYPES" || code=1
            bench gan-sample "$width" 64 f32 || code=1
            bench airbench-train,airbench-infer "$width" 1000 "$DTYPES" || code=1
        fi
        first=no
    done
    return $code
}

step_pytorch() {
    command -v "$PYTHON" >/dev/null || skip "$PYTHON was not found"
    "$PYTHON" "$HERE/kit.py" peers "$WORK/peers.jsonl"
}

step_compile() {
    command -v "$PYTHON" >/dev/null || skip "$PYTHON was not found"
    "$PYTHON" "$HERE/kit.py" compiled "$WORK/peers.jsonl"
}

# Small networks, where launches may cost more than the work: compare `enqueue_s` with `seconds`.
step_enqueue() {
    local code=0
    bench classifier-train "$SMALL_WIDTH" 128 "${DTYPES%%,*}" || code=1
    bench gan-train "$SMALL_WIDTH" 64 "${DTYPES%%,*}" || code=1
    return $code
}

step_determinism() {
    local run
    need_data || return 1
    for run in first second; do
        train_short "$WORK/$run" | tee "$WORK/$run.json" || return 1
    done
    compare determinism first second
}

# Compares the artifacts of two trainings and records the result.
compare() {
    local a b same=true
    a=$(artifact_id "$WORK/$2.json")
    b=$(artifact_id "$WORK/$3.json")
    [ -n "$a" ] && [ "$a" = "$b" ] || same=false
    echo "{\"step\":\"$1\",\"equal\":$same,\"ids\":[\"$a\",\"$b\"]}" | tee -a "$OUT/training.jsonl"
    [ $same = true ] || { echo "the two trainings differ" && return 1; }
}

# Kills a training after its third epoch and resumes it. The result must equal the first training's.
step_resume() {
    local log="$WORK/.resumed.partial/log.jsonl" pid
    need_data || return 1
    [ -s "$WORK/first.json" ] || train_short "$WORK/first" >"$WORK/first.json" || return 1
    EXEC="exec" train_short "$WORK/resumed" &
    pid=$!
    until [ "$(grep -c '"event":"epoch"' "$log" 2>/dev/null)" -ge 3 ] 2>/dev/null; do
        kill -0 $pid 2>/dev/null || { echo "the training ended before it could be killed" && return 1; }
        sleep 0.02
    done
    kill -KILL $pid
    wait $pid
    cp "$log" "$WORK/killed.jsonl"
    echo "killed after $(grep -c '"event":"epoch"' "$log") epochs"
    train_short "$WORK/resumed" | tee "$WORK/resumed.json" || return 1
    # Its wall time would differ if the epoch had been repeated.
    [ "$(head -n 1 "$WORK/killed.jsonl")" = "$(head -n 1 "$WORK/resumed/log.jsonl")" ] ||
        { echo "the training restarted from the beginning instead of resuming" && return 1; }
    compare resume first resumed
}

step_epoch() {
    local log="$WORK/epoch/log.jsonl"
    need_data || return 1
    # The first epoch also compiles kernels, so the last one counts.
    # shellcheck disable=SC2086 # An option with its value, or nothing.
    train "$WORK/epoch" --epochs 3 ${EPOCH_PER_CLASS:+--per-class $EPOCH_PER_CLASS} || return 1
    cat "$log"
    sed -n 's/.*"event":"epoch".*"images":\([0-9]*\).*"train_s":\([0-9.e-]*\).*/\1 \2/p' "$log" | tail -n 1 |
        awk '{printf "{\"step\":\"epoch\",\"images\":%d,\"train_s\":%s,\"images_per_s\":%.0f}\n", $1, $2, $1 / $2}' |
        tee -a "$OUT/training.jsonl" | grep images_per_s
}

# --- One step, or all of them -----------------------------------------------------------------------------------------------------

if [ "${1:-}" = --step ]; then
    "step_${2//-/_}"
    exit
fi

for wanted in "$@"; do
    case " ${STEPS//[[:space:]]/ } " in
        *" $wanted:"*) ;;
        *) echo "no step $wanted; see STEPS in run.sh" >&2 && exit 2 ;;
    esac
done

mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
for file in $RESULTS; do
    rm -f "$OUT/$file"
done
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; exit 130' INT TERM HUP
mkdir "$WORK/logs"
LIBRARIES=$(find_libraries)
DATA=$HERE/data
[ -d "$DATA/train" ] || DATA=$WORK/data
export OUT WORK LIBRARIES DATA
# What drivers and PyTorch compile for this GPU is kept from one process to the next, then removed.
export CUDA_CACHE_PATH="$WORK/cache" TORCHINDUCTOR_CACHE_DIR="$WORK/inductor" TRITON_CACHE_DIR="$WORK/triton" PYTHONDONTWRITEBYTECODE=1

table="" records="" failed=no loaded=yes
for step in $STEPS; do
    name=${step%:*}
    [ $# = 0 ] || case " $* " in *" $name "*) ;; *) continue ;; esac
    limit=$((${step#*:} * DEADLINE / 600))
    log="$WORK/logs/$name.log"
    begin=$SECONDS
    echo "== $name (at most $limit s)"
    if [ $loaded = no ] && [ "$DEVICE" != cpu ]; then
        status="not run" note="the programs do not load"
    elif [ $((DEADLINE - SECONDS)) -lt $limit ]; then
        status="not run" note="it no longer fits into $DEADLINE s"
    else
        # In the background, so that an interrupt ends it at once and not after its limit.
        timeout -k 2 $limit bash "$HERE/run.sh" --step "$name" >"$log" 2>&1 &
        running=$!
        wait $running
        code=$?
        note=""
        case $code in
            0) status=passed ;;
            77) status=skipped note=$(sed -n 's/^skipped: //p' "$log" | tail -n 1) ;;
            124 | 137) status="timed out" failed=yes ;;
            *) status=failed note=$(grep -v '^ *$' "$log" | tail -n 1) failed=yes ;;
        esac
    fi
    [ "$name" != load ] || [ "$status" = passed ] || loaded=no
    note=$(printf %s "$note" | tr -cd '[:print:]' | tr -d '"\\|' | cut -c 1-200)
    seconds=$((SECONDS - begin))
    echo "   $status, $seconds s${note:+: $note}"
    table="$table| $name | $status | $seconds | $note |
"
    records="$records${records:+,
}  {\"step\": \"$name\", \"status\": \"$status\", \"seconds\": $seconds, \"limit\": $limit, \"note\": \"$note\"}"
done

printf '{"kit": %s, "device": "%s", "seconds": %d, "steps": [\n%s\n]}\n' \
    "$(cat "$HERE/kit.json")" "$DEVICE" "$SECONDS" "$records" >"$OUT/summary.json"
printf '| step | result | seconds | note |\n|---|---|---:|---|\n%s' "$table" >"$OUT/results.md"
if command -v "$PYTHON" >/dev/null; then
    "$PYTHON" "$HERE/kit.py" tables "$WORK" "$OUT" >>"$OUT/results.md"
elif [ -f "$WORK/ours.jsonl" ]; then
    cp "$WORK/ours.jsonl" "$OUT/bench.jsonl"
fi
# At most 8 files of at most 16 MiB. A log that is too long keeps its beginning and its end.
for log in "$WORK"/logs/*.log; do
    [ -f "$log" ] || continue
    if [ "$(wc -c <"$log")" -gt 2097152 ]; then
        { head -c 1048576 "$log" && printf '\n[cut]\n' && tail -c 1048576 "$log"; } >"$log.cut" && mv "$log.cut" "$log"
    fi
done
tar -C "$WORK" -czf "$OUT/logs.tar.gz" logs
for file in $RESULTS; do
    if [ -f "$OUT/$file" ] && [ "$(wc -c <"$OUT/$file")" -gt 16000000 ]; then
        head -c 16000000 "$OUT/$file" >"$WORK/cut" && mv "$WORK/cut" "$OUT/$file"
    fi
done
cat "$OUT/results.md"
[ $failed = no ]
