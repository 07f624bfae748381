"""What `nnUNetv2_cafr doctor` says of the installation; the trainers are in end_to_end/test_commands.py."""

import re
from importlib.metadata import requires

from nnunetv2_cafr.commands import doctor


def test_extras_installed_and_not(monkeypatch, capsys):
    requirements = [
        "torch>=2.7",
        "numpy>=1; extra == 'export'",
        'no-such<2; python_version >= "3" and extra == "cluster"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda _package: requirements)
    doctor.report_extras()
    output = capsys.readouterr().out
    assert "export     installed; for export, predict" in output
    assert "cluster    not installed, lacks no-such; for benchmark" in output


def test_every_extra_for_users_is_known():
    extras = set(re.findall(r"extra == '(\w+)'", "\n".join(requires("nnunetv2-cafr") or ())))
    assert extras - {"test", "dev"} == set(doctor.EXTRAS)
