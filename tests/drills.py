"""Accidents for runs in fresh processes: a config imports this and adds one as a hook."""
import os
import signal
import subprocess
import time
from multiprocessing import active_children
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


class Drill(Hook):
    """Something that happens after the iteration ``at``, counted from 1."""
    priority = 'HIGHEST'

    def __init__(self, at: int):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            self.happen(runner)


@HOOKS.register_module()
class KilledWhileWriting(Drill):
    """SIGKILL when the checkpoint of this iteration is on the disk but not in its place yet."""

    def happen(self, runner):
        def kill(descriptor):
            part, = Path(runner.work_dir).glob('.*.part')
            os.truncate(part, part.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = kill


@HOOKS.register_module()
class Terminated(Drill):
    def happen(self, runner):
        os.kill(os.getpid(), signal.SIGTERM)


@HOOKS.register_module()
class AllTerminated(Drill):
    """SIGTERM to the main process and its loading workers, as `timeout` and schedulers send it."""

    def __init__(self, at: int):
        super().__init__(at)
        os.setpgid(0, 0)  # of this run alone; workers come later

    def happen(self, runner):
        for _ in range(2):  # by another process than the main one
            subprocess.run(['sh', '-c', 'trap "" TERM; kill -TERM 0'], check=True)
            time.sleep(0.2)


@HOOKS.register_module()
class WorkerKilled(Drill):
    def happen(self, runner):
        for worker in active_children():
            os.kill(worker.pid, signal.SIGKILL)
