"""Lightning callbacks, loggers and checkpoint IO of a run: files, pictures, progress, tables."""

from hrseg.callbacks.boundary_report import BoundaryReport
from hrseg.callbacks.calibration import Calibration
from hrseg.callbacks.checkpoint_io import AtomicCheckpointIO
from hrseg.callbacks.contact_sheet import ContactSheet
from hrseg.callbacks.faults import Faults
from hrseg.callbacks.finite_loss import FiniteLoss
from hrseg.callbacks.label_warnings import LabelWarnings
from hrseg.callbacks.last_checkpoint import LastCheckpoint, StopOnSignal
from hrseg.callbacks.metrics_csv import MetricsCsv
from hrseg.callbacks.notebook_progress import NotebookProgress
from hrseg.callbacks.official_evaluation import OfficialEvaluation
from hrseg.callbacks.panels import PanelPictures
from hrseg.callbacks.prediction_files import PredictionFiles
from hrseg.callbacks.progress import PlainProgress, TerminalProgress
from hrseg.callbacks.progressive_resizing import ProgressiveResizing
from hrseg.callbacks.resume_check import ResumeCheck
from hrseg.callbacks.score_tables import ScoreTables, score_table
from hrseg.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BoundaryReport",
    "Calibration",
    "ContactSheet",
    "Faults",
    "FiniteLoss",
    "LabelWarnings",
    "LastCheckpoint",
    "MetricsCsv",
    "NotebookProgress",
    "OfficialEvaluation",
    "PanelPictures",
    "PlainProgress",
    "PredictionFiles",
    "ProgressiveResizing",
    "ResumeCheck",
    "ScoreTables",
    "StopOnSignal",
    "TerminalProgress",
    "Throughput",
    "score_table",
]
