"""Models that are installed for this user, by name, and the one file in which a model is handed over.

An archive is a zip file with two members, the ONNX file and its JSON file. Neither can hold code that is run when they
are read, as a checkpoint can.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path

from nnunetv2_cafr.deployment.description import BOTH_FILES, Description, description_file
from nnunetv2_cafr.deployment.runtime import import_extra
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import check_place, sha256, write_atomically

NETWORK = "model.onnx"
LARGEST = 2**31  # bytes of a member: an ONNX file cannot have more, and a few kB of zip can swell to fill a disk


def folder_of_models() -> Path:
    """Where this user's models are; made when one is installed."""
    return user_data_path("nnunetv2_cafr", appauthor=False) / "models"


def installed_models() -> dict[str, Path]:
    """The ONNX file of each installed model, by name."""
    folder = folder_of_models()
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    return {place.name: place / NETWORK for place in places if (place / NETWORK).is_file()}


def find_model(model: str | Path) -> Path:
    """The ONNX file that `model` means: a path, or the name of an installed model.

    Raises:
        ValueError: if it is neither; says what to do with an archive and with nnU-Net's own files.
    """
    path = Path(model)
    if path.suffix == ".onnx":
        return path
    models = installed_models()
    if str(model) in models:
        return models[str(model)]
    if path.suffix == ".zip" and path.is_file():
        raise ValueError(
            f"{model} is an archive: nnUNetv2_cafr model install {model} installs it; then use the name that it prints"
        )
    if path.exists():
        raise ValueError(
            f"{model} is no exported network. One that nnU-Net trained is exported by nnUNetv2_cafr export -d DATASET "
            "-c CONFIGURATION -f FOLD -tr TRAINER -o model.onnx; use model.onnx instead"
        )
    there = f"Installed are {', '.join(models)}" if models else "No model is installed"
    raise ValueError(
        f"There is no file {model}, and no installed model of that name. {there}; expected is a file that "
        "nnUNetv2_cafr export wrote, or a name that nnUNetv2_cafr model install printed"
    )


def pack(model: Path, target: Path) -> str:
    """Writes the archive of an exported network; returns its SHA-256, to be published beside it.

    Raises:
        ValueError: if the description has no card.
        OSError: if `target` is there, or cannot be written.
    """
    description = Description.read(model)
    if not description.content.get("card"):
        raise ValueError(f"{model} has no card, so nobody could know what it is: export it again with --card card.yaml")
    if target.suffix != ".zip":
        raise ValueError(f"-o {target}: expected a file name that ends in .zip")
    if target.exists():
        raise FileExistsError(f"{target} is there; nothing is overwritten. Give another name, or move it away")
    check_place(target)
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(model, NETWORK)
            archive.write(description_file(model), description_file(Path(NETWORK)).name)

    write_atomically(target, write)
    return sha256(target)


def install(source: str, checksum: str | None, name: str | None) -> tuple[str, Description]:
    """Installs a model from an archive or an exported network on this disk, or an archive's address.

    Args:
        checksum: SHA-256 of the file that `source` names; an address needs one.
        name: to be called by; None for the card's.

    Returns:
        Its name, and what it is.

    Raises:
        ValueError: if `source` is no model, or not the one that `checksum` is of.
        OSError: if it cannot be read, fetched or written, or another model has this name.
    """
    folder = folder_of_models()
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
        place = Path(temporary, "model")
        place.mkdir()
        file = (
            _fetch(source, checksum, Path(temporary)) if urlsplit(source).scheme in ("http", "https") else Path(source)
        )
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file}: expected is a .zip file of nnUNetv2_cafr model pack, or its address"
            )
        if checksum is not None and (found := sha256(file)) != checksum.lower():
            raise ValueError(f"{source} is not the file that was expected: its SHA-256 is {found}, not {checksum}")
        _unpack(file, place)
        try:
            description = Description.read(place / NETWORK)
        except UserError as error:
            raise ValueError(f"{source} is no model: {str(error).replace(f'{place}/', '')}") from error
        name = name or (description.content.get("card") or {}).get("name")
        if not name:
            raise ValueError(f"{source} has no card, and so no name: give one by --name")
        target = folder / name
        if target.exists():
            same = sha256(target / NETWORK) == description.content["sha256"]
            raise FileExistsError(
                f"{target} is {'this model' if same else 'another model'} already; remove that folder to install it "
                "again, or give another name by --name"
            )
        place.rename(target)
    return name, description


def _fetch(address: str, checksum: str | None, folder: Path) -> Path:
    if checksum is None:
        raise ValueError(f"{address} comes from elsewhere: give its SHA-256 by --sha256, which its publisher names")
    pooch = import_extra("pooch")
    pooch.get_logger().setLevel("ERROR")
    try:
        return Path(
            pooch.retrieve(address, f"sha256:{checksum.lower()}", fname="fetched", path=folder, progressbar=True)
        )
    except ValueError as error:
        raise ValueError(f"{address} is not the file that was expected, nothing was installed: {error}") from error
    except Exception as error:  # of the many that networks have
        raise OSError(f"{address} could not be fetched, nothing was installed ({error})") from error


def _unpack(file: Path, place: Path) -> None:
    """Puts the two files of a model into `place`.

    Raises:
        ValueError: if `file` is neither an archive of just these two nor an exported network.
    """
    names = [NETWORK, description_file(Path(NETWORK)).name]
    if file.suffix == ".onnx":
        both = (file, description_file(file))
        for source, name in zip(both, names, strict=True):
            if not source.is_file():
                raise ValueError(f"There is no {source}: expected are {BOTH_FILES.format(file.name, both[1].name)}")
            shutil.copyfile(source, place / name)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            found = sorted(archive.namelist())
            if found != sorted(names):
                raise ValueError(
                    f"{file} holds {shorten(found) or 'nothing'}; expected are {' and '.join(names)} alone. A zip of "
                    "nnUNetv2_export_model_to_zip is installed by nnUNetv2_install_pretrained_model_from_zip"
                )
            if large := [one.filename for one in archive.infolist() if one.file_size > LARGEST]:
                raise ValueError(f"{file} holds {large[0]} of more than 2 GB; expected is less, as of every ONNX file")
            archive.extractall(place)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is no zip file, or half of one ({error}): fetch it again") from error
    except RuntimeError as error:  # a password, or a method that Python does not know
        raise ValueError(f"{file} cannot be unpacked ({error}); expected is what model pack wrote") from error
