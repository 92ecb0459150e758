"""SIGTERM, with which schedulers end a process, cleans up as Ctrl-C does."""

import os
import signal
import threading
import time

import pytest

from dcnify.cli import app


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_handler")
def test_it_is_an_interrupt_with_the_exit_code_of_one(monkeypatch, capsys):
    def end(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(app, "root", end)
    assert app.run(["inspect"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.usefixtures("default_handler")
def test_a_handler_of_the_program_around_it_stays():
    def mine(number, frame):
        pass

    signal.signal(signal.SIGTERM, mine)
    app.run(["--version"])
    assert signal.getsignal(signal.SIGTERM) is mine


@pytest.mark.usefixtures("default_handler")
def test_another_thread_leaves_signals_alone():
    thread = threading.Thread(target=app.run, args=(["--version"],))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
