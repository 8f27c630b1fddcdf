"""Lightning's advice that does not hold here."""

import logging
import re
import warnings

# By the beginning of its words.
IGNORED_WARNINGS = (
    "The 'train_dataloader' does not have many workers",  # data is in memory; workers would copy it
    "The 'val_dataloader' does not have many workers",
    "The 'test_dataloader' does not have many workers",
    "Checkpoint directory",  # it is not empty because the run is resumed
    "Experiment logs directory",  # AppendingCSVLogger keeps the files
    "The dirpath has changed",
    "You're using the WeightAveraging callback, but",  # the test evaluates both kinds of weights itself
    "The number of training batches",  # fewer than log_every_n_steps: the epoch's figures are logged
    "GPU available but not used",
    "The `srun` command is available on your system but is not used",  # nor need it be
    "You're resuming from a checkpoint that ended before the epoch ended",  # our sampler continues there
    "It is recommended to use `self.log('train/",  # the metric is already the mean over devices
    "`ModelCheckpoint(monitor=",  # a run that is stopped before its first validation
    "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6 on torch 2.11
)


def quiet_lightning() -> None:
    """Leave out what Lightning says of itself, but for what its profilers report."""
    for beginning in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", re.escape(beginning))
    if logging.getLogger().hasHandlers():  # Hydra's: Lightning's own would say everything a second time
        logging.getLogger("lightning").handlers.clear()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
