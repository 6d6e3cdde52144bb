"""Where a report goes is looked at before anything is measured."""

from pathlib import Path

import pytest

from crashfold.engine.cli.main import exit_code


@pytest.mark.parametrize("command", ["bench micro", "bench growth batch", "bench capacity"])
def test_a_report_cannot_go_where_a_directory_is(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([*command.split(), "--out", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())
