"""Rates of a device from measurements of one's own: CSV in, a TOML device out.

``measurements`` reads the CSV (and says which columns it has), ``fit`` finds the rates, ``toml``
writes the device, ``template`` tells what of a plan to measure.
"""

from sparseplan.calibrate.fit import Calibration, Residual, calibrate
from sparseplan.calibrate.measurements import Measurement, parse_measurements, read_measurements
from sparseplan.calibrate.template import template
from sparseplan.calibrate.toml import device_to_toml

__all__ = [
    "Calibration",
    "Measurement",
    "Residual",
    "calibrate",
    "device_to_toml",
    "parse_measurements",
    "read_measurements",
    "template",
]
