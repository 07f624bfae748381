"""Whatever ends a training, what is on the disk loads and `--c` goes on from it."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.training.checkpoints import on_end, read_values

TRAINER = "nnUNetTrainer_CAFR_budget2x2"


@pytest.fixture(autouse=True)
def hears_ctrl_c() -> Iterator[None]:
    """Also where the tests run in a script's background, in which SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def exact(monkeypatch) -> Iterator[None]:
    """Loaders without background workers draw the same patches, and one thread adds up in the same order."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state_of(checkpoint: Path) -> dict:
    state = torch.load(checkpoint, weights_only=False)
    state["logging"] = {key: value for key, value in state["logging"].items() if "timestamp" not in key}
    return state


def terminate_at_step(trainer, step: int) -> None:
    """SIGTERM in the middle of a training step, counted from the training's start."""
    train_step, steps = type(trainer).train_step, iter(range(step + 1))

    def counted(batch: dict) -> dict:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(trainer, batch)

    trainer.train_step = counted


def save_for_ever(trainer, target: str) -> None:
    while True:
        trainer.current_epoch += 1
        trainer.save_checkpoint(target)


def test_killed_at_any_moment_while_saving_the_checkpoint_loads(construct):
    trainer = construct(TRAINER)
    target = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(target))
    resumed = construct(TRAINER, continue_training=True)
    chance = random.Random(0)
    for _ in range(8):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(trainer, str(target)))
        before = target.stat().st_mtime_ns
        process.start()
        while target.stat().st_mtime_ns == before:  # also a busy machine saves at least once
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.join()
        read_values(target)
        resumed.load_checkpoint(str(target))
        assert resumed.current_epoch > 1  # the child's, not the parent's


def test_a_full_disk_keeps_the_previous_checkpoint_and_says_so(construct):
    trainer = construct(TRAINER)
    folder = Path(trainer.output_folder)
    log = Path(trainer.log_file)
    for name in ("checkpoint_latest.pth", "checkpoint_final.pth"):
        trainer.save_checkpoint(str(folder / name))
    before = (folder / "checkpoint_latest.pth").read_bytes()
    for name in ("latest", "final"):
        # Linux's device that is always full, where the new file is written
        (folder / f".checkpoint_{name}.pth.partial").symlink_to("/dev/full")

    trainer.current_epoch = 7
    trainer.save_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert (folder / "checkpoint_latest.pth").read_bytes() == before
    assert "could not be written" in log.read_text()
    assert "the previous one stays" in log.read_text()
    with pytest.raises(SystemExit, match=r"Make room, then: nnUNetv2_train Dataset511_SpineMRI 2d 0 .* --c"):
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))


def test_a_folder_without_fsync_stops_no_training_and_is_told_once(construct, monkeypatch):
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    trainer = construct(TRAINER)
    monkeypatch.setattr(os, "fsync", refuse)
    for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):
        trainer.save_checkpoint(str(Path(trainer.output_folder) / name))
        read_values(Path(trainer.output_folder) / name)
    log = Path(trainer.log_file).read_text()
    assert log.count("fsync is refused") == 1 and "ALARM" not in log


@pytest.mark.loss_terms
def test_a_best_that_was_not_saved_is_tried_again(construct, monkeypatch):
    trainer = construct(TRAINER)
    for key, value in {"train_losses": 0.0, "val_losses": 0.0, "dice_per_class_or_region": [0.5]}.items():
        trainer.logger.log(key, value, 0)
    trainer.logger.log("mean_fg_dice", 0.5, 0)
    trainer.on_epoch_start()
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda _: (_ for _ in ()).throw(OSError("full")))
    (Path(trainer.output_folder) / "loss_terms.png").symlink_to("/dev/full")
    trainer.best_is_trustworthy = False
    trainer.on_epoch_end()
    assert trainer._best_ema is None
    assert not (Path(trainer.output_folder) / "checkpoint_best.pth").exists()
    assert trainer.current_epoch == 1
    log = Path(trainer.log_file).read_text()
    assert "curves could not be drawn" in log and "loss_terms.png could not be drawn" in log


@pytest.mark.loss_terms
def test_the_latest_checkpoint_knows_that_its_own_epoch_is_the_best(construct):
    """Else --c, after a kill, would take a worse one for the best."""
    trainer = construct(TRAINER)
    trainer.num_epochs = 3
    for epoch, dice in enumerate((0.5, 0.8)):
        for key, value in {"train_losses": 0.0, "val_losses": 0.0, "dice_per_class_or_region": [dice]}.items():
            trainer.logger.log(key, value, epoch)
        trainer.logger.log("mean_fg_dice", dice, epoch)
        trainer.on_epoch_start()
        trainer.save_every = epoch + 1
        trainer.on_epoch_end()
        latest, best = (state_of(Path(trainer.output_folder) / f"checkpoint_{name}.pth") for name in ("latest", "best"))
        assert latest["_best_ema"] == best["_best_ema"] == trainer._best_ema
        assert latest["current_epoch"] == best["current_epoch"] == trainer.current_epoch == epoch + 1


