"""`nnUNetv2_cafr doctor`: is this installation fit to train, and will nnU-Net find our trainers?"""

import argparse
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import nnunetv2_cafr
from dataset_conversion.environment import folder_of

PACKAGES = (
    "nnunetv2-cafr",
    "nnunetv2",
    "torch",
    "dynamic-network-architectures",
    "batchgeneratorsv2",
    "batchgenerators",
    "SimpleITK",
    "numpy",
)
EXAMPLES = """examples:
  nnUNetv2_cafr doctor

exit status: 0 training can start, 1 something is missing
"""
FOLDERS = {
    "nnUNet_raw": "data sets: conversion, check, planning",
    "nnUNet_preprocessed": "what training reads: planning, split, training",
    "nnUNet_results": "trained networks: training, nnUNetv2_predict, export",
}
EXTRAS = {
    "baselines": "U-Net and Attention U-Net",
    "cluster": "benchmark, which Snakemake runs (Python 3.11)",
    "dicom": "predict --dicom-seg, enhanced multi-frame DICOM",
    "docs": "the documentation as a site",
    "export": "export, predict, load_model",
}
VARIANTS = ("nnUNetTrainer_CAFR_100epochs", "nnUNetTrainer_seed1_budget5x20")


def where_nnunet_finds(trainer: str) -> str | None:
    """Module and file of the class that nnU-Net's own lookup returns for a trainer's name, None if it finds none."""
    from nnunetv2_cafr.training.lookup import find_trainer

    found = find_trainer(trainer)
    if found is None:
        return None
    file = getattr(sys.modules.get(found.__module__), "__file__", "unknown file")
    return f"{found.__module__} ({file})"


def report_versions() -> bool:
    print(f"Python      {platform.python_version()} ({sys.executable})")
    complete = True
    for package in PACKAGES:
        try:
            print(f"  {package:<30} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package:<30} MISSING: pip install {package}")
            complete = False
    return complete


def report_extras() -> None:
    print("Extras      (optional; pip install 'nnunetv2-cafr[NAME]')")
    for extra, purpose in EXTRAS.items():
        missing = [package for package in packages_of(extra) if not is_installed(package)]
        state = f"not installed, lacks {', '.join(missing)}" if missing else "installed"
        print(f"  {extra:<10} {state}; for {purpose}")


def packages_of(extra: str) -> list[str]:
    """Names of the packages that an extra of this package asks for."""
    wanted = re.compile(rf"([\w.-]+)[^;]*;.*extra == ['\"]{extra}['\"]")
    return [match[1] for requirement in requires("nnunetv2-cafr") or () if (match := wanted.match(requirement))]


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def report_devices() -> None:
    import torch

    print(f"Device      {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"  cuda:{index}  {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        print("  no CUDA device: train with -device cpu (or mps)")


def report_folders() -> bool:
    print("Folders")
    usable = True
    for name, purpose in FOLDERS.items():
        try:
            folder = folder_of(name)
        except ValueError as error:
            finding, usable = str(error), False
        else:
            finding = str(folder)
            if not folder.is_dir():
                finding, usable = f"{folder}  DOES NOT EXIST: create it", False
            elif not os.access(folder, os.W_OK):
                finding, usable = f"{folder}  NOT WRITABLE", False
        print(f"  {name:<22} {finding}\n  {'':<22} for {purpose}")
    return usable


def report_trainers() -> bool:
    from nnunetv2_cafr import training

    print("Trainers    (as nnU-Net looks them up: its own package, then each folder of nnUNet_extTrainer)")
    folder = Path(nnunetv2_cafr.__file__).parent / "trainers"
    searched = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    all_found = True
    for name in (*training.__all__, *VARIANTS):
        found = where_nnunet_finds(name)
        print(f"  {name:<36} {found or 'NOT FOUND'}")
        all_found &= found is not None
    print(f"  nnUNet_extTrainer = {os.pathsep.join(searched)}")
    if not all_found:
        print("  To do:")
        if str(folder) not in searched:
            print(
                "    The start-up file nnunetv2_cafr.pth (.start since Python 3.15) did not run: it belongs in "
                "site-packages beside this\n    installation. Reinstall (pip install --force-reinstall --no-deps "
                "nnunetv2-cafr), check that Python does not run with -S,\n"
                f"    or set it yourself: export nnUNet_extTrainer={folder}"
            )
        else:
            print(f"    The folder is searched but a name is missing: reinstall the package; its folder is {folder}")
    return all_found


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_arguments: argparse.Namespace) -> int:
    """Prints the report; 0 when training can start, 1 when something is missing."""
    results = [report_versions()]
    report_extras()
    report_devices()
    results += [report_folders(), report_trainers()]
    print("All is well." if all(results) else "Something is missing, see above.")
    return 0 if all(results) else 1
