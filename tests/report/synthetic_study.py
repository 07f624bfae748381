"""A study of random scores, as a benchmark would hand it over: no training, no scoring."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, PREDICTED, SHIFTS
from nnunetv2_cafr.evaluation.scores import CLASS_COLUMNS, LEVEL_COLUMNS, SHIFT_COLUMNS, Evaluation
from nnunetv2_cafr.phantom import make_case
from nnunetv2_cafr.report.study import Arm, CaseFiles, Cost, Curve, Section, Study

NAMES = (
    *("S", "L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9"),
    *("L5/S", "L4/L5", "L3/L4", "L2/L3", "L1/L2", "T12/L1", "T11/T12", "T10/T11", "T9/T10"),
)
DIAGONAL = 430.0


def evaluation(
    dice: float, patients: int, seed: int, names: Sequence[str] = NAMES, cases_each: int = 1, world: int = 0
) -> Evaluation:
    """Scores around a mean Dice. Patients and their difficulty follow from `world`, what an arm makes of them from
    `seed`; the last classes are in few references."""
    shared, own = np.random.default_rng([world, 1]), np.random.default_rng([world, 2, seed])
    classes, levels, shifts = [], [], []
    for patient in range(patients):
        difficulty = shared.gamma(2, 0.02)
        for one in range(cases_each):
            case, who = f"case_{patient:03d}_{one}", f"patient {patient}"
            for label, name in enumerate(names, 1):
                present = shared.random() < (0.4 if name.startswith(("T9", "T10")) else 1)
                missed, false = own.random() < 0.01, own.random() < 0.02
                value = float(np.clip(dice - difficulty - abs(own.normal(0, 0.02)) + 0.04, 0, 1))
                volume = float(shared.uniform(3e3, 3e4))
                for view in ("volume", "slices", "junctions"):
                    row = {"case": case, "patient": who, "view": view, "label": label, "name": name}
                    row["reference_mm3"] = volume if present else 0.0
                    row["prediction_mm3"] = volume * value if (not missed if present else false) else 0.0
                    if row["reference_mm3"] and row["prediction_mm3"]:
                        distance = 30 * (1 - value)
                        row |= {"dice": value, "iou": value / (2 - value), "nsd": min(1, value + 0.03)}
                        row |= {"hd_mm": 3 * distance, "hd95_mm": distance, "assd_mm": distance / 4}
                    elif row["reference_mm3"] or row["prediction_mm3"]:
                        row |= {"dice": 0, "iou": 0, "nsd": 0, "hd_mm": np.inf, "hd95_mm": np.inf, "assd_mm": np.inf}
                    classes.append(row)
            line = {"case": case, "patient": who, "diagonal_mm": DIAGONAL}
            if names is NAMES:
                wrong = own.random() < 2 * (1 - dice)
                found = 8 - int(own.random() < 0.2)
                line |= {"vertebrae": 8, "found": found, "right_level": 0 if wrong else found, "shifted_down": 0}
                line |= {"shifted_up": found if wrong else 0, "all_right": float(not wrong and found == 8)}
                line |= {"instance_dice": dice, "structures": 16, "own_label_wins": 3 if wrong else 16}
                for name, right in ((PREDICTED, not wrong), (CONSISTENT, not wrong or patient % 2)):
                    counts = {**dict.fromkeys(SHIFTS, 0), "0" if right else "+1": found, "missed": 8 - found}
                    own_flags = "" if right else "levels uncertain"
                    row = {"case": case, "patient": who, "label_maps": name, **counts, "dice": dice}
                    shifts.append(row | {"flags": own_flags if name == CONSISTENT else ""})
            levels.append(line)
    settings = {"tolerance_mm": 1.0, "versions": {"surface-distance": "0.1"}, "definitions": {"nsd": "of surfaces"}}
    tables = ((classes, CLASS_COLUMNS), (levels, LEVEL_COLUMNS), (shifts, SHIFT_COLUMNS))
    scores, by_level, by_shift = (pd.DataFrame(rows, columns=list(columns)) for rows, columns in tables)
    return Evaluation(scores, by_level, settings, by_shift)


def arm(name: str, trainer: str = "", family: str = "level-safe", printed_as: str = "") -> Arm:
    trainer = trainer or f"nnUNetTrainer_{name}"
    return Arm(name, trainer, family, f"network of {name}; SGD", printed_as, "nnUNetPlans")


ARMS = {
    arm("nnU-Net", "nnUNetTrainer", "stock"): 0.912,
    arm("CAFR-stockDA", "nnUNetTrainer_CAFR_nnUNetDA", "stock"): 0.893,
    arm("LevelSafe"): 0.915,
    arm("LevelSafe-CLR"): 0.917,
    arm("ResEncL"): 0.92,
    arm("UNet", printed_as="U-Net"): 0.88,
    arm("SwinUNet", printed_as="Swin-Unet"): 0.86,
    arm("TransUNet", printed_as="TransUNet"): 0.89,
    arm("CAFR", "nnUNetTrainer_CAFR", printed_as="CAFR-Net"): 0.905,
    arm("CAFR-noLAFR", printed_as="+ CLR"): 0.9,
    arm("CAFR-noLAFR-noCLR", printed_as="neither"): 0.896,
    arm("CAFR-paper", "nnUNetTrainer_CAFR_paper", "the paper's recipe"): 0.87,
}


def section(
    key: str, patients: int, offset: float = 0.0, arms: Sequence[Arm] = tuple(ARMS), seeds: int = 1, **options: object
) -> Section:
    scores = {
        one.name: {
            seed: evaluation(ARMS[one] - offset, patients, 10 * number + seed, **options) for seed in range(seeds)
        }
        for number, one in enumerate(arms)
    }
    return Section(key, key.capitalize(), "random scores", scores)


def curve(epochs: int, seed: int, terms: bool) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    fall = np.exp(-np.arange(epochs) / epochs * 5)
    noise = generator.normal(0, 0.02, epochs)
    values = {"train_losses": fall - 0.8 + noise, "val_losses": fall - 0.7 - noise, "ema_fg_dice": 0.9 * (1 - fall)}
    if terms:
        values |= {"train_dice": -1 + fall, "train_ce": fall / 2, "train_clr": 2 + fall + noise}
    return {key: list(map(float, one)) for key, one in values.items()}


def write_files(folder: Path, cases: Sequence[str], size: tuple[int, int, int]) -> dict[str, CaseFiles]:
    """Phantoms with predictions that are moved by a few voxels, and shifted by a level in every second case."""
    found = {}
    folder.mkdir(parents=True)
    for number, case in enumerate(cases):
        image, mask = make_case(number, size=size)
        labels = sitk.GetArrayFromImage(mask).astype(np.uint8)
        guess = np.roll(labels, (1, -1), (1, 2))
        if number % 2:
            guess = np.where((guess > 0) & (guess < 10), guess + 1, guess).astype(np.uint8)
        files = CaseFiles(*(folder / f"{case}_{kind}.nii.gz" for kind in ("image", "reference", "prediction")))
        sitk.WriteImage(image, files.image)
        for array, file in ((labels, files.reference), (guess, files.prediction)):
            volume = sitk.GetImageFromArray(array)
            volume.CopyInformation(image)
            sitk.WriteImage(volume, file)
        found[case] = files
    return found


def full_study(folder: Path, patients: int = 24, size: tuple[int, int, int] = (128, 96, 12), cases: int = 6) -> Study:
    """12 arms in three families, fractions, an external set, costs, curves and pictures."""
    names = list(ARMS)
    first = section("validation", patients, cases_each=1)
    first = Section("validation", "Cross-validation", "Validation cases of fold 0, 1.", first.scores)
    files = write_files(folder / "files", [f"case_{number:03d}_0" for number in range(cases)], size)
    generator = np.random.default_rng(0)
    costs = {
        one.name: Cost(
            gmacs=float(generator.uniform(5, 50)),
            parameters=int(generator.uniform(5e6, 1e8)),
            training_step_ms=(step := float(generator.uniform(50, 800))),
            slice_ms=step / 5,
            volume_ms=step * 20,
            volume_mirrored_ms=step * 40,
            training_peak_bytes=int(generator.uniform(1, 20) * 2**30),
            spread={"training_step_ms": (0.9 * step, 1.2 * step), "slice_ms": (0.19 * step, 0.24 * step)},
        )
        for one in names[:-1]
    }
    settings = {
        one.name: {
            "trainer": f"nnunetv2_cafr.training.{one.trainer}",
            "settings": {"initial_lr": 0.01 if "CAFR" not in one.name else 1e-4, "num_epochs": 100},
            "optimizer": "SGD (...)" if "CAFR" not in one.name else "Adam (...)",
            "split": {"train": [f"case_{number:03d}" for number in range(100)]},
        }
        for one in names
    }
    return Study(
        title="Dataset511_SpineMRI, 2d, budget short",
        arms=names,
        sections=[
            first,
            section("fraction-0.1", patients, 0.12),
            section("external-Dataset520_SPIDER", 9, 0.1, world=7),
        ],
        label_names=dict(enumerate(NAMES, 1)),
        conditions={
            "data set": "Dataset511_SpineMRI",
            "budget": "short: 100 epochs of 250 iterations",
            "folds": "0, 1",
            "patch and batch": "448 x 320, batch 16",
        },
        provenance={"date": "2026-01-01", "command": "nnUNetv2_cafr benchmark -d 511 --budget short", "torch": "2.13"},
        costs=costs,
        cost_conditions="cpu, 2 threads, 10 rounds.",
        curves={
            one.name: [Curve(f"fold {fold}", 0, curve(100, 7 * fold + number, "CAFR" in one.name)) for fold in (0, 1)]
            for number, one in enumerate(names)
        },
        settings=settings,
        files={one.name: files for one in names},
        notes=["Every arm trained for 100 epochs of 250 iterations, where nnU-Net's own length is 1000 epochs of 250."],
    )
