"""The programs: `python -m joulecast`, and how fast they respond when nothing is computed."""

from __future__ import annotations

import subprocess
import sys


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "joulecast", "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("joulecast ")


def test_shell_completion_is_there() -> None:
    """The command in docs/terminal.md prints a script that calls the program."""
    for shell in ("bash", "zsh", "fish"):
        for program in ("joulecast", "estimate", "measure"):
            code = f"from joulecast.cli.main import {'main' if program == 'joulecast' else program} as run; run()"
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env={"PATH": "/usr/bin:/bin", f"_{program.upper()}_COMPLETE": f"{shell}_source"},
            )
            assert done.returncode == 0, done.stderr
            assert f"_{program.upper()}_COMPLETE={shell}_complete" in done.stdout


def test_a_value_of_the_wrong_type_is_named_in_plain_words() -> None:
    code = "from joulecast.cli.main import estimate as run; run()"
    for option, message in (("--overhead", "is not a number"), ("--idle-hosts", "is not a whole number")):
        arguments = [sys.executable, "-c", code, "--model", "net.py", option, "ten"]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, f"estimate: Invalid value for '{option}': 'ten' {message}.\n")
