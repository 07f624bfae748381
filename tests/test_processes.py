"""Work in several processes: every item gets its result, and a process that dies is the user's to know."""

import os

import pytest

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.processes import in_processes


@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_item_has_its_result(num_processes):
    assert dict(in_processes(str, [3, 1, 2], num_processes, "testing")) == {1: "1", 2: "2", 3: "3"}


def test_a_process_that_dies_is_told():
    with pytest.raises(UserError, match=r"ended unexpectedly while testing.*give fewer than 2 by -np"):
        list(in_processes(os._exit, [1, 1], 2, "testing"))
