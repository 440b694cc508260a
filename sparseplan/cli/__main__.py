"""``python -m sparseplan.cli``."""

from sparseplan.cli import main

raise SystemExit(main())