def test_terminated_and_continued_equals_uninterrupted(construct, exact):
    """Weights, optimiser, curves and best value, bit for bit, also after an interruption in the first epoch."""
    whole = construct(TRAINER)
    whole.run_training()
    uninterrupted = state_of(Path(whole.output_folder) / "checkpoint_final.pth")

    for step in (0, 3):
        for checkpoint in Path(whole.output_folder).glob("*.pth"):
            checkpoint.unlink()
        first = construct(TRAINER)
        terminate_at_step(first, step)
        with pytest.raises(SystemExit) as ended:
            first.run_training()
        assert ended.value.code == 143
        log = Path(first.log_file).read_text()
        assert f"Terminated by SIGTERM in epoch {step // 2}" in log
        assert f"nnUNetv2_train Dataset511_SpineMRI 2d 0 -tr {TRAINER} -p nnUNetPlans -device cpu --c" in log

        second = construct(TRAINER, continue_training=True)
        second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
        assert second.current_epoch == step // 2
        second.run_training()
        continued = state_of(Path(second.output_folder) / "checkpoint_final.pth")
        for part in ("network_weights", "optimizer_state"):
            torch.testing.assert_close(continued[part], uninterrupted[part], rtol=0, atol=0)
        np.testing.assert_equal(continued["logging"], uninterrupted["logging"])
        assert continued["_best_ema"] == uninterrupted["_best_ema"]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_terminated_in_the_final_validation_says_that_only_this_is_left(by, construct, monkeypatch):
    trainer = construct(TRAINER)
    monkeypatch.setattr(
        nnUNetTrainer, "perform_actual_validation", lambda *_: os.kill(os.getpid(), by) or time.sleep(5)
    )
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "--val", "--val_best", "--npz"])
    with pytest.raises(SystemExit) as ended:
        trainer.perform_actual_validation()
    assert ended.value.code == 128 + by
    assert f"-tr {TRAINER} -p nnUNetPlans -device cpu --val --val_best --npz" in Path(trainer.log_file).read_text()


def test_a_signal_before_the_first_epoch_ends_a_training_at_once(construct, monkeypatch):
    """There is nothing to save, and the start may wait for processes that the same signal has ended."""
    trainer = construct(TRAINER)
    monkeypatch.setattr(trainer, "on_train_start", lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60))
    before = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        trainer.run_training()
    assert ended.value.code == 128 + signal.SIGTERM and time.monotonic() - before < 50


@pytest.mark.parametrize("at_once", [True, False])
def test_forked_processes_end_by_sigterm(at_once):
    """nnU-Net ends its pools and data loading by SIGTERM, at once where they had nothing to do: none may miss it."""
    fork = multiprocessing.get_context("fork")
    with on_end(lambda _: pytest.fail("not for this process")):
        for _ in range(10):
            begun = fork.Event()
            child = fork.Process(target=lambda begun=begun: begun.set() or time.sleep(60))
            child.start()
            assert at_once or begun.wait(30)
            child.terminate()
            child.join(30)
            assert child.exitcode == -signal.SIGTERM


def test_a_second_ctrl_c_ends_a_training_at_once(construct, exact):
    trainer = construct(TRAINER)
    trainer.train_step = lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    assert not (Path(trainer.output_folder) / "checkpoint_latest.pth").exists()


class Stranger:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["STRANGERS_FOLDER"],)


def test_a_checkpoint_with_code_is_refused_before_it_runs(construct, tmp_path, monkeypatch):
    monkeypatch.setenv("STRANGERS_FOLDER", str(tmp_path / "made"))
    torch.save({"network_weights": {}, "init_args": Stranger()}, tmp_path / "checkpoint.pth")
    with pytest.raises(SystemExit, match="stranger's code"):
        construct(TRAINER).load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert not (tmp_path / "made").exists()


def test_a_damaged_checkpoint_is_named(construct):
    trainer = construct(TRAINER)
    target = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(target))
    os.truncate(target, target.stat().st_size // 2)
    with pytest.raises(SystemExit, match=r"checkpoint_latest\.pth is damaged"):
        trainer.load_checkpoint(str(target))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "network_weights, init_args.plans, .*, current_epoch, logging, .*; it has state_dict"),
        ([1, 2], "network_weights, .* is a list"),
        (
            {"network_weights": {}, "init_args": {"plans": {}}},
            "init_args.configuration, .*; it has network_weights, init",
        ),
    ],
)
def test_a_checkpoint_that_is_none_of_nnunets_is_refused_with_what_it_lacks(content, words, construct, tmp_path):
    torch.save(content, tmp_path / "checkpoint_latest.pth")
    with pytest.raises(SystemExit, match=rf"checkpoint_latest\.pth is no checkpoint of nnU-Net v2 .* lacks {words}"):
        construct(TRAINER).load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))


@pytest.mark.parametrize(
    ("receiver", "by"),
    [
        pytest.param("process", signal.SIGTERM, marks=pytest.mark.slow),
        ("group", signal.SIGTERM),
        ("group", signal.SIGINT),
    ],
)
def test_the_real_command_saves_and_says_how_to_go_on(receiver, by, phantom_dataset):
    """Signals to nnU-Net's own command; SLURM, and Ctrl-C, send them to the data loading processes as well."""
    trainer = f"nnUNetTrainer_CAFR_budget2x{500 if receiver == 'process' else 501 + by}"
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "nnUNetv2_train"), "511", "2d", "0", "-tr", trainer),
            *("-device", "cpu", "--npz"),
        ],
        env={**phantom_dataset.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if "Epoch 0" in line:
            break
    time.sleep(2)
    (os.kill if receiver == "process" else os.killpg)(process.pid, by)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + by, "".join(output) + rest
    assert "go on with:" in rest
    assert f"-tr {trainer} -p nnUNetPlans -device cpu --c --npz" in rest
    fold = phantom_dataset.results / "Dataset511_SpineMRI" / f"{trainer}__nnUNetPlans__2d" / "fold_0"
    read_values(fold / "checkpoint_latest.pth")
