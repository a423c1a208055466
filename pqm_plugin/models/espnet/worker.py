"""ESPnet's `asr_train`, safe to kill: checkpoints are written whole, and no orphan process goes on writing.

Run as a program in the experiment folder, with the arguments of `espnet2.bin.asr_train`.
"""

import fcntl
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.files import whole_file

CHECKPOINT = Path("checkpoint.pth")
LOCK = Path(".lock")


def save_whole_files() -> None:
    """Make `torch.save` write aside and rename: ESPnet writes straight over its only checkpoint."""
    save = torch.save

    def save_whole(state: Any, file: Any, *args: Any, **options: Any) -> None:
        if not isinstance(file, str | os.PathLike):
            save(state, file, *args, **options)
            return
        # Through an open file: given a path, torch writes its name into the file, and the bytes would differ each time.
        with whole_file(Path(file)) as scratch, scratch.open("wb") as opened:
            save(state, opened, *args, **options)

    setattr(torch, "save", save_whole)  # noqa: B010


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def restore_epoch_file() -> None:
    """Write the model of the last epoch again if the run was cut off between its checkpoint and its model file."""
    if not CHECKPOINT.exists():
        return
    states = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    model = Path(f"{states['reporter']['epoch']}epoch.pth")
    if not model.exists():
        torch.save(states["model"], model)


def main() -> None:
    """Wait for an earlier run in this folder to end, then train."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        restore_epoch_file()
        from espnet2.bin import asr_train

        asr_train.main(sys.argv[1:])


if __name__ in ("__main__", "__mp_main__"):  # the latter in the processes that ESPnet spawns, one a GPU
    save_whole_files()
    end_with_parent()
if __name__ == "__main__":
    main()
