"""Predicts studies one after the other by an exported network, and writes each label map when it is there."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nnunetv2_cafr.deployment.label_maps import LabelMaps
from nnunetv2_cafr.deployment.model import Model
from nnunetv2_cafr.deployment.studies import Study, UnusableStudyError
from nnunetv2_cafr.errors import UserError, counted
from nnunetv2_cafr.files import describe_failure
from nnunetv2_cafr.levels.files import Record


def predict_all(
    todo: Sequence[Study], done: int, model: Model, maps: LabelMaps, levels: Record | None = None
) -> dict[str, str]:
    """Predicts and writes studies, and tells of those that failed; returns the reason for each of these.

    Args:
        done: how many label maps were there before.
        levels: of the folder, where levels are decoded or were in an earlier call.

    Raises:
        UserError: if not even the folder of the label maps can be made.
    """
    try:
        maps.begin()
    except OSError as error:
        raise UserError(describe_failure(Path(error.filename or maps.folder), error)) from error
    failed: dict[str, str] = {}
    begun, full = 0, False
    decode = maps.settings["levels"]
    for study in tqdm(todo, unit="study", initial=done, total=done + len(todo)):
        begun += 1
        try:
            labels, geometry, decoding = model.predict_study(study, decode)
            maps.write(study, labels, geometry)
            if levels and decoding:
                levels.add(study.name, decoding, maps.target(study))
            elif levels:
                levels.remove(study.name)
        except UnusableStudyError as error:
            failed[study.name] = str(error)
        except Exception as error:
            failed[study.name] = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            full = maps.is_full(error)
        for note in study.notes:
            tqdm.write(f"Note on {study.name}: {note}")
        if study.name in failed:
            tqdm.write(f"{study.name} failed")
        if full:
            break
    if levels and decode:
        print(levels.summary([study.name for study in todo[:begun] if study.name not in failed]))
    if not failed:
        earlier = f", {done} were there already" if done else ""
        print(f"{counted(len(todo), 'label map')} written to {maps.file or maps.folder}{earlier}")
        return failed
    others = f", the others are in {maps.folder}" if len(failed) < begun else ""
    print(f"{len(failed)} of {len(todo)} studies failed{others}:")
    for name, reason in failed.items():
        print(f"  {name}: " + reason.replace("\n", "\n  "))
    if begun < len(todo):
        print(f"The disk is full: {len(todo) - begun} studies were not begun. Add --continue_prediction to go on there")
    return failed
