"""Values of options that can mean nothing are refused when the command line is read, before any work."""

import argparse
import importlib

import pytest

from dataset_conversion import spinemri
from nnunetv2_cafr import options
from nnunetv2_cafr.cli import VERBS, main
from nnunetv2_cafr.demo import DemoSettings

LATER = {("split", "seed"), ("split", "t")}  # refused when the verb has begun, before it reads anything


@pytest.mark.parametrize("verb", VERBS)
def test_every_numeric_option_refuses_what_is_no_number_for_it(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"nnunetv2_cafr.commands.{verb}").add_arguments(parser)
    for action in parser._actions:
        accepts = action.type is not None and _accepts(action.type, "3" if action.dest != "step_size" else "0.5")
        if not accepts or _accepts(action.type, "word"):
            continue  # text
        for text in ("nan", "inf", "1e999", "-3", ""):
            assert not _accepts(action.type, text) or (verb, action.dest) in LATER, (action.dest, text)


def _accepts(parse: object, text: str) -> bool:
    try:
        parse(text)  # type: ignore[operator]
    except (argparse.ArgumentTypeError, ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (options.processes, ["1", "12"], ["0", "-1", "1.5", "two", ""]),
        (options.number("x", 0), ["0", "2.5", "1e3"], ["-1", "nan", "inf", "x"]),
        (options.number("x", 1, 9, inclusive=False), ["1.1", "9"], ["1", "9.1", "nan"]),
        (options.dataset, ["511", "7", "Dataset511_SpineMRI"], ["", "0", "1000", "SpineMRI", "Dataset5_x", "../511"]),
        (options.budget, ["8x90"], ["0x5", "8", "8x", "8 x 9"]),
        (options.plans, ["nnUNetPlans"], ["", "a/b", "~"]),
    ],
)
def test_types(parse, good, bad):
    assert all(_accepts(parse, text) for text in good)
    assert not any(_accepts(parse, text) for text in bad)


@pytest.mark.parametrize("target", ["0", "-3", "1e-9", "nan", "inf", "1"])
def test_plan_ends_at_a_target_that_no_gpu_has(target, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "-d", "511", "--gpu-memory-target", target])
    assert "no memory of a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["check", "-d", "511", "-o", ""], "an argument is empty"),
        (["evaluate", "", "predictions"], "an argument is empty"),
        (["demo", "--out="], "an argument is empty"),
        (["demo", "--out=~/demo"], "--out=~/demo: ~ stands for"),
        (["predict", "-m", "model.onnx", "-i", "~/scans", "-o", "out"], "~/scans: ~ stands for"),
        (["convert", "-i", ".", "-d", "511", "-o", "~/raw"], "~/raw: ~ stands for"),
        (["convert", "-i", "", "-d", "511"], "an argument is empty"),
    ],
)
def test_what_a_shell_did_not_expand_is_no_place(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        spinemri.main(argv[1:]) if argv[0] == "convert" else main(argv)
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["", "~/data", '"/data"', "'/data'", "/data ", "$HOME/data"])
@pytest.mark.parametrize("verb", ["check", "split", "plan", "benchmark"])
def test_one_wording_for_a_folder_that_is_not_set(value, verb, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", value)
    try:
        message = str(main([verb, "-d", "511"]))
    except SystemExit as error:
        message = str(error)
    message += capsys.readouterr().err
    assert ("nnUNet_raw is not set" if not value else f"nnUNet_raw is {value!r}") in message
    assert "export nnUNet_raw=/path/to/folder" in message


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("64 56 3", "would not plan sagittal slices; give at least 69 rows"),
        ("96 20 5", "20 columns are too few for a phantom; give at least 32"),
    ],
)
def test_demo_refuses_phantoms_that_cannot_be_planned_or_drawn(size, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(tmp_path / "demo"), "--size", *size.split()])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_demo_takes_the_smallest_phantom_that_it_names():
    DemoSettings("nnUNetTrainer_CAFR", "5x70", 26, 4, (69, 32, 1), "cpu").check()
