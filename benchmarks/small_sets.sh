#!/usr/bin/env bash
# From the files of a small set to its tables, on a CPU: one line a set.
#
#   bash benchmarks/small_sets.sh SET DATA [options of nnUNetv2_cafr benchmark]
#   bash benchmarks/small_sets.sh SPIDER_slices DATA --budget 80x50 --seeds 0 1 2
#
# SET is SPIDER_slices, WaterFat or Dataset004_Hippocampus, DATA the folder that holds it. nnU-Net's three variables are
# set, as for every command of it. What is there already is kept: the same line goes on after a kill.
#
# nnU-Net's own planners plan both networks for slices of twice the spacing, so that a small patch shows the whole spine.
# Only the batch is ours, because the planners fill a GPU: the configuration 2d_small inherits the planned 2d in
# both plans files and gives it the same batch (see "inherits_from" in nnU-Net's documentation of plans files).
set -euo pipefail

set_name=${1:?"usage: bash benchmarks/small_sets.sh SET DATA [options of nnUNetv2_cafr benchmark]"}
data=${2:?"usage: bash benchmarks/small_sets.sh SET DATA [options of nnUNetv2_cafr benchmark]"}
shift 2
: "${nnUNet_raw:?}" "${nnUNet_preprocessed:?}" "${nnUNet_results:?}"
case $set_name in
    SPIDER_slices) id=531 name=Dataset531_SpineMRI spacing="1.88 1.88 3.6" batch=4 patch=160x128 ;;
    WaterFat) id=532 name=Dataset532_SpineMRI spacing="2 2 4" batch=4 patch=112x112 ;;
    Dataset004_Hippocampus) id=4 name=Dataset004_Hippocampus spacing="1 1 1" batch=16 patch=56x40 ;;
    *) echo "$set_name is none of SPIDER_slices, WaterFat, Dataset004_Hippocampus" >&2; exit 2 ;;
esac
raw=$nnUNet_raw/$name preprocessed=$nnUNet_preprocessed/$name

if [ ! -d "$raw" ]; then
    case $set_name in
        Dataset004_Hippocampus) cp -r "$data/$name" "$raw.partial" && chmod -R u+w "$raw.partial" && mv "$raw.partial" "$raw" ;;
        *) nnUNetv2_convert_SpineMRI -i "$data/$set_name" -d $id ;;
    esac
fi
[ -f "$raw/splits_final.json" ] || nnUNetv2_cafr split -d $id --scheme holdout
if ! grep -qs 2d_small "$preprocessed/nnUNetResEncUNetMPlans.json"; then
    if [ -e "$preprocessed" ]; then
        echo "$preprocessed is there without a configuration 2d_small: planned otherwise, or half done; move it away" >&2
        exit 2
    fi
    # shellcheck disable=SC2086  # three numbers
    nnUNetv2_plan_and_preprocess -d $id -c 2d -overwrite_target_spacing $spacing
    # shellcheck disable=SC2086
    nnUNetv2_plan_experiment -d $id -pl nnUNetPlannerResEncM -overwrite_target_spacing $spacing
    python - "$preprocessed" $batch $patch <<'END'
import json, pathlib, sys
for plans in ("nnUNetPlans", "nnUNetResEncUNetMPlans"):
    file = pathlib.Path(sys.argv[1], f"{plans}.json")
    content = json.loads(file.read_text())
    planned = "x".join(map(str, content["configurations"]["2d"]["patch_size"]))
    if planned != sys.argv[3]:
        sys.exit(f"{file} plans slices of {planned}, not {sys.argv[3]}: -overwrite_target_spacing is in nnU-Net's order of axes")
    content["configurations"]["2d_small"] = {"inherits_from": "2d", "batch_size": int(sys.argv[2])}
    file.write_text(json.dumps(content, indent=4))
END
fi
nnUNetv2_cafr benchmark -d $id -c 2d_small -f 0 "$@"
