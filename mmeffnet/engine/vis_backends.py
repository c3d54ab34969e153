"""Where a run's curves go: MMEngine's TensorBoard and MLflow with today's libraries."""
import importlib
import logging
import sys
from pathlib import Path
from textwrap import indent
from types import ModuleType

from mmengine.logging import MMLogger
from mmengine.visualization import vis_backend as theirs

from mmeffnet.errors import InputError, one_line
from mmeffnet.registry import VISBACKENDS

# Where TensorBoard looks whether it shall do without TensorFlow.
WITHOUT_TENSORFLOW = 'tensorboard.compat.notf'


@VISBACKENDS.register_module()
class TensorboardVisBackend(theirs.TensorboardVisBackend):
    """MMEngine's, which loads no TensorFlow and writes a file only when there are curves."""

    _text = None

    def _init_env(self):
        super()._init_env()
        if self._text:
            self._tensorboard.add_text('config', self._text)

    def add_config(self, config, **kwargs) -> None:
        """Keep the config for the file: a test has no curves and shall leave no empty run.

        Called before anything else. Raises InputError where TensorBoard cannot be imported,
        which would otherwise end the run at its first line of numbers.
        """
        # Where TensorFlow is installed TensorBoard imports it to write a file: seconds and some
        # hundred MB for what a few lines of its own do, and importing triton, as torch.compile
        # does, then ends the process with a segmentation fault (seen with TensorFlow 2.21).
        sys.modules.setdefault(WITHOUT_TENSORFLOW, ModuleType(WITHOUT_TENSORFLOW))
        try:
            importlib.import_module('torch.utils.tensorboard')
        except Exception as error:
            raise InputError(
                f'visualizer: tensorboard is installed and cannot be imported: {one_line(error)}. '
                'Install it anew, or do without: --cfg-options visualizer.tensorboard=False'
            ) from error
        self._text = indent(config.pretty_text, '    ')  # code, in Markdown


@VISBACKENDS.register_module()
class MLflowVisBackend(theirs.MLflowVisBackend):
    """MMEngine's, with MLflow's own default of where runs are kept.

    MMEngine names a folder below the work dir instead, which MLflow has refused since 3.7, and
    passes over the environment variable MLFLOW_TRACKING_URI.
    """

    def _init_env(self):
        import mlflow
        _reopen_logs()
        self._mlflow = mlflow
        if self._tracking_uri is not None:
            mlflow.set_tracking_uri(self._tracking_uri)
        name = self._exp_name or 'Default'
        if mlflow.get_experiment_by_name(name) is None:
            mlflow.create_experiment(name, artifact_location=self._artifact_location)
        mlflow.set_experiment(name)
        # The folders of a run: work dir, time of its start, vis_data.
        mlflow.start_run(run_name=self._run_name or '/'.join(Path(self._save_dir).parts[-3:-1]))
        mlflow.set_tags(self._tags or {})
        mlflow.log_params(self._params or {})


def _reopen_logs() -> None:
    """Open log files again: importing MLflow closes those of everybody."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler) and (
                handler.stream is None or handler.stream.closed):
            handler.stream = open(handler.baseFilename, 'a')  # noqa: SIM115  (the handler's)
