"""What would end a training in its first step, or teach it nothing, found before any data is loaded."""

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import torch

from nnunetv2_cafr.training.network_identity import bare


def refuse(trainer: Any, text: str) -> NoReturn:
    """Ends a training that can't be right: a word in the log, the same on the screen, and no traceback."""
    trainer.print_to_log_file(text, also_print_to_console=False)
    raise SystemExit(text)


class CheckedTraining:
    """Mixin behind the others and before any nnUNetTrainer: refuses by name what can't be trained."""

    def initialize(self: Any) -> None:
        if problems := list(_wrong_plans(self)):
            file = f"{Path(self.preprocessed_dataset_folder_base) / self.plans_manager.plans_name}.json"
            lines = "\n- ".join(problems)
            refuse(self, f"{file} and its dataset.json can't be trained, {self.configuration_name}:\n- {lines}")
        super().initialize()  # type: ignore[misc]

    def get_tr_and_val_datasets(self: Any) -> tuple[Any, Any]:
        train, validation = super().get_tr_and_val_datasets()  # type: ignore[misc]
        cases = {"train": list(train.identifiers), "val": list(validation.identifiers)}
        place = f"{Path(self.preprocessed_dataset_folder_base) / 'splits_final.json'}, fold {self.fold}"
        if empty := [part for part, identifiers in cases.items() if not identifiers]:
            refuse(self, f"{place} has no case in {' and '.join(empty)}; give a fold that trains and validates on some")
        folder = Path(self.preprocessed_dataset_folder)
        missing = sorted({case for part in cases.values() for case in part if not (folder / f"{case}.pkl").is_file()})
        if missing:
            refuse(
                self,
                f"{place} names {len(missing)} cases that {folder} does not hold ({', '.join(missing[:5])}). "
                f"Preprocess them: nnUNetv2_preprocess -d {self.plans_manager.dataset_name} -plans_name "
                f"{self.plans_manager.plans_name} -c {self.configuration_name}; or take them out of the split",
            )
        return train, validation

    def on_train_start(self: Any) -> None:
        if not self.was_initialized:
            self.initialize()
        if (reason := impossible_step(self)) is not None:
            refuse(
                self,
                f"{type(self).__name__} can't be trained on {self.batch_size} patches of "
                f"{' x '.join(map(str, self.configuration_manager.patch_size))}: {reason}. Take plans with a larger "
                f"patch or batch than {self.plans_manager.plans_name}, {self.configuration_name}, has",
            )
        super().on_train_start()  # type: ignore[misc]


def _wrong_plans(trainer: Any) -> Iterator[str]:
    configuration = trainer.configuration_manager.configuration
    patch, spacing, batch = (configuration.get(key) for key in ("patch_size", "spacing", "batch_size"))
    sound = isinstance(patch, list | tuple) and len(patch) in (2, 3) and all(_is_count(side) for side in patch)
    if not sound:
        yield f"patch_size is {patch}; expected 2 or 3 whole numbers above 0"
    if not isinstance(spacing, list | tuple) or not all(_is_length(step) for step in spacing):
        yield f"spacing is {spacing}; expected numbers of mm above 0"
    elif sound and len(spacing) != len(patch):
        yield f"patch_size is {list(patch)} and spacing {list(spacing)}; expected as many numbers in both"
    if not _is_count(batch):
        yield f"batch_size is {batch}; expected a whole number above 0"
    channels = trainer.dataset_json.get("channel_names", trainer.dataset_json.get("modality", {}))
    schemes = configuration.get("normalization_schemes")
    if not isinstance(schemes, list | tuple) or len(schemes) != len(channels):
        yield f"normalization_schemes is {schemes}; expected one for each of {len(channels)} channels"
    if not trainer.label_manager.has_regions and not trainer.label_manager.foreground_labels:
        yield f"the labels are {trainer.dataset_json['labels']}; expected one besides the background at least"
    if not Path(trainer.preprocessed_dataset_folder).is_dir():
        yield (
            f"{trainer.preprocessed_dataset_folder} is not there; make it: nnUNetv2_preprocess -d "
            f"{trainer.plans_manager.dataset_name} -plans_name {trainer.plans_manager.plans_name} -c "
            f"{trainer.configuration_name}"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


@torch.no_grad()
def impossible_step(trainer: Any) -> str | None:
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
