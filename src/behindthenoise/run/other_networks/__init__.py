"""
The calibration by itself, on predictions of any network (docs/other_networks.md): `btn calibrate`, `btn apply` and `btn levels`.

`arrays` opens and reads what is given, `checks` says what is wrong with it, `calibration` and `application` are the verbs, and
`folder` is what stands on disk between them.
"""

from behindthenoise.run.other_networks.application import apply, levels
from behindthenoise.run.other_networks.calibration import Options, calibrate
from behindthenoise.run.other_networks.checks import settings

__all__ = ["Options", "apply", "calibrate", "levels", "settings"]
