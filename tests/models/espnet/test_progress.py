"""Reading ESPnet's training log."""

import subprocess
import sys

from pqm_plugin.models.espnet.train import TrainingProgress

LOG = """\
[host] (abs_task:1) INFO: [train] mini-batch sizes summary: N-batch=54, mean=16.0, min=16, max=16
[host] (abs_task:1) INFO: [valid] mini-batch sizes summary: N-batch=5, mean=14.4, min=8, max=16
[host] (trainer:1) INFO: 2/3epoch started
[host] (trainer:1) INFO: 2epoch:train:1-10batch: iter_time=0.1, loss=9.0
[host] (trainer:1) INFO: 2epoch results: [train] loss_ctc=5.1, acc=0.4, loss=36.9, time=23 seconds, \
[valid] loss_ctc=5.6, acc=0.441, cer=0.6, loss=38.491, time=0.67 seconds
RuntimeError: it broke
"""


def follow(log, program):
    with TrainingProgress(log) as progress:
        progress.follow(subprocess.Popen([sys.executable, "-c", program]))
    return progress


def test_it_shows_each_epoch_and_the_batches_of_all(tmp_path, capsys):
    log = tmp_path / "train.log"
    log.touch()

    follow(log, f"open({str(log)!r}, 'w').write({LOG!r})")

    shown = capsys.readouterr()
    assert "epoch 2/3: loss 36.9, dev loss 38.491, dev accuracy 0.441" in shown.out
    assert "108/162" in shown.err


def test_it_keeps_the_last_line_for_the_error_message(tmp_path):
    log = tmp_path / "train.log"
    log.touch()

    assert follow(log, f"open({str(log)!r}, 'w').write({LOG!r})").last_line == "RuntimeError: it broke"


def test_what_an_earlier_run_wrote_is_not_shown_again(tmp_path, capsys):
    log = tmp_path / "train.log"
    log.write_text(LOG)

    follow(log, "pass")

    assert capsys.readouterr().out == ""
