"""`nnUNetv2_cafr export`: a trained network as one ONNX file, with a JSON file of all that prediction needs.

Any 2-D or 3-D network that nnU-Net trained, from this package or not. Several folds become one network that averages
their logits, as nnUNetv2_predict does. Batch and size of its input are free; sizes that do not fit the network's
strides are zero-padded inside. It is compared with PyTorch on patches of the data set before it is written.
"""

import argparse
import json
from pathlib import Path

from nnunetv2_cafr import options
from nnunetv2_cafr.checkpoint_names import FINAL
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import describe_failure, write_bytes, write_text
from nnunetv2_cafr.splits import FOLDS

EXAMPLES = """examples:
  nnUNetv2_cafr export -d 511 -c 2d -f 0 -o model.onnx
  nnUNetv2_cafr export -d 511 -c 2d -tr nnUNetTrainer -o stock.onnx     all five folds, nnU-Net's own network
  nnUNetv2_cafr export -d 511 -c 2d -f 0 -o model.onnx --card card.yaml   name, data, licence, citation, metrics

exit status: 0 written, 2 the call was refused
"""

ALL_FOLDS = [str(fold) for fold in range(FOLDS)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=options.dataset, required=True, metavar="DATASET", help="id or name of the data set")
    parser.add_argument(
        "-c", type=options.configuration, required=True, metavar="CONFIGURATION", help="configuration, such as 2d"
    )
    parser.add_argument(
        "-f", nargs="+", default=ALL_FOLDS, metavar="FOLD", help=f"folds to average ({' '.join(ALL_FOLDS)})"
    )
    parser.add_argument(
        "-tr", type=options.trainer, default="nnUNetTrainer_CAFR", metavar="TRAINER", help="default nnUNetTrainer_CAFR"
    )
    parser.add_argument(
        "-p", type=options.plans, default="nnUNetPlans", metavar="PLANS", help="plans identifier (default nnUNetPlans)"
    )
    parser.add_argument("-chk", default=FINAL, metavar="NAME", help=f"default {FINAL}")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="ONNX file; a JSON file goes beside it")
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card (YAML), which the JSON file then holds")


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    from nnunetv2_cafr.deployment.card import read_card
    from nnunetv2_cafr.deployment.description import description_file
    from nnunetv2_cafr.deployment.export import describe, export_network, load_folds, refuse_another, refuse_foreign
    from nnunetv2_cafr.deployment.orders import warning_of_unknown_order
    from nnunetv2_cafr.deployment.runtime import import_extra
    from nnunetv2_cafr.raw_dataset import require_folders

    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(name)
    require_folders("nnUNet_results")
    arguments.f = list(dict.fromkeys(arguments.f))  # a fold that is named twice would count twice
    if not arguments.chk.endswith(".pth"):
        arguments.chk += ".pth"
    try:
        card = read_card(arguments.card) if arguments.card else None
        refuse_foreign(arguments.o)
        folder = Path(get_output_folder(arguments.d, arguments.tr, arguments.p, arguments.c))
        predictor = load_folds(folder, arguments.f, arguments.chk)
        description = describe(predictor, folder, arguments.c, arguments.f, arguments.chk, card)
        refuse_another(arguments.o, description)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"Nothing was exported. {error}") from error
    if warning := warning_of_unknown_order(description.reader, description.training_voxel_orders):
        print(warning)
    print(f"Exporting {folder.name}, folds {' '.join(arguments.f)}: a minute or two on a CPU", flush=True)
    program, content, comparison = export_network(predictor, description)
    print(comparison)
    text = json.dumps(content, indent=1)
    try:
        arguments.o.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.o, program)
        write_text(description_file(arguments.o), text)
    except OSError as error:
        raise UserError(describe_failure(arguments.o, error)) from error
    size = f"{len(program) / 2**20:.0f} MB, sizes: {content['onnx']['sizes']}"
    print(f"Wrote {arguments.o} ({size}) and {description_file(arguments.o)}")
    return 0
