from __future__ import annotations

from hrseg.errors import HrsegError, UnknownNameError


def test_unknown_name_offers_the_nearest() -> None:
    error = UnknownNameError("model", "hrnetv2_w49", ["hrnetv2_w48", "hrnetv2_w18", "unrelated"])
    assert isinstance(error, HrsegError)
    assert "unknown model 'hrnetv2_w49'" in str(error)
    assert "hrnetv2_w48" in str(error)
    assert "unrelated" not in str(error)


def test_unknown_name_lists_all_when_none_is_near() -> None:
    assert str(UnknownNameError("split", "xyz", ["train", "val"])) == "unknown split 'xyz'; known: train, val"


def test_a_long_list_of_names_is_cut() -> None:
    message = str(UnknownNameError("model", "xyz", [f"name{number}" for number in range(100)]))
    assert "name11, ... (100 names)" in message
    assert "name12" not in message
