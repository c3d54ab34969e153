"""Checkpoints that survive: written whole, kept until the next is there, found again."""
import logging
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.logging import print_log

from mmeffnet.engine.scores import check_given, check_wanted
from mmeffnet.errors import InputError, RunError
from mmeffnet.files import remove_parts, whole
from mmeffnet.registry import HOOKS

WHOLE_FILES = 'mmeffnet.whole_files'
LOCK = '.training'
# A killed run's loading workers notice after some seconds that they are alone.
LOCK_PATIENCE = 20


class WholeFilesBackend(LocalBackend):
    """MMEngine's local files, written whole or not at all."""

    def put(self, obj: bytes, filepath) -> None:
        try:
            with whole(filepath) as part:
                part.write_bytes(obj)
        except OSError as error:
            raise not_written(f'{str(filepath)!r} ({len(obj) / 2 ** 20:.1f} MiB)',
                              Path(filepath).parent, error) from error


def not_written(what: str, folder: Path | str, error: OSError) -> RunError:
    """The error for what could not be written into a folder of checkpoints, with the way out."""
    last = newest_checkpoint(folder)
    return RunError(f'{what} could not be written: {error.strerror}. '
                    + (f'{str(last)!r} is whole: make room, then go on with --resume' if last else
                       'Nothing was saved before'))


register_backend(WHOLE_FILES, WholeFilesBackend)


class _RemoveLater:
    """A file backend that removes a file once the next one has been written."""

    def __init__(self, backend):
        self._backend, self._doomed = backend, []

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path) -> None:
        self._doomed.append((self._backend.remove, path))

    def rmtree(self, path) -> None:
        self._doomed.append((self._backend.rmtree, path))

    def catch_up(self, kept: Collection[str]) -> None:
        for remove, path in self._doomed:
            if path not in kept:  # a new file may have the name of the old one
                remove(path)
        self._doomed.clear()


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook with its arguments; at every moment a whole checkpoint is on the disk.

    MMEngine writes a file in place and removes the old one first, so that a kill or a full
    disk may leave a torn file only. The checkpoint of before a validation is written once more
    after it, as MMEngine does for a new best score: it says that the validation was made. A run
    that goes on elsewhere leaves the files of the folder that its checkpoint came from alone.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._saved_at = None  # iterations behind, in the checkpoint that was written last

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Not of interrupted.pth or of another hook: its step is none that this hook saves at.
        meta, source = checkpoint.get('meta', {}), runner._load_from
        own = self.filename_tmpl.format(meta.get('epoch' if self.by_epoch else 'iter'))
        if runner._resume and (source is None or Path(str(source)).name == own):
            self._saved_at = meta['iter']

    def _init_rule(self, rules, key_indicators) -> None:
        try:
            super()._init_rule(rules, key_indicators)
        except ValueError as error:
            names = ' or '.join(map(repr, key_indicators))
            raise InputError(
                f'checkpoint.save_best: whether more or less of {names} is better cannot be told '
                "from the name; set default_hooks.checkpoint.rule='greater' or 'less'") from error

    def before_train(self, runner) -> None:
        if '://' not in str(self.out_dir or '') and not (self.backend_args
                                                         or self.file_client_args):
            self.backend_args = dict(backend=WHOLE_FILES)
        self._name_files_once(runner.message_hub)
        if self.save_best and runner.val_loop is not None:
            check_wanted(self.key_indicators,
                         getattr(getattr(runner.val_loop, 'evaluator', None), 'metrics', ()))
        super().before_train(runner)
        self.file_backend = _RemoveLater(self.file_backend)
        self._keep_to_folder(runner.message_hub)

    def _name_files_once(self, hub) -> None:
        """Of steps whose checkpoints have one name leave the last: their file is removed once."""
        steps = {self.filename_tmpl.format(step): step
                 for step in hub.runtime_info.get('keep_ckpt_ids', ())}
        if steps:
            hub.update_info('keep_ckpt_ids', [*steps.values()])

    def _keep_to_folder(self, hub) -> None:
        """Look for the best checkpoints in this run's folder: a copied or another run's
        checkpoint names them where they were.
        """
        for key, path in self._best().items():
            here = self.file_backend.join_path(self.out_dir, os.path.basename(path))
            here = here if self.file_backend.exists(here) else None
            if len(self.key_indicators) == 1:
                self.best_ckpt_path = here
                hub.update_info('best_ckpt', here)
            else:
                self.best_ckpt_path_dict[key] = here
                hub.update_info(f'best_ckpt_{key}', here)

    def _best(self) -> dict[str, str]:
        """The best checkpoints that there are, by what they are the best in."""
        if not self.save_best:
            return {}
        paths = (self.best_ckpt_path_dict if len(self.key_indicators) > 1
                 else {self.key_indicators[0]: self.best_ckpt_path})
        return {key: path for key, path in paths.items() if path}

    def after_val_epoch(self, runner, metrics) -> None:
        before, self._saved_at = self._saved_at, None
        super().after_val_epoch(runner, metrics)
        if before == runner.iter and self._saved_at is None:
            self._save_checkpoint_with_step(
                runner, runner.epoch if self.by_epoch else runner.iter,
                meta=dict(epoch=runner.epoch, iter=runner.iter))

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        self._saved_at = meta['iter']
        name = Path(runner.work_dir, 'last_checkpoint')
        before = name.read_bytes() if name.is_file() else None
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        except OSError as error:
            # Of this file, which MMEngine empties before it writes it; hooks may fail otherwise.
            emptied = name.is_file() and not name.stat().st_size
            if not emptied and error.filename != str(name):
                raise
            name.unlink(missing_ok=True)
            if before:
                with suppress(OSError), whole(name) as part:
                    part.write_bytes(before)
            raise not_written(repr(str(name)), self.out_dir, error) from error
        self._catch_up()

    def _save_best_checkpoint(self, runner, metrics) -> None:
        if self.save_best:
            check_given(self.key_indicators, metrics)
        super()._save_best_checkpoint(runner, metrics)
        self._catch_up()

    def _publish_model(self, runner, ckpt_path: str | None) -> None:
        if ckpt_path:  # of several keys some may have no best checkpoint
            super()._publish_model(runner, ckpt_path)

    def _catch_up(self) -> None:
        self.file_backend.catch_up({self.last_ckpt, *self._best().values()})


