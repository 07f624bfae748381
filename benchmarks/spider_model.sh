#!/usr/bin/env bash
# A model of SPIDER's slices that can be handed over, in one line: trained, scored on held-out patients, with its card.
#
#   bash benchmarks/spider_model.sh DATA OUT [EPOCHSxITERATIONS] [-device cpu]
#   bash benchmarks/spider_model.sh DATA spider_model 100x250 -device cuda
#
# DATA holds SPIDER_slices, OUT is a new folder. Data, plans and the held-out patients are those of small_sets.sh. What is
# there already is kept: the same line goes on after a kill. OUT/spider_slices.zip is the model, its SHA-256 is printed.
set -euo pipefail
usage="usage: bash benchmarks/spider_model.sh DATA OUT [EPOCHSxITERATIONS] [-device DEVICE]"
data=${1:?"$usage"}
out=${2:?"$usage"}
shift 2
budget=20x50
if [[ ${1:-} =~ ^[1-9][0-9]*x[1-9][0-9]*$ ]]; then
    budget=$1
    shift
fi
: "${nnUNet_raw:?}" "${nnUNet_preprocessed:?}" "${nnUNet_results:?}"
name=Dataset531_SpineMRI trainer=nnUNetTrainer_CAFR_budget$budget
trained=$nnUNet_results/$name/${trainer}__nnUNetPlans__2d_small

here=$(dirname "${BASH_SOURCE[0]}")
mkdir -p "$out"
bash "$here/small_sets.sh" SPIDER_slices "$data" --arms CAFR --budget "$budget" -o "$out/benchmark" --dry-run
nnUNetv2_train 531 2d_small 0 -tr "$trainer" --c "$@"
nnUNetv2_cafr evaluate "$nnUNet_raw/$name/labelsTr" "$trained/fold_0/validation" --chill -o "$out/scores"
python - "$out" "$budget" <<'END'
import csv, json, sys
from pathlib import Path
from statistics import mean

out = Path(sys.argv[1])
rows = [row for row in csv.DictReader((out / "scores/classes.csv").open()) if row["view"] == "volume"]
table = []
for label in dict.fromkeys(row["name"] for row in rows):
    cases = [row for row in rows if row["name"] == label and float(row["reference_mm3"]) > 0]
    if cases:
        numbers = {score: mean(float(row[score]) for row in cases) for score in ("dice", "nsd")}
        table.append({"structure": label, "patients": len(cases), **{k: f"{v:.3f}" for k, v in numbers.items()}})
with (out / "held_out.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
card = {  # JSON is YAML
    "name": "spider_slices",
    "version": f"1.0.0+{sys.argv[2]}",
    "data": "Sagittal lumbar T2 (SPACE) slices of 22 patients of SPIDER (van der Graaf et al., Sci Data 2024, doi 10.5281/zenodo.10159290)",
    "data_licence": "CC BY 4.0",
    "citation": "van der Graaf et al., Lumbar spine segmentation in MR images, Sci Data 2024; CAFR-Net, PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642",
    "intended_use": f"Trying the tools out. Trained for {sys.argv[2]} (epochs x iterations) on slices of twice the spacing: not for measuring patients",
    "metrics": "held_out.csv",
}
(out / "card.yaml").write_text(json.dumps(card, indent=2))
END
nnUNetv2_cafr export -d 531 -c 2d_small -f 0 -tr "$trainer" -o "$out/spider_slices.onnx" --card "$out/card.yaml"
rm -f "$out/spider_slices.zip" # an earlier one of this script
nnUNetv2_cafr model pack "$out/spider_slices.onnx" -o "$out/spider_slices.zip"
nnUNetv2_cafr model show "$out/spider_slices.onnx"
