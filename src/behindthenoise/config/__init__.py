"""
The configuration: what a user may set, what each setting means, and which values make sense.

A module for each section of the file, `whole` for what must fit between them, `reading` for files and messages. Nothing heavier
than pydantic is imported here, because Snakemake reads the configuration at every start.
"""

from behindthenoise.config.calibration import CalibrationConfig
from behindthenoise.config.data import PairsConfig, Selection, SyntheticConfig, VolumeConfig, alike
from behindthenoise.config.inference import InferenceConfig
from behindthenoise.config.location import Source, Target
from behindthenoise.config.network import EnsembleConfig, NetworkConfig
from behindthenoise.config.reading import expect_each_key_once, load, parse, schema
from behindthenoise.config.regions import RegionConfig
from behindthenoise.config.section import SPACE_AXES, Axis, Role, Section, Space
from behindthenoise.config.split import SplitConfig
from behindthenoise.config.sweep import UNSWEPT, Point, SweepConfig, setting, written
from behindthenoise.config.tokens import TokensConfig
from behindthenoise.config.training import TrainingConfig
from behindthenoise.config.whole import Config

__all__ = [
    "SPACE_AXES",
    "UNSWEPT",
    "Axis",
    "CalibrationConfig",
    "Config",
    "EnsembleConfig",
    "InferenceConfig",
    "NetworkConfig",
    "PairsConfig",
    "Point",
    "RegionConfig",
    "Role",
    "Section",
    "Selection",
    "Source",
    "Space",
    "SplitConfig",
    "SweepConfig",
    "SyntheticConfig",
    "Target",
    "TokensConfig",
    "TrainingConfig",
    "VolumeConfig",
    "alike",
    "expect_each_key_once",
    "load",
    "parse",
    "schema",
    "setting",
    "written",
]
