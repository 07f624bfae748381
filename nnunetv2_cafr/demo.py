"""The demo: nnU-Net's whole chain on phantoms, step by step in one folder, through the commands that a user types."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nnunetv2_cafr import phantom
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.evaluation.means import level_summary, per_case, values_by_policy
from nnunetv2_cafr.evaluation.reading import CasePair, label_table
from nnunetv2_cafr.evaluation.scoring import evaluate_folders
from nnunetv2_cafr.files import check_folder, partial_of, read_json, write_json
from nnunetv2_cafr.phantom.dataset import FIELD_OF_VIEW, SLICE_SPACING, SMALLEST_SIDE
from nnunetv2_cafr.processes import installed
from nnunetv2_cafr.report.pictures import PictureRow, side_by_side

DATASET_ID, HELD_OUT_ID = 511, 512
MARKER = "demo.json"
DONE = "done.json"  # titles of the steps that ended well
FEWEST_CASES = 5
ENDING = ".nii.gz"


@dataclass(frozen=True)
class DemoSettings:
    """What one demo folder was made with; stored in it, so that a rerun continues the same demo."""

    trainer: str
    budget: str
    num_train: int
    num_held_out: int
    size: tuple[int, int, int]  # rows, columns, slices
    device: str

    @property
    def trainer_with_budget(self) -> str:
        return f"{self.trainer}_budget{self.budget}"

    def check(self) -> None:
        """Refuses phantoms that cannot be drawn, or split, and those of which nnU-Net would plan no sagittal slices.

        Raises:
            UserError: says which number is too small, and the smallest that will do.
        """
        if self.num_train < FEWEST_CASES:
            raise UserError(
                f"--cases {self.num_train} ...: nnU-Net divides {FEWEST_CASES} cases or more into its folds; give at "
                f"least {FEWEST_CASES} phantoms for training"
            )
        rows, columns, slices = self.size
        given = f"--size {rows} {columns} {slices}"
        pixel = FIELD_OF_VIEW / rows
        if pixel >= SLICE_SPACING:  # nnU-Net slices across the axis with the largest spacing
            raise UserError(
                f"{given}: with {rows} rows a pixel is {pixel:.1f} mm high, but slices are {SLICE_SPACING} mm apart, "
                "so nnU-Net would not plan sagittal slices; give at least "
                f"{int(FIELD_OF_VIEW / SLICE_SPACING) + 1} rows"
            )
        if columns < SMALLEST_SIDE:
            raise UserError(f"{given}: {columns} columns are too few for a phantom; give at least {SMALLEST_SIDE}")


class Demo:
    """The steps of one demo folder, each skipped where an earlier run finished it."""

    def __init__(self, folder: Path, settings: DemoSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.raw, self.preprocessed, self.results = (
            folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        self.phantom = folder / "phantom"
        self.dataset = self.raw / f"Dataset{DATASET_ID}_SpineMRI"
        self.drawn = folder / "held_out"
        self.held_out = self.raw / f"Dataset{HELD_OUT_ID}_SpineMRI"
        self.predictions = folder / "predictions"
        self.levels = folder / "level_consistent"
        self.log = folder / "demo.log"
        # nnU-Net's defaults start eight processes which each import torch: more than small machines bear.
        self.workers = max(1, min(8, (os.cpu_count() or 1) // 2))

    def run(self) -> pd.DataFrame:
        """Takes the steps; returns the scores."""
        self._claim_folder()
        epochs = int(self.settings.budget.split("x")[0])
        trainer = self.settings.trainer_with_budget
        model = self.results / self.dataset.name / f"{trainer}__nnUNetPlans__2d" / "fold_0"
        on = ["-device", self.settings.device]
        dataset = str(DATASET_ID)
        workers = str(self.workers)
        prepare = ["nnUNetv2_plan_and_preprocess", "-d", dataset, "-c", "2d", "--verify_dataset_integrity"]
        prepare += ["-npfp", workers, "-np", workers]
        train = ["nnUNetv2_train", dataset, "2d", "0", "-tr", trainer, *on]
        if any(model.glob("checkpoint_*.pth")):
            train.append("--c")
        predict = ["nnUNetv2_predict", "-d", dataset, "-c", "2d", "-f", "0", "-tr", trainer, *on]
        predict += ["-i", str(self.held_out / "imagesTr"), "-o", str(self.predictions)]
        # Without workers: each would import torch, which takes longer than a phantom.
        predict += ["--save_probabilities", "-npp", "0", "-nps", "0"]
        relabel = ["nnUNetv2_cafr", "relabel", "-i", str(self.predictions), "-p", str(self.predictions)]
        relabel += ["-o", str(self.levels)]

        steps: list[tuple[str, Callable[[], None]]] = [
            ("Drawing phantoms", self._draw_phantoms),
            ("Converting", lambda: self._convert(self.phantom, self.dataset, DATASET_ID)),
            ("Converting the held-out cases", lambda: self._convert(self.drawn, self.held_out, HELD_OUT_ID)),
            ("Planning and preprocessing", lambda: self._call(prepare)),
            ("Training", lambda: self._train(train, epochs)),
            ("Predicting the held-out cases", lambda: self._call(predict)),
            ("Making levels consistent", lambda: self._relabel(relabel)),
        ]
        file = self.folder / DONE
        done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        for number, (title, action) in enumerate(steps, start=1):
            print(f"[{number}/{len(steps) + 1}] {title}{': done before' if title in done else ''}", flush=True)
            if title not in done:
                action()
                done.append(title)
                write_json(file, done)
        print(f"[{len(steps) + 1}/{len(steps) + 1}] Scoring", flush=True)
        return self._score()

    def _claim_folder(self) -> None:
        """Marks an empty folder as this demo's; refuses one with other content or other settings."""
        marker = self.folder / MARKER
        wanted = json.loads(json.dumps(asdict(self.settings)))
        if marker.is_file():
            found = json.loads(marker.read_text(encoding="utf-8"))
            if found != wanted:
                raise UserError(
                    f"{self.folder} holds a demo with other settings: {found}\nnot {wanted}\n"
                    "Choose another --out, or delete that folder."
                )
        else:
            try:
                check_folder(self.folder, "a demo's", {MARKER: Path.is_file})
            except OSError as error:
                raise UserError(f"{error} (--out). Nothing was touched.") from error
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(marker, wanted)
        for folder in (self.raw, self.preprocessed, self.results):
            folder.mkdir(exist_ok=True)

    def _draw_phantoms(self) -> None:
        for folder, count, seed in (
            (self.phantom, self.settings.num_train, 0),
            (self.drawn, self.settings.num_held_out, 10_000),
        ):
            if not folder.exists():
                partial = partial_of(folder)
                shutil.rmtree(partial, ignore_errors=True)
                phantom.write_dataset(partial, num_train=count, seed=seed, size=self.settings.size)
                partial.rename(folder)

    def _convert(self, source: Path, dataset: Path, number: int) -> None:
        if not dataset.exists():
            self._call(["nnUNetv2_convert_SpineMRI", "-i", str(source), "-d", str(number), "-o", str(self.raw)])

    def _relabel(self, command: list[str]) -> None:
        shutil.rmtree(self.levels, ignore_errors=True)  # of a run that was killed; the command writes over nothing
        self._call(command)

    def _train(self, command: list[str], epochs: int) -> None:
        with tqdm(total=epochs, desc="epochs", unit="epoch") as bar:

            def show(line: str) -> None:
                if "Epoch time:" in line:
                    bar.update()
                elif match := re.search(r"train_loss terms: (.*) \(", line):
                    bar.set_postfix_str(match[1])

            self._call(command, show)

    def _call(self, command: list[str], show: Callable[[str], None] = lambda line: None) -> None:
        """Runs one command of this environment in a fresh process; its output goes to the log, its end into errors."""
        environment = {
            **os.environ,
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            # Idle threads that spin take the cores from the processes that work.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
        }
        environment.setdefault("nnUNet_n_proc_DA", str(self.workers))
        environment.setdefault("nnUNet_def_n_proc", str(self.workers))
        last: deque[str] = deque(maxlen=25)
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                [installed(command[0]), *command[1:]],
                env=environment,
                encoding="utf-8",
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            log.write(f"$ {' '.join(command)}\n")
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                last.append(line)
                show(line)
        if process.returncode:
            raise UserError(
                f"{''.join(last)}\n"
                f"{command[0]} ended with status {process.returncode}; its whole output is in {self.log}"
            )

    def _score(self) -> pd.DataFrame:
        """Writes scores.csv and demo.png, prints the tables; returns the scores by case."""
        references = self.held_out / "labelsTr"
        table = label_table(read_json(self.dataset / "dataset.json")["labels"])
        names = sorted(path.name for path in references.glob(f"*{ENDING}"))
        predicted, consistent = (
            evaluate_folders(
                [CasePair(name.removesuffix(ENDING), name, references / name, folder / name) for name in names],
                table,
                num_processes=1,
                progress=False,
            )
            for folder in (self.predictions, self.levels)
        )
        scores = pd.DataFrame(
            {
                "foreground_dice": per_case(predicted, "dice", "present", view="foreground"),
                "present_class_dice": per_case(predicted, "dice", "present"),
                "level_consistent_dice": per_case(consistent, "dice", "present"),
                "classes_present": values_by_policy(predicted, "dice", "present").groupby("case").size(),
            }
        )
        scores.to_csv(self.folder / "scores.csv", index_label="case")
        levels = {"as predicted": level_summary(predicted), "level-consistent": level_summary(consistent)}
        self._print_scores(scores, levels)
        picture = self._draw(scores, {label: name for label, name in table.items() if isinstance(label, int)})
        print(f"Picture: {picture}\nTable:   {self.folder / 'scores.csv'}\nLog:     {self.log}")
        return scores

    def _print_scores(self, scores: pd.DataFrame, levels: Mapping[str, Mapping[str, float]]) -> None:
        columns = ("all structures", "level by level", "consistent")
        print(f"\n{'held-out case':<20}" + "".join(f"{title:>16}" for title in columns) + f"{'levels':>8}   (Dice)")
        for case, foreground, by_level, decoded, present in scores.itertuples():
            print(f"{case:<20}{foreground:>16.3f}{by_level:>16.3f}{decoded:>16.3f}{present:>8}")
        print(f"{'mean':<20}" + "".join(f"{scores[column].mean():>16.3f}" for column in list(scores)[:3]))
        print(f"\n{'':<20}{'right level':>16}{'all right':>16}   (vertebrae, cases)")
        for title, of_title in levels.items():
            print(f"{title:<20}{of_title['right_level']:>16.1%}{of_title['patients_all_right']:>16.1%}")
        print(
            "\nDice of all structures together against background, and the mean over the classes that the reference\n"
            "holds: as predicted, and after nnUNetv2_cafr relabel.\n"
            f"{self.settings.trainer_with_budget} is a short training on phantoms: it says nothing about real images."
        )

    def _draw(self, scores: pd.DataFrame, names: dict[int, str]) -> Path:
        """The first three held-out cases, their references and both label maps."""
        folders = {
            "reference": self.held_out / "labelsTr",
            "as predicted": self.predictions,
            "level-consistent": self.levels,
        }
        rows = [
            PictureRow(
                title=f"{case}\nDice: foreground {foreground:.2f}, levels {by_level:.2f}",
                image=self.held_out / "imagesTr" / f"{case}_0000{ENDING}",
                label_maps={title: folder / f"{case}{ENDING}" for title, folder in folders.items()},
            )
            for case, foreground, by_level, _, _ in scores[:3].itertuples()
        ]
        picture = self.folder / "demo.png"
        side_by_side(rows, names, picture)
        return picture