def newest_checkpoint(folder: Path | str) -> Path | None:
    """Of the checkpoints in ``folder`` that can be resumed, the one of the latest run with the most
    iterations, or None.

    A run that began anew in the folder may have fewer than what an earlier one left there. Torn
    files, and those of other trainers, are named in a warning and passed over.
    """
    found = []
    for path in sorted(Path(folder).glob('*.pth')):
        try:
            # Nothing is read but what is asked for, however large the file is.
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        except Exception as error:
            _pass_over(path, error)
            continue
        # Those for use only, such as the best, lack the optimizer.
        if isinstance(content, dict) and 'optimizer' in content:
            meta = content.get('meta')
            if not isinstance(meta, dict) or 'iter' not in meta:
                _pass_over(path, 'it has no meta.iter, as the checkpoints of MMEngine have')
                continue
            begun = str(meta.get('experiment_name', ''))[-len('YYYYMMDD_hhmmss'):]
            found.append((begun, meta['iter'], path.stat().st_mtime_ns, path))
    for *_, path in sorted(found, reverse=True):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is None:
            return path
        _pass_over(path, f'{damaged} has another checksum')
    return None


def _pass_over(path: Path, why) -> None:
    print_log(f'{path} cannot be resumed: {" ".join(str(why).split())[:200]}', 'current',
              level=logging.WARNING)


@contextmanager
def claim(work_dir: Path | str) -> Iterator[None]:
    """Keep other trainings out of ``work_dir`` as long as the block lasts.

    Only the first process of a run takes the lock; it ends with the process, however that
    ends. Raises InputError where another run has it, or nothing can be written there.
    """
    if int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0):
        yield
        return
    lock = FileLock(Path(work_dir, LOCK), timeout=LOCK_PATIENCE)
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f'work dir {str(work_dir)!r} is in use by another training: wait for its end, or '
            'choose another with --work-dir') from error
    except OSError as error:
        raise InputError(f'work dir {str(work_dir)!r} cannot be written to ({error.strerror}): '
                         'choose another with --work-dir') from error
    try:
        remove_parts(work_dir)
        yield
    finally:
        lock.release()
