"""What would end a training in its first step, or teach it nothing, found before any data is loaded."""

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.errors import UserError, ranges, shorten
from nnunetv2_cafr.files import read_json_list
from nnunetv2_cafr.plans_fields import faults_of, resolved
from nnunetv2_cafr.raw_dataset import find_dataset, patients_of
from nnunetv2_cafr.training.network_identity import bare

# What nnU-Net raises of a network, labels or names in the plans of which nothing can be made.
PLANS_ERRORS = (
    LookupError,
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    ModuleNotFoundError,
    RuntimeError,  # torch's of layers that no memory holds
)
# The device's, its driver's and NCCL's, which are RuntimeErrors too: a GPU may be busy, or older than its driver.
DEVICE_ERRORS = tuple(
    getattr(module, name)
    for module, name in ((torch, "OutOfMemoryError"), (torch, "AcceleratorError"), (torch.distributed, "DistError"))
    if hasattr(module, name)
)


def refuse(trainer: nnUNetTrainer, text: str) -> NoReturn:
    """Ends a training that can't be right: a word in the log, the same on the screen, and no traceback."""
    trainer.print_to_log_file(text, also_print_to_console=False)
    raise UserError(text)


class CheckedTraining(nnUNetTrainer):
    """Mixin behind the others: refuses by name what can't be trained."""

    only_2d = False

    @classmethod
    def check_requirements(cls) -> None:
        """Asks for what this trainer needs beside the packages that came with this one; most need nothing.

        Raises:
            ImportError: if a package is missing; says how to install it.
        """

    @classmethod
    def unfit(cls, settings: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str | None:
        """Why this trainer can't train sound plans and labels, to be read behind its name; None if it can.

        Args:
            settings: a configuration of the plans with what it inherits.
        """
        if cls.only_2d and (axes := len(settings["patch_size"])) != 2:
            return f"is 2-D, and patches have {axes} axes: train -c 2d, or nnUNetTrainer_CAFR"
        return None

    @classmethod
    def check_plans(cls, plans: Any, configuration: str, dataset_json: Any) -> None:
        """Raises UserError if no training can be made of the plans, or none of this trainer."""
        if faults := list(faults_of(plans, configuration, dataset_json)):
            raise UserError(_words(plans, configuration, faults))
        if reason := cls.unfit(resolved(plans["configurations"], configuration), dataset_json):
            raise UserError(f"{cls.__name__} {reason}")

    # nnU-Net reads the argument names off this signature.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        try:
            self.check_requirements()
        except ImportError as error:
            raise UserError(str(error)) from error
        self.check_plans(plans, configuration, dataset_json)
        try:
            super().__init__(plans, configuration, fold, dataset_json, device)
        except DEVICE_ERRORS:
            raise
        except PLANS_ERRORS as error:
            raise UserError(_words(plans, configuration, [_reason(error)])) from error

    def initialize(self) -> None:
        if self.device.type == "cuda" and not torch.cuda.is_available():
            refuse(
                self,
                "nnU-Net trains on a GPU unless told otherwise, and PyTorch finds none that it can use here. Give "
                "-device cpu, or -device mps on a Mac; where there is a GPU, see its driver and 'nnUNetv2_cafr doctor'",
            )
        plans, configuration = self.plans_manager.plans, self.configuration_name
        if problems := list(_wrong_plans(self)):
            refuse(self, _words(plans, configuration, problems))
        try:
            super().initialize()
        except DEVICE_ERRORS:
            raise
        except PLANS_ERRORS as error:
            self.print_to_log_file(traceback.format_exc(), also_print_to_console=False)
            refuse(self, _words(plans, configuration, [_reason(error)]))

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        file = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        # Of what is not there nnU-Net makes a random split by case, in which a patient can be on both sides.
        if isinstance(self.fold, int):
            if not file.is_file():
                self._require_single_cases(file)
            elif self.fold >= (number := len(read_json_list(file))):
                there = ranges(range(number))
                refuse(self, f"{file} has no fold {self.fold}: give one that it has, fold {there}, or 'all'")
        train, validation = super().get_tr_and_val_datasets()
        cases = {"train": list(train.identifiers), "val": list(validation.identifiers)}
        place = f"{file}, fold {self.fold}"
        if empty := [part for part, identifiers in cases.items() if not identifiers]:
            refuse(self, f"{place} has no case in {' and '.join(empty)}; give a fold that trains and validates on some")
        folder = Path(self.preprocessed_dataset_folder)
        missing = sorted({case for part in cases.values() for case in part if not (folder / f"{case}.pkl").is_file()})
        if missing:
            refuse(
                self,
                f"{place} names {len(missing)} cases that {folder} does not hold ({shorten(missing)}). "
                f"Preprocess them: nnUNetv2_preprocess -d {self.plans_manager.dataset_name} -plans_name "
                f"{self.plans_manager.plans_name} -c {self.configuration_name}; or take them out of the split",
            )
        if isinstance(self.fold, int):
            self._require_other_patients(cases, place)
        self._require_previous_stage(cases["train"] + cases["val"])
        return train, validation

    def _require_single_cases(self, file: Path) -> None:
        cases = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        number = len(set(self._patients_of(cases).values()))
        if number < len(cases):
            refuse(
                self,
                f"{file} is not there, and nnU-Net's own folds are by case: of {number} patients with {len(cases)} "
                "cases, by provenance.json, some would be trained on and validated. Make folds by patient: "
                f"nnUNetv2_cafr split -d {self.plans_manager.dataset_name}",
            )

    def _require_other_patients(self, cases: Mapping[str, Sequence[str]], place: str) -> None:
        patient = self._patients_of([*cases["train"], *cases["val"]])
        train, validation = ({patient[case] for case in cases[part]} for part in ("train", "val"))
        if not (both := sorted(train & validation)):
            return
        found = (
            f"{place} trains on {len(both)} of the {len(validation)} patients whom it validates ({shorten(both)}), by "
            "provenance.json: its Dice says nothing of others"
        )
        if self.current_epoch > 0:  # begun before this was looked at
            self.print_to_log_file(f"WARNING: {found}.")
            return
        refuse(
            self,
            f"{found}. Remove the file, then: nnUNetv2_cafr split -d {self.plans_manager.dataset_name}. Folds that it "
            "gave have to be trained again",
        )

    def _patients_of(self, cases: Sequence[str]) -> dict[str, str]:
        """By case; each is its own where the raw data set is not at hand, or has no provenance.json."""
        dataset = self.plans_manager.dataset_name
        try:
            find_dataset(dataset)
        except UserError:
            return {case: case for case in cases}
        try:
            return patients_of(dataset, cases)
        except UserError as error:
            refuse(self, str(error))

    def _require_previous_stage(self, cases: Sequence[str]) -> None:
        """Of a cascade: nnU-Net's validation of the stage before writes what this one refines."""
        if not self.is_cascaded:
            return
        folder = Path(self.folder_with_segs_from_previous_stage)
        there = {file.stem for file in folder.iterdir()} if folder.is_dir() else set()
        if lacking := sorted(set(cases) - there):
            stage = self.configuration_manager.previous_stage_name
            refuse(
                self,
                f"{folder} holds no prediction of {len(lacking)} cases ({shorten(lacking)}). Train {stage} first, by "
                f"the same trainer and plans: each fold predicts the cases that it validates",
            )

    def on_train_start(self) -> None:
        fingerprint = Path(self.preprocessed_dataset_folder_base) / "dataset_fingerprint.json"
        if not fingerprint.is_file():  # which nnU-Net copies, after it has started the augmentation
            refuse(
                self,
                f"{fingerprint} is not there. Copy it from where the data were preprocessed, or make it: "
                f"nnUNetv2_extract_fingerprint -d {self.plans_manager.dataset_name}",
            )
        if not self.was_initialized:
            self.initialize()
        if (reason := impossible_step(self)) is not None:
            refuse(
                self,
                f"{type(self).__name__} can't be trained on {self.batch_size} patches of "
                f"{' x '.join(map(str, self.configuration_manager.patch_size))}: {reason}. Take plans with a larger "
                f"patch or batch than {self.plans_manager.plans_name}, {self.configuration_name}, has",
            )
        super().on_train_start()


def _reason(error: Exception) -> str:
    return f"nnU-Net cannot make a training of them ({type(error).__name__}: {error})"


def _words(plans: Any, configuration: str, problems: Sequence[str]) -> str:
    folder, name = (plans.get(key) if isinstance(plans, dict) else None for key in ("dataset_name", "plans_name"))
    file = Path(os.environ.get("nnUNet_preprocessed", "")) / str(folder or "") / f"{name or 'plans'}.json"
    lines = "\n- ".join(problems)
    return f"{file} and its dataset.json can't be trained, {configuration}:\n- {lines}"


def _wrong_plans(trainer: nnUNetTrainer) -> Iterator[str]:
    if not trainer.label_manager.has_regions and not trainer.label_manager.foreground_labels:
        yield f"the labels are {trainer.dataset_json['labels']}; expected one besides the background at least"
    if not Path(trainer.preprocessed_dataset_folder).is_dir():
        yield (
            f"{trainer.preprocessed_dataset_folder} is not there; make it: nnUNetv2_preprocess -d "
            f"{trainer.plans_manager.dataset_name} -plans_name {trainer.plans_manager.plans_name} -c "
            f"{trainer.configuration_name}"
        )


@torch.no_grad()
def impossible_step(trainer: nnUNetTrainer) -> str | None:
    """Why the network can't take a batch in training, None if it can; runs it on shapes alone, without values.

    A patch may shrink to a single cell, of which no norm has a variance. Several ranks are not looked at: their norms
    exist on GPUs only.
    """
    if trainer.is_ddp:
        return None
    network = deepcopy(bare(trainer.network)).to("meta").train()
    shape = (trainer.batch_size, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    try:
        with torch.random.fork_rng(devices=[]):
            network(torch.empty(shape, device="meta"))
    except NotImplementedError:
        return None  # an operation that needs values: nothing is known
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        return None if "meta" in reason.lower() else reason
    return None
