"""See the layout in CONTRIBUTING.md."""
