"""A training continues with what it began with, or is refused with the reason.

nnU-Net's `--c` loads weights into whatever plans, data and code it finds, and silently validates the result. A
checkpoint holds the plans and the dataset.json of its training, and the record beside it (record.py) split, data,
network and versions: both are compared with what is there now.
"""

import functools
import importlib.metadata
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_cafr.checkpoint_names import BEST, FINAL, LATEST
from nnunetv2_cafr.errors import counted, shorten
from nnunetv2_cafr.files import json_or_none, write_bytes
from nnunetv2_cafr.training.checkpoints import read_values
from nnunetv2_cafr.training.network_identity import bare, differences, identity_of, misfit
from nnunetv2_cafr.training.preflight import refuse
from nnunetv2_cafr.training.record import (
    CURVES_FILE,
    RECORD_FILE,
    RecordedTraining,
    code_digest,
    data_files,
    versions,
)

VALIDATION = "validation"  # nnU-Net's folder
BEST_VALIDATED = "predicted_by_checkpoint_best"  # in the folder of the validation
EARLIER = "_of_earlier_training"
# In words, where the name in the plans says too little.
WORDS = {
    "patch_size": "patch",
    "batch_size": "batch",
    "normalization_schemes": "normalisation",
    "labels": "classes",
    "channel_names": "channels",
}
# Of a configuration: what decides nothing, and what decides in training alone.
TELLING = ("median_image_size_in_voxels", "inherits_from")
BATCH = ("batch_size", "batch_dice")
OF_PLANS = ("dataset_name", "image_reader_writer", "transpose_forward", "transpose_backward", "label_manager")
OF_DATASET = ("labels", "regions_class_order", "channel_names", "modality", "file_ending")
OF_TRAINER = ("num_epochs", "num_iterations_per_epoch", "initial_lr", "weight_decay")
INTENSITIES = "foreground_intensity_properties_per_channel"  # which CT's normalisation alone reads


