from __future__ import annotations

from pathlib import Path

from hrseg.utils.paths import expanded


def test_the_home_of_an_unknown_user_is_a_plain_name() -> None:
    assert expanded("~nobody-of-that-name/a") == Path("~nobody-of-that-name/a")
    assert expanded("~/a") == Path.home() / "a"
