"""`nnUNetv2_cafr model`: hands a trained network over, with its card, and installs one by name.

`pack` puts an exported network and its card into one file; `install` takes such a file, or its address and SHA-256,
into a folder of this user; `show` says what a model is; `list` names those that are installed. Installing runs no code
of the model's, and nothing stays of one that is refused.
"""

import argparse
from pathlib import Path

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError

EXAMPLES = """examples:
  nnUNetv2_cafr export -d 511 -c 2d -f 0 -o model.onnx --card card.yaml
  nnUNetv2_cafr model pack model.onnx -o spine.zip             prints the SHA-256 to publish
  nnUNetv2_cafr model install spine.zip
  nnUNetv2_cafr model install https://example.org/spine.zip --sha256 9f86d08...
  nnUNetv2_cafr model show spine
  nnUNetv2_cafr predict -m spine -i IMAGES -o LABEL_MAPS

exit status: 0 done, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what a model is: card, labels, training, metrics")
    show.add_argument("model", metavar="MODEL", help="an exported network, or an installed one's name")
    install = actions.add_parser("install", help="from an archive, an exported network, or an archive's address")
    install.add_argument("source", metavar="FILE-or-URL")
    install.add_argument("--sha256", metavar="HEX", type=_checksum, help="of the archive; an address needs it")
    install.add_argument("--name", type=options.name("name"), help="default: the card's")
    pack = actions.add_parser("pack", help="one file to hand over")
    pack.add_argument("model", type=Path, metavar="FILE", help="a network, by nnUNetv2_cafr export --card")
    pack.add_argument("-o", type=Path, required=True, metavar="FILE", help="archive, .zip")
    actions.add_parser("list", help="the models that are installed")


def _checksum(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256; expected 64 hexadecimal digits")
    return text.lower()


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.deployment import library
    from nnunetv2_cafr.deployment.card import describe_model
    from nnunetv2_cafr.deployment.description import Description

    try:
        if arguments.action == "show":
            print(describe_model(Description.read(library.find_model(arguments.model)).content))
        elif arguments.action == "install":
            name, description = library.install(arguments.source, arguments.sha256, arguments.name)
            print(f"{describe_model(description.content)}\n\nInstalled: nnUNetv2_cafr predict -m {name} -i IN -o OUT")
        elif arguments.action == "pack":
            print(f"Wrote {arguments.o}\nSHA-256: {library.pack(arguments.model, arguments.o)}")
        else:
            models = library.installed_models()
            print("\n".join(f"{name}  {path.parent}" for name, path in models.items()) or "No model is installed")
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return 0