class ContinuedTraining(RecordedTraining):
    """Mixin: looks at what a checkpoint was trained with before it loads.

    - `--c` is refused where plans (patch, spacing, classes, normalisation, ...), preprocessed data, split or network
      are others than those that the training began with. Package versions and machine are only told.
    - `--val` is refused where plans, split or network are others.
    - Weights that do not fit the network are refused with the version that trained them, also in prediction.
    - `--c` of a finished training says that it is finished, and validates.
    - Checkpoints, curves and validation that lie where a new training begins get another name, with a copy of their
      record: `--c` would take the final one for this training's, and a benchmark its validation.
    - `--val_best` leaves a file in the folder of the validation, which nnU-Net fills for both checkpoints alike.
    """

    _loaded: Path | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(own := vars(cls).get("build_network_architecture"), classmethod):
            cls.build_network_architecture = classmethod(_explaining(own.__func__))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        if not isinstance(filename_or_checkpoint, dict):
            file = Path(filename_or_checkpoint)
            self._refuse_other_training(file, read_values(file))
            self._loaded = file
        super().load_checkpoint(filename_or_checkpoint)

    def on_train_start(self) -> None:
        folder = Path(self.output_folder)
        record = (folder / RECORD_FILE).read_bytes() if (folder / RECORD_FILE).is_file() else None
        super().on_train_start()
        if self._loaded is None and self.local_rank == 0 and not self.disable_checkpointing:
            self._set_aside(folder, record)

    def _set_aside(self, folder: Path, record: bytes | None) -> None:
        """Gives what an earlier training left other names, and writes its record again beside it."""
        there = [path for name in (FINAL, LATEST, BEST, CURVES_FILE, VALIDATION) if (path := folder / name).exists()]
        taken = {path.stem for path in folder.glob(f"*{EARLIER}*")}
        endings = (f"{EARLIER}{f'_{number}' if number > 1 else ''}" for number in itertools.count(1))
        ending = next(one for one in endings if not any(stem.endswith(one) for stem in taken))
        for path in there:
            aside = path.replace(path.with_stem(path.stem + ending))
            self.print_to_log_file(f"{path.name} of an earlier training is {aside.name} now")
        if there and record is not None:
            write_bytes((folder / RECORD_FILE).with_stem(Path(RECORD_FILE).stem + ending), record)

    def run_training(self) -> None:
        final = Path(self.output_folder) / FINAL
        if self._loaded == final and self.current_epoch >= self.num_epochs:
            self.print_to_log_file(
                f"This training is finished: {self.current_epoch} epochs, {FINAL}. Nothing is left to train; what "
                "follows is its validation."
            )
            return
        super().run_training()
        self._loaded = None  # what validates next are the weights that this training ended with

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        mark = Path(self.output_folder) / VALIDATION / BEST_VALIDATED
        if self.local_rank == 0:
            if self._loaded is not None and self._loaded.name == BEST:
                mark.parent.mkdir(exist_ok=True)
                mark.touch()
            else:
                mark.unlink(missing_ok=True)
        super().perform_actual_validation(save_probabilities)

    def _refuse_other_training(self, file: Path, checkpoint: Mapping[str, Any]) -> None:
        """Raises UserError, after a word in the log, if `file` is not of the training that this trainer would do."""
        continues = self.logger.resume
        record = _record_beside(file)
        wrong = list(_changed_plans(checkpoint["init_args"], self, continues))
        told: list[str] = []
        if not wrong:
            if not self.was_initialized:
                self.initialize()
            if (reason := misfit(_without_prefix(checkpoint["network_weights"]), self.network)) is not None:
                wrong.append(f"network: {reason}")
            wrong += [f"network: {line}" for line in self._changed_network(record)]
            wrong += self._changed_split(record)
            data, of_fingerprint = self._changed_data(record)
            (wrong if continues else told).extend(data)
            told += [*of_fingerprint, *_changed_versions(record, self)]
        if wrong:
            lines = "\n- ".join(wrong)
            text = (
                f"{file} can't be {'gone on with by --c' if continues else 'validated'}: since its training began, "
                f"this has changed:\n- {lines}\nIt was trained by {trained_by(file.parent)}; this is {_present()}. "
                f"Bring back what has changed (its plans and dataset.json are kept in {file.parent.parent}, as long as "
                f"no other fold is trained with others), or move {file.parent} away and train anew, without --c."
            )
            refuse(self, text)
        for line in told:
            self.print_to_log_file(f"WARNING: other than at this training's start: {line}")

    def _changed_network(self, record: Mapping[str, Any]) -> list[str]:
        if "network" not in record:
            return []
        now = identity_of(self.network, self.num_input_channels, self.configuration_manager.patch_size)
        return differences(record["network"], now)

    def _changed_split(self, record: Mapping[str, Any]) -> Iterator[str]:
        if not record.get("split"):
            return
        train, validation = self.do_split()
        for part, now in (("train", train), ("val", validation)):
            before, after = set(record["split"][part]), set(map(str, now))
            if before != after:
                changes = [
                    f"{_several(sorted(cases))} {what}"
                    for cases, what in ((before - after, "no longer"), (after - before, "new"))
                    if cases
                ]
                yield f"split of fold {self.fold}, {part}: {'; '.join(changes)}"

    def _changed_data(self, record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """What changed in the preprocessed cases; and in the fingerprint, where the cases are the same."""
        before = record.get("data", {})
        now = self.data_record()
        fingerprint = (
            ["data: dataset_fingerprint.json is another one"] if before.get("fingerprint") != now["fingerprint"] else []
        )
        if not before:
            return [], []
        if "cases" not in before:
            return fingerprint, []
        files = data_files(self.preprocessed_dataset_folder, before["cases"])
        changed = sorted(case for case, sizes in before["cases"].items() if files[case] != sizes)
        if changed:
            return [f"data: {_several(changed)} preprocessed anew, with other content"], []
        return [], fingerprint


def _record_beside(file: Path) -> Mapping[str, Any]:
    """The record of the start of the training that wrote a checkpoint; empty if there is none."""
    records = json_or_none(file.parent / RECORD_FILE)
    return records[0] if isinstance(records, list) and records and isinstance(records[0], dict) else {}


def trained_by(folder: Path) -> str:
    """Which version of this package trained what lies in a fold's folder, by its record, or else its log."""
    record = _record_beside(folder / FINAL)
    if "versions" in record:
        revision = record.get("nnunetv2-cafr git revision")
        name = f"nnunetv2-cafr {record['versions'].get('nnunetv2-cafr')}"
        return f"{name} (git revision {revision})" if revision else name
    for log in sorted(folder.glob("training_log_*.txt")):
        if match := re.search(r'"nnunetv2-cafr": "([^"]+)"', log.read_text(encoding="utf-8", errors="replace")):
            return f"nnunetv2-cafr {match[1]}"
    return "a version that neither record nor log tells"


def _present() -> str:
    return f"nnunetv2-cafr {importlib.metadata.version('nnunetv2-cafr')}"


def _changed_plans(then: Mapping[str, Any], trainer: RecordedTraining, continues: bool) -> Iterator[str]:
    """What plans and dataset.json of a checkpoint's training have that today's have not, a line for each entry."""
    name, now = trainer.configuration_name, trainer.plans_manager.plans
    if then["configuration"] != name:
        yield f"configuration: {then['configuration']}, now {name}"
        return
    before, after = (dict(PlansManager(plans).get_configuration(name).configuration) for plans in (then["plans"], now))
    ignored = TELLING if continues else (*TELLING, *BATCH)
    entries = [(key, before.get(key), after.get(key)) for key in {**before, **after} if key not in ignored]
    of_plans: tuple[str, ...] = OF_PLANS
    if any(str(scheme).startswith("CT") for scheme in after["normalization_schemes"]):
        of_plans = (*of_plans, INTENSITIES)
    entries += [(key, then["plans"].get(key), now.get(key)) for key in of_plans]
    entries += [(key, then["dataset_json"].get(key), trainer.dataset_json.get(key)) for key in OF_DATASET]
    for key, old, new in entries:
        old, new = _plain(old), _plain(new)
        if isinstance(old, dict) and isinstance(new, dict):  # what differs in them is enough
            same = {name for name in old.keys() & new.keys() if old[name] == new[name]}
            old, new = ({name: entry[name] for name in entry if name not in same} or None for entry in (old, new))
        if old != new:
            yield f"{WORDS.get(key, key)}: {_short(old)}, now {_short(new)}"


def _changed_versions(record: Mapping[str, Any], trainer: RecordedTraining) -> Iterator[str]:
    if not record:
        return
    now = versions()
    for package, version in record.get("versions", {}).items():
        if now.get(package) != version:
            yield f"{package} {version}, now {now.get(package)}"
    if record.get("nnunetv2-cafr code") not in (None, code_digest()):
        yield "the code that trains (the network computes the same)"
    for key, value in trainer.machine_record().items():
        if key in record and record[key] != value:
            yield f"{key} {record[key]}, now {value}"
    for key in OF_TRAINER:
        before = record.get("settings", {}).get(key)
        if before is not None and before != getattr(trainer, key):
            yield f"{key} {before}, now {getattr(trainer, key)}"


def _plain(value: Any) -> Any:
    """As JSON has it, where tuples are lists and keys are text."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _several(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'case')} ({shorten(names)})"


def _without_prefix(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by the names that they have without torch's DataParallel, as nnU-Net loads them."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def _explaining(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Lets a network that is built say which weights it can't take, in place of torch's list of keys."""

    @functools.wraps(build)
    def build_and_watch(cls: type, *args: Any, **kwargs: Any) -> nn.Module:
        network = build(cls, *args, **kwargs)
        bare(network).register_load_state_dict_pre_hook(functools.partial(_refuse_misfit, trainer=cls.__name__))
        return network

    return build_and_watch


def _refuse_misfit(network: nn.Module, weights: Mapping[str, Any], prefix: str, *_args: Any, trainer: str) -> None:
    if prefix == "" and (reason := misfit(weights, network)) is not None:
        raise RuntimeError(
            f"These weights are of another network than {trainer} is in {_present()}: {reason}. {RECORD_FILE} and the "
            "log of its training say which version of nnunetv2-cafr trained it (a zip of nnU-Net has neither): install "
            "that version, or train anew"
        )
