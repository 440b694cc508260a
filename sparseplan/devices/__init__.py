"""Device presets: one TOML file each, read by ``sparseplan.device``."""
