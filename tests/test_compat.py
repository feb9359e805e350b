"""What RecBole needs of newer libraries is given, and what it does beside its work is undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from recbole_r3vae import compat

ANOMALY_MODE_AFTER = """
import sys, torch
from recbole_r3vae.config import Config
if {before}:
    torch.autograd.set_detect_anomaly(True, False)
Config({model!r}, "ml-100k", config_dict={{"device": "cpu"}})
print("recbole.model.sequential_recommender.sine" in sys.modules, torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
"""


@pytest.mark.parametrize("before", [False, True])
def test_looking_a_model_up_leaves_the_mode_of_autograd(before):
    """In a process of its own, since SINE is imported once."""
    script = ANOMALY_MODE_AFTER.format(before=before, model="SASRec")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    shown = done.stdout.split()
    assert shown == (["True", "True", "False"] if before else ["True", "False", "True"])


def test_a_model_that_recbole_lacks_is_an_error():
    with pytest.raises((ValueError, TypeError, AttributeError, ModuleNotFoundError)):
        compat.recbole_model("NoSuchModel")


def test_names_that_were_removed_are_there_again():
    compat.apply()
    assert np.float64(0.5) == np.float_(0.5) and np.str_("a") == np.unicode_("a") and isinstance(np.complex_(1j), complex)
    matrix = scipy.sparse.dok_matrix((2, 2))
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]
